"""Two sides in turn: which is called slower, which is measured again, and how a side that fails is named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sftref.conformance.benchmarks import paired
from sftref.conformance.benchmarks.judging.intervals import AMBIGUOUS, FAIL, PASS
from sftref.conformance.benchmarks.judging.verdict import WRONG, Judged, overall
from sftref.conformance.benchmarks.paired import Comparison
from sftref.conformance.benchmarks.side import DEADLINE, interpreter, overlay, start
from sftref.conformance.core.settings import Settings
from sftref.conformance.workers.channel import NoAnswer, Worker, WorkerError, call

pytestmark = pytest.mark.once
Took = Callable[[int, np.random.Generator], float]


class FakeSide:
    """A side whose times are made up: `took` gives them by the number of the pair of processes."""

    def __init__(self, took: Took, process: int, exact: dict[str, float], log: list[str]) -> None:
        self.took, self.process, self.exact, self.log = took, process, exact, log
        self.rng = np.random.default_rng((process, len(log)))

    def call(self, method: str) -> dict[str, Any]:
        self.log.append(method)
        if method == "describe":
            versions = {"jax": "0", "jaxlib": "0", "python": "3"}
            return {"versions": versions, "devices": "8 x cpu", "platform": "cpu", "entries": ["step[t]"]}
        if method == "prepare":
            if self.exact.get("wrong"):
                raise WorkerError({"after": NoAnswer("it is wrong", silent=self.exact["wrong"] > 1)})
            return {"work": {"examples": 8.0}, "exact": self.exact, "once": False}
        return {"wall": self.took(self.process, self.rng), "cpu": 1.0}

    def __enter__(self) -> FakeSide:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append("close")


def compared(
    monkeypatch: pytest.MonkeyPatch, after: Took, exact: dict[str, float] | None = None
) -> tuple[Judged, list[str]]:
    """The verdict on a side that takes so long, against one that takes 1 s with a scatter of 3 %; and all calls."""
    log: list[str] = []
    started = iter(range(100))

    def start(python: str, *_: Any) -> FakeSide:
        process = next(started) // 2
        if python == "old":
            return FakeSide(lambda _, rng: float(np.exp(0.03 * rng.standard_normal())), process, {}, log)
        return FakeSide(after, process, exact or {}, log)

    monkeypatch.setattr(paired, "start", start)
    monkeypatch.setattr(paired, "call", lambda sides, method, *_, **__: [s.call(method) for s in sides.values()])
    (judged,) = Comparison(("old", ()), ("new", ()), 0.05, "quick", tell=lambda _: None).run()
    return judged, log


def scattered(ratio: float) -> Took:
    return lambda _, rng: ratio * float(np.exp(0.03 * rng.standard_normal()))


def test_the_same_speed_passes_in_one_pair_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    judged, log = compared(monkeypatch, scattered(1.0))
    assert judged.word == PASS
    assert log.count("close") == 2


def test_a_slower_side_fails_after_three_pairs_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    judged, log = compared(monkeypatch, scattered(1.1))
    assert judged.word == FAIL
    assert judged.ratios["wall"].low > 1.025
    assert judged.message.startswith("wall time 1.10 times")
    assert log.count("close") == 2 * paired.PROCESSES


@pytest.mark.parametrize("seed", range(4))
def test_five_per_cent_are_seen_although_a_pair_scatters_by_twelve(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(seed)
    judged, log = compared(monkeypatch, lambda *_: 1.05 * float(np.exp(0.116 * noise.standard_normal())))
    assert judged.word == FAIL
    assert log.count("round") >= 2 * (paired.LOOKS[0] + 2 * paired.CONFIRMING), "further pairs of processes say enough"


def test_a_side_that_is_slow_in_one_process_only_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    judged, _ = compared(monkeypatch, lambda process, rng: scattered(1.4 if process == 0 else 1.0)(process, rng))
    assert judged.word in (PASS, AMBIGUOUS)


def test_a_slow_down_that_is_too_small_to_matter_is_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    judged, log = compared(monkeypatch, lambda _, rng: 1.03 * float(np.exp(0.3 * rng.standard_normal())))
    assert judged.word == AMBIGUOUS
    assert "needs about" in judged.message
    assert log.count("round") == 2 * paired.LOOKS[-1]


def test_counts_that_must_be_0_fail_without_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for ratio in (1.0, 80.0):
        judged, log = compared(monkeypatch, scattered(ratio), {"compilations later": 3})
        assert judged.word == FAIL
        assert "compilations later 3, must be 0" in judged.message
        assert log.count("close") == 2, "no other process has to confirm it"


def test_a_wrong_side_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    judged, _ = compared(monkeypatch, scattered(0.5), {"wrong": 1})
    assert judged.word == overall([judged]) == WRONG
    assert judged.message == "after: it is wrong"


def test_a_hang_ends_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkerError) as failure:
        compared(monkeypatch, scattered(1.0), {"wrong": 2})
    assert failure.value.hung


def test_against_names_an_interpreter_or_a_trainer() -> None:
    assert interpreter(sys.executable) == sys.executable
    assert interpreter("my.kit:Trainer") is None
    for word in ("/no/such/python", "nonsense"):
        with pytest.raises(ValueError, match="must be a Python interpreter"):
            interpreter(word)


@pytest.fixture
def started(tmp_path: Path) -> Callable[..., dict[str, Worker]]:
    where = overlay(tmp_path)

    def start_side(adapter: str = "sftref.conformance.adapters.template:Template") -> dict[str, Worker]:
        settings = Settings(level="quick", devices=1, adapters=(adapter,))
        return {"after": start(sys.executable, (settings, None, ["dispatch"], None), where)}

    return start_side


def test_a_worker_times_benchmarks_and_goes_on_after_an_error(started: Callable[..., dict[str, Worker]]) -> None:
    side = started()
    with side["after"]:
        [described] = call(side, "describe", seconds=DEADLINE)
        assert described["devices"] == "1 x cpu, small"
        assert described["entries"] == ["dispatch"]
        [prepared] = call(side, "prepare", "dispatch", seconds=DEADLINE)
        assert prepared["once"] is False
        with pytest.raises(WorkerError, match="after: KeyError: 'nothing'") as failure:
            call(side, "prepare", "nothing", seconds=DEADLINE)
        assert not failure.value.lost
        [times] = call(side, "round", seconds=DEADLINE)
        assert 0 < times["wall"] < 10
        assert times["cpu"] > 0


def test_a_worker_is_not_imported_from_the_folder_it_starts_in(
    started: Callable[..., dict[str, Worker]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a checkout, whose `sftref/` has no `conformance` inside."""
    here = tmp_path / "checkout"
    (here / "sftref").mkdir(parents=True)
    (here / "sftref" / "__init__.py").touch()
    monkeypatch.chdir(here)
    side = started("no_such_module:X")
    with side["after"], pytest.raises(WorkerError, match=r"^after: AdapterError: .*no_such_module") as failure:
        call(side, "describe", seconds=DEADLINE)
    assert not failure.value.lost
