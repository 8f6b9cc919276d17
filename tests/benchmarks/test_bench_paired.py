"""Two sides in turn: which is called slower, which is measured again, and how a side that fails is named."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sftref.conformance.benchmarks import paired, side
from sftref.conformance.benchmarks.judging.intervals import AMBIGUOUS, FAIL, PASS
from sftref.conformance.benchmarks.judging.verdict import WRONG, Judged, overall
from sftref.conformance.benchmarks.paired import Comparison, Question
from sftref.conformance.benchmarks.side import Side, SideError, interpreter, overlay
from sftref.conformance.core.settings import Settings

pytestmark = pytest.mark.once
QUESTION = Question(("old", ()), ("new", ()), 0.05, "quick")
Took = Callable[[int, np.random.Generator], float]


class FakeSide:
    """A side whose times are made up: `took` gives them by the number of the pair of processes."""

    def __init__(self, took: Took, process: int, exact: dict[str, float], log: list[str]) -> None:
        self.took, self.process, self.exact, self.log = took, process, exact, log
        self.rng = np.random.default_rng((process, len(log)))

    def send(self, method: str, *_: str) -> None:
        self.method = method

    def call(self, method: str) -> dict[str, Any]:
        self.send(method)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        self.log.append(self.method)
        if self.method == "describe":
            versions = {"jax": "0", "jaxlib": "0", "python": "3"}
            return {"versions": versions, "devices": "8 x cpu", "platform": "cpu", "entries": [("step[t]", "training")]}
        if self.method == "prepare":
            if self.exact.get("wrong"):
                raise SideError("after: it is wrong", hung=self.exact["wrong"] > 1)
            return {"work": {"examples": 8.0}, "exact": self.exact, "once": False}
        seconds = self.took(self.process, self.rng)
        return {"wall": seconds, "cpu": 1.0}

    def __enter__(self) -> FakeSide:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append("close")


def compared(
    monkeypatch: pytest.MonkeyPatch, after: Took, exact: dict[str, float] | None = None
) -> tuple[Judged, list[str]]:
    """The verdict on a side that takes so long, against one that takes 1 s with a scatter of 3 %."""
    log: list[str] = []
    started = iter(range(100))

    def start(name: str, *_: Any) -> FakeSide:
        process = next(started) // 2
        if name == "before":
            return FakeSide(lambda _, rng: float(np.exp(0.03 * rng.standard_normal())), process, {}, log)
        return FakeSide(after, process, exact or {}, log)

    monkeypatch.setattr(paired, "Side", start)
    (found,) = Comparison(QUESTION, lambda _: None).run()
    return found, log


def scattered(ratio: float) -> Took:
    return lambda _, rng: ratio * float(np.exp(0.03 * rng.standard_normal()))


def test_what_is_as_fast_passes_in_one_pair_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    found, log = compared(monkeypatch, scattered(1.0))
    assert found.word == PASS
    assert log.count("close") == 2


def test_what_is_slower_fails_and_was_asked_of_three_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    found, log = compared(monkeypatch, scattered(1.1))
    assert found.word == FAIL
    assert found.ratios["wall"].low > 1.025
    assert found.message.startswith("wall time 1.10 times")
    assert log.count("close") == 2 * paired.PROCESSES


def test_what_only_one_process_shows_is_not_called_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = compared(monkeypatch, lambda process, rng: scattered(1.4 if process == 0 else 1.0)(process, rng))
    assert found.word in (PASS, AMBIGUOUS)


def test_what_is_slower_by_less_than_matters_is_not_decided_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    found, log = compared(monkeypatch, lambda _, rng: 1.03 * float(np.exp(0.3 * rng.standard_normal())))
    assert found.word == AMBIGUOUS
    assert "needs about" in found.message
    assert log.count("round") == 2 * paired.LOOKS[-1]


def test_counts_that_must_be_nothing_fail_without_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for ratio in (1.0, 80.0):
        found, log = compared(monkeypatch, scattered(ratio), {"compilations later": 3})
        assert found.word == FAIL
        assert "compilations later 3, must be 0" in found.message
        assert log.count("close") == 2, "no other process has to confirm it"


def test_a_wrong_side_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = compared(monkeypatch, scattered(0.5), {"wrong": 1})
    assert found.word == overall([found]) == WRONG
    assert found.message == "after: it is wrong"


def test_a_hang_ends_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SideError):
        compared(monkeypatch, scattered(1.0), {"wrong": 2})


def test_against_names_an_interpreter_or_a_trainer() -> None:
    assert interpreter(sys.executable) == sys.executable
    assert interpreter("my.kit:Trainer") is None
    for word in ("/no/such/python", "nonsense"):
        with pytest.raises(SideError, match="must be a Python interpreter"):
            interpreter(word)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Side]:
    where = overlay(tmp_path)

    def started(*only: str, adapter: str = "sftref.conformance.adapters.template:Template") -> Side:
        settings = Settings(level="quick", devices=1, adapters=(adapter,))
        return Side("after", sys.executable, (settings, None, only, None), where)

    return started


def test_a_worker_times_benchmarks_and_goes_on_after_an_error(start: Callable[..., Side]) -> None:
    with start("dispatch") as after:
        described = after.call("describe")
        assert described["devices"] == "1 x cpu, small"
        assert described["entries"] == [("dispatch", "dispatch")]
        assert after.call("prepare", "dispatch")["once"] is False
        took = after.call("round")
        assert 0 < took["wall"] < 10
        with pytest.raises(SideError, match="after: KeyError: 'nothing'") as failure:
            after.call("prepare", "nothing")
        assert not failure.value.hung
        assert after.call("round")["cpu"] > 0
    assert after.process.returncode is not None


def test_a_call_that_fails_on_one_side_leaves_no_answer_unread(start: Callable[..., Side]) -> None:
    with start("dispatch") as before, start("dispatch", adapter="no_such_module:X") as after:
        for sides in ((before, after), (after, before)):
            with pytest.raises(SideError, match=r"after: AdapterError: .*no_such_module"):
                paired._both(sides, "prepare", "dispatch")
        assert before.call("describe")["entries"] == [("dispatch", "dispatch")]


def test_a_worker_is_not_imported_from_the_folder_it_starts_in(
    start: Callable[..., Side], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a checkout, whose `sftref/` has no `conformance` inside."""
    here = tmp_path / "checkout"
    (here / "sftref").mkdir(parents=True)
    (here / "sftref" / "__init__.py").touch()
    monkeypatch.chdir(here)
    with start("dispatch") as after:
        assert after.call("describe")["entries"] == [("dispatch", "dispatch")]


def test_a_worker_that_dies_or_hangs_is_named(start: Callable[..., Side], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side, "DEADLINE", 1.0)
    with start("dispatch") as after:
        os.kill(after.process.pid, signal.SIGSTOP)
        with pytest.raises(SideError, match="after: no answer within 1 s") as failure:
            after.call("describe")
        assert failure.value.hung
        after.process.kill()
        with pytest.raises(SideError, match="after: SIGKILL") as failure:
            after.call("describe")
        assert failure.value.hung
