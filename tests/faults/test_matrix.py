"""The kill matrix: its rows, counts and tables, and how an interrupted run continues."""

import concurrent.futures
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sftref.conformance.core.fault import Fault, changes, faults
from sftref.conformance.core.law import LADDER, Law, laws
from sftref.conformance.core.result import Result
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults import __main__ as command
from sftref.conformance.faults import selftest
from sftref.conformance.faults import trial as trial_module
from sftref.conformance.faults.picture import draw
from sftref.conformance.faults.selftest import gathered, markdown
from sftref.conformance.faults.trial import as_run
from sftref.conformance.judge.diagnosis import diagnose

pytestmark = pytest.mark.once

FAULT, LAW = "fast-rsqrt", "operators.layer_norm"


def row(name: str, statuses: dict[str, str], layer: str | None) -> dict[str, Any]:
    entry = (faults() | changes())[name]
    return {
        "id": name, "does": entry.does, "expected_layer": entry.layer, "expected": list(entry.seen_by), "layer": layer,
        "cause": "", "seen_by": [law for law, status in statuses.items() if status == "fail"], "laws": statuses,
        "messages": {law: "a | b" for law, status in statuses.items() if status != "pass"}, "seconds": 1.0,
    }  # fmt: skip


def test_the_counts_of_the_matrix(tmp_path: Path) -> None:
    rows = [
        row(FAULT, {LAW: "fail", "operators.tanh": "pass"}, "operator"),
        row("fast-log", {"operators.cross_entropy": "fail", LAW: "fail"}, "precision"),
        row("tanh-cut-at-4", {"operators.tanh": "pass"}, None),
        row("sums-by-halves", {LAW: "pass"}, None),
        row("five-devices", {"copies.sharded": "error"}, "copy"),
    ]
    content = gathered(rows, Settings())
    summary = {"seeded": 3, "killed": 2, "attributed": 1, "equivalent": 2, "false_alarms": 1}
    assert content["summary"] == summary
    assert (content["survivors"], content["misattributed"]) == (["tanh-cut-at-4"], ["fast-log"])
    assert content["seen_by_one_law"] == {FAULT: LAW}
    assert LAW not in content["idle_laws"]
    assert "operators.tanh" in content["idle_laws"]
    text = markdown(content)
    for part in ("2 of 3 seeded faults", "## Not seen", "## False alarms", "a \\| b"):
        assert part in text
    assert draw(content, tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG")


def test_laws_that_a_run_would_block_look_for_no_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: dict[str, bool] = {}

    def trials(fault: Fault, runs: list[tuple[str, Settings]], *, narrows: Callable[[Law], bool]) -> Iterator[Result]:
        for name, _ in runs:
            looks[name] = narrows(laws()[name])
            yield Result.ended(laws()[name], fault.id, "fail" if name == "step.update" else "pass", "", 1.0)

    monkeypatch.setattr(trial_module, "trials", trials)
    trial_module.row(faults()["missing-all-reduce"], Settings())
    blocked = {law.id for law in laws().values() if 6 in LADDER[law.rung].needs} & looks.keys()
    assert {name for name, look in looks.items() if not look} == blocked != set()


def test_a_matrix_that_was_interrupted_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[str]] = []

    def rows(entries: list[Fault], settings: Settings) -> list[dict[str, Any]]:
        made.append([entry.id for entry in entries])
        return [row(entry.id, dict.fromkeys(entry.seen_by, "fail"), entry.layer) for entry in entries]

    monkeypatch.setattr(selftest, "_rows", rows)
    monkeypatch.setattr(selftest, "draw", lambda content, path: False)
    both = [FAULT, "fast-log"]
    assert selftest.run(Settings(), tmp_path, [FAULT]) == 0
    with (tmp_path / selftest.ROWS).open("a", encoding="utf-8") as file:
        file.write('{"made_by": "half a li')
    assert selftest.run(Settings(), tmp_path, both) == 0
    assert selftest.run(Settings(), tmp_path, both) == 0
    content = json.loads((tmp_path / "matrix.json").read_text(encoding="utf-8"))
    assert content["summary"]["killed"] == 2
    assert selftest.run(Settings(seed=1), tmp_path, [FAULT]) == 0, "rows of another seed are made anew"
    assert made == [[FAULT], ["fast-log"], [], [FAULT]]


def test_an_error_ends_the_matrix_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def failing(entry: Fault, _: Settings) -> None:
        tried.append(entry.id)
        time.sleep(0.02)
        raise RuntimeError(entry.id)

    monkeypatch.setattr(selftest, "_row", failing)
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    with pytest.raises(RuntimeError):
        list(selftest._rows(list(faults().values())[:50], Settings()))
    assert len(tried) < 50


def test_a_matrix_leaves_out_what_its_level_cannot_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert selftest.run(Settings(level="quick"), tmp_path, ["a-rank-that-hangs"]) == 5
    assert "left out, as they are seen from a higher level on: a-rank-that-hangs" in capsys.readouterr().err
    assert "`a-rank-that-hangs`" in (tmp_path / "matrix.md").read_text(encoding="utf-8")
    assert command.main(["--read", "a-rank-that-hangs", "--level", "quick"]) == 2
    assert "raise --level, which is quick" in capsys.readouterr().err


def test_a_fault_of_the_machine_is_judged_as_in_a_run() -> None:
    """There, a known deviation of a lower rung is no cause: only one of the same trainer can be."""
    accepted = Result.ended(laws()["collectives.non_finite"], FAULT, "deviation", "known bug of maxima", 1.0)
    wrong = Result.ended(laws()[LAW], FAULT, "fail", "off", 1.0)
    outcome = as_run(faults()[FAULT], {accepted.law: accepted, LAW: wrong}, Settings())
    assert (outcome.expected, outcome.on_cpu) == ([accepted.law, LAW], True)
    diagnosis = diagnose(outcome)
    assert diagnosis is not None
    assert (diagnosis["layer"], diagnosis["cause"]) == (faults()[FAULT].layer, laws()[LAW].cause)


def test_a_matrix_of_chosen_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(selftest, "run", lambda settings, out, ids: asked.append(ids) or 0)
    change = next(iter(changes()))
    assert command.main(["--matrix", str(tmp_path), "--fault", change, "--fault", FAULT]) == 0
    assert asked == [[change, FAULT]]


def test_an_equivalent_change_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    change = next(iter(changes()))
    assert command.main(["--fault", change]) == 2
    assert f"--fault = {change}, must be one of {len(faults())}" in capsys.readouterr().err
