"""The progress of a run: the time left, from an earlier run where there is one."""

import json
from pathlib import Path

import pytest
from sftref.conformance.core.settings import Settings
from sftref.conformance.report import explain, terminal

IDS = ["copies.round_trip", "copies.between", "operators.gelu", "step.update[mesh]"]


@pytest.mark.parametrize(
    ("before", "done", "left"),
    [
        ({}, 1, "about 300 s left"),
        ({}, 3, "about 33 s left"),
        (dict(zip(IDS, (1.0, 1.0, 2.0, 16.0), strict=True)), 3, "about 400 s left"),
        # One that did not run then is taken to be as long as the others.
        (dict(zip(IDS, (1.0, 1.0, 1.0), strict=False)), 3, "about 33 s left"),
        ({}, 0, ""),
    ],
)
def test_the_time_left(
    before: dict[str, float], done: int, left: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = terminal.Screen(Settings(), before)
    screen.begin(IDS)
    screen.began = screen.printed = 1000.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: 1100.0)
    screen.waiting(IDS[:done], [IDS[-1]])
    progress = capsys.readouterr().err
    assert f"{done} of 4 checks done{left and f', {left}'}; now {IDS[-1]}" in progress


def test_the_time_left_does_not_grow_while_a_check_hangs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = terminal.Screen(Settings(), {})
    screen.begin(IDS)
    screen.began = screen.printed = 1000.0
    lines = []
    for now in (1100.0, 1200.0, 1290.0, 1500.0):
        monkeypatch.setattr(terminal.time, "monotonic", lambda now=now: now)
        screen.waiting(IDS[:1], [IDS[-1]])
        lines.append(capsys.readouterr().err.partition("done")[2].strip())
    assert lines == [f"{left}; now {IDS[-1]}" for left in (
        ", about 300 s left", ", about 200 s left", ", about 110 s left", ""
    )]  # fmt: skip


def test_what_did_not_run_before_says_nothing_about_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [
        {"id": IDS[0], "status": "pass", "seconds": 2.5},
        {"id": IDS[1], "status": "not_run", "seconds": 0.0},
        {"id": IDS[2], "status": "blocked", "seconds": 0.0},
    ]
    report = {"settings": {"level": "quick"}, "checks": checks}
    monkeypatch.setattr("sftref.conformance.report.explain.read_report", lambda path: json.loads(json.dumps(report)))
    assert explain.seconds_before(tmp_path, "quick") == {IDS[0]: 2.5}
    assert explain.seconds_before(tmp_path, "standard") == {}
