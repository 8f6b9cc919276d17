"""Steps that are not waited for: in this process where that is safe, in another one where JAX is known to hang."""

import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from kit import numbers, run_law
from sftref.conformance.core.check import Known
from sftref.conformance.core.law import laws
from sftref.conformance.core.result import Result
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults import trial
from sftref.conformance.laws.machine import test_2_unwaited as unwaited
from sftref.conformance.workers.channel import NoAnswer

pytestmark = pytest.mark.jax


@pytest.mark.parametrize(
    ("platform", "version", "wanted"),
    [
        ("cpu", "0.5.3", True), ("cpu", "0.10.2", True), ("cpu", "0.11.2", True), ("cpu", "0.12.0", False),
        ("cpu", "0.12.0.1", False), ("gpu", "0.10.2", False), ("tpu", "0.5.3", False),
    ],
)  # fmt: skip
def test_where_it_can_hang(platform: str, version: str, wanted: bool) -> None:
    """Threads that run out are the simulated devices', and enough from 0.12 on."""
    assert unwaited.can_hang(platform, version) is wanted


def test_every_number_of_every_step_counts() -> None:
    """A number that is wrong by one, on one device in the first step, is still wrong after the last one."""
    first = numbers().integers(0, unwaited.PRIME, (8, 3)).astype(np.int32)
    other = first.copy()
    other[5, 1] += 1
    end, changed = (unwaited.expected(x, unwaited.STEPS) for x in (first, other))
    assert (end[:, 1] != changed[:, 1]).all()
    assert (end[:, 0] == changed[:, 0]).all()
    devices = jax.devices()[:8]
    assert (unwaited.trajectory(devices, first, unwaited.FEW) == end).all()


@pytest.fixture(autouse=True)
def _not_cached() -> Iterator[None]:
    unwaited.hung.cache_clear()
    yield
    unwaited.hung.cache_clear()


def test_with_threads_enough_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way out that a report names, in a real process."""
    monkeypatch.setenv("NPROC", "64")
    assert unwaited.hung(8) is None


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[NoAnswer | None], list[str]], None]:
    """Replaces the process by one that gives these answers and has this output."""

    def replace(answers: list[NoAnswer | None], output: list[str]) -> None:
        worker = unittest.mock.MagicMock(output=output)
        worker.__enter__.return_value = worker
        worker.ask.side_effect = answers
        monkeypatch.setattr(unwaited, "Worker", lambda *_: worker)

    return replace


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (NoAnswer("no answer within 20 s; it was in take (machine/test_2_unwaited.py:1)", silent=True), []),
        (NoAnswer("SIGABRT; last output: F0 rendezvous.cc:127 not all", code=-6), ["F0 rendezvous.cc:127 not all"]),
    ],
)
def test_a_hang_is_a_known_deviation(
    answer: NoAnswer, output: list[str], answering: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock, or by XLA's own end; with the way out, and no failure. One process answers for all calls."""
    answering([None, answer], output)
    monkeypatch.setattr(unwaited, "can_hang", lambda *_: True)
    for _ in range(2):
        with pytest.raises(Known) as known:
            run_law("collectives.unwaited", Settings(level="quick", devices=4))
        assert answer.how in str(known.value)
    assert "NPROC=32" in str(known.value)
    record = Result.of(laws()["collectives.unwaited"], None, None, known.value, 1.0, "")
    assert record.status == "deviation"


@pytest.mark.parametrize(
    "answers",
    [
        [NoAnswer("exit code 1; last output: ModuleNotFoundError: No module named 'conformance'", code=1)],
        [NoAnswer("no answer within 120 s", silent=True)],
        [None, NoAnswer("RuntimeError: out of memory")],
    ],
)
def test_a_process_that_fails_otherwise_is_no_hang(
    answers: list[NoAnswer | None], answering: Callable[..., None]
) -> None:
    """A kit that its own child does not find, a JAX that does not start, an error."""
    answering(answers, [])
    with pytest.raises(RuntimeError) as error:
        unwaited.hung(8)
    assert answers[-1] is not None
    assert str(error.value).endswith(f"on 8 simulated devices: {answers[-1].how}")


def test_where_it_cannot_hang_no_step_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no process is started."""
    waiting: list[Any] = []

    def taken(devices: list[Any], first: np.ndarray, waits: int | None) -> np.ndarray:
        waiting.append(waits)
        return unwaited.expected(first, unwaited.STEPS)

    monkeypatch.setattr(unwaited, "trajectory", taken)
    monkeypatch.setattr(unwaited, "hung", lambda _: pytest.fail("a process was started"))
    monkeypatch.setattr(unwaited, "can_hang", lambda *_: False)
    run_law("collectives.unwaited", Settings(level="quick", devices=4))
    assert waiting == [None]


def test_the_known_hang_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`forget` drops what was compiled; without the cache of `hung` a row of the kill matrix took 30 s more."""
    monkeypatch.setattr(unwaited, "Worker", child := unittest.mock.MagicMock())
    unwaited.hung.cache_clear()
    for _ in range(2):
        assert unwaited.hung(7) is None
        trial.forget()
    unwaited.hung.cache_clear()
    assert child.call_count == 1
