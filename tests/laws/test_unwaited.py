"""Steps that nobody waits for: asked where that is safe, and in a process of their own where JAX is known to hang."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from sftref.conformance.core.check import Known
from sftref.conformance.core.law import laws
from sftref.conformance.core.result import Result
from sftref.conformance.laws.machine import test_2_unwaited as rung2
from sftref.conformance.laws.support import unwaited
from test_laws_machine import ask, numbers

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
    """One that is off by one, on one device in the first step, is still seen at the end, and there are the steps."""
    first = numbers().integers(0, unwaited.PRIME, (8, 3)).astype(np.int32)
    other = first.copy()
    other[5, 1] += 1
    end, changed = (rung2.wanted(x, unwaited.STEPS) for x in (first, other))
    assert (end[:, 1] != changed[:, 1]).all()
    assert (end[:, 0] == changed[:, 0]).all()
    devices = jax.devices()[:8]
    assert (unwaited.trajectory(devices, first, unwaited.FEW) == end).all()


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    unwaited._ended.cache_clear()
    yield
    unwaited._ended.cache_clear()


def test_with_threads_enough_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way out that a report names, in a real process."""
    monkeypatch.setenv("NPROC", "64")
    assert unwaited.hung(8) is None


@pytest.mark.parametrize(
    ("code", "said", "wanted"),
    [
        (1, "Timeout (0:00:20)!\nThread 0x1 (most recent call first):", "no answer within 20 s"),
        (-signal.SIGABRT, "F0 rendezvous.cc:127 not all of them arrived", "SIGABRT: F0 rendezvous.cc:127 not all"),
    ],
)  # fmt: skip
def test_a_hang_is_a_known_deviation(code: int, said: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock, or by XLA's own end; with the way out, and no failure."""
    ended = subprocess.CompletedProcess([], code, f"{unwaited.WAITED}\n", said)
    monkeypatch.setattr(unwaited.subprocess, "run", lambda *_, **__: ended)
    monkeypatch.setattr(rung2, "can_hang", lambda *_: True)
    with pytest.raises(Known, match=wanted) as found:
        ask(rung2.test_unwaited, "collectives.unwaited")
    monkeypatch.setattr(unwaited.subprocess, "run", lambda *_, **__: pytest.fail("another process was asked"))
    with pytest.raises(Known, match=wanted):
        ask(rung2.test_unwaited, "collectives.unwaited")
    assert "NPROC=32" in str(found.value)
    record = Result.of(laws()["collectives.unwaited"], None, None, found.value, 1.0, "")
    assert record.status == "deviation"


@pytest.mark.parametrize("said", ["ModuleNotFoundError: No module named 'conformance'", "Timeout (0:02:00)!"])
def test_a_child_that_does_not_come_to_its_steps_is_no_hang(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both were, once: a kit that was not found by its own child, and a JAX that does not start."""
    ended = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(unwaited.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(RuntimeError, match=r"exit code 1; it said: (ModuleNotFoundError|Timeout)"):
        unwaited.hung(8)


def test_where_it_cannot_hang_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no process is started."""
    asked: list[Any] = []

    def waited(devices: list[Any], first: np.ndarray, waits: int | None) -> np.ndarray:
        asked.append(waits)
        return rung2.wanted(first, unwaited.STEPS)

    monkeypatch.setattr(rung2, "trajectory", waited)
    monkeypatch.setattr(rung2, "hung", lambda _: pytest.fail("a process was started"))
    monkeypatch.setattr(rung2, "can_hang", lambda *_: False)
    ask(rung2.test_unwaited, "collectives.unwaited")
    assert asked == [None]
