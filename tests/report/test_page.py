"""The pages of a report: complete, and well formed for any report.json. `browser/check_page.py` opens one."""

import html
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sftref.conformance.benchmarks.judging.intervals import Ratio
from sftref.conformance.benchmarks.judging.verdict import Judged
from sftref.conformance.benchmarks.page import document as bench_document
from sftref.conformance.core.result import STATUSES
from sftref.conformance.core.sections import inline
from sftref.conformance.judge.outcome import Outcome
from sftref.conformance.judge.verdict import judge
from sftref.conformance.report.document import document
from sftref.conformance.report.page import markdown, page
from sftref.conformance.report.pictures import FIRST, WIDTH, curves, matrix, scale
from test_report import NASTY, made

from sftref import cli

EMPTY = {"meta", "input", "br"}


class Reader(HTMLParser):
    """Follows the tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def checks(self) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.seen if attrs.get("class") == "check"]


def content(outcome: Outcome) -> dict[str, Any]:
    return document(outcome, judge(outcome))


def test_a_page_is_well_formed_for_any_text() -> None:
    report = content(made(setup=NASTY))
    report["faults"] = [{"id": "<b>", "layer": "&", "does": "a < b", "status": "survived", "expected": ["step.update"],
                        "seen_by": ["step.loss"], "message": "", "seconds": 1.0}]  # fmt: skip
    report["findings"] = [
        {"id": "x", "level": "broken", "what": "<i>", "why": "w", "next": "n", "source": "https://a.b"}
    ]
    report["checks"][0]["facts"] |= {
        "losses": [0.7, "nan", 0.5],
        "floor": {"float32": {"all": 1e-6, "noise": 0}},
    }
    report["checks"][0]["subject"] = "mesh"
    text = page(report)
    read = Reader(text)
    assert read.open == []
    assert {"d", "i"} & {tag for tag, _ in read.seen} == set()
    assert not {"src", "srcset"} & {name for _, attrs in read.seen for name in attrs}
    assert not re.search(r"@import|url\(", text)
    assert all(attrs.get("aria-label") for tag, attrs in read.seen if tag == "svg")
    labels = {attrs.get("id") for tag, attrs in read.seen}
    assert {"words", "status", "rung", "subject", "open", "clear", "count"} <= labels, "used by page.js"


def test_both_formats_show_the_same_sections() -> None:
    report = content(made(troubles=["a child hung at exit"]))
    report["checks"][0]["facts"]["floor"] = {"float32": {"all": 1e-6, "tensor": 2e-6, "element": 1e-5, "noise": 1e-7}}
    shown, text = page(report), markdown(report)
    titles = re.findall(r"<h2[^>]*>([^<]+)</h2>", shown)
    assert titles == re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert {"Ladder", "Checks", "Margins", "Detection floors", "Problems of child processes"} <= set(titles)
    for fact in ("a child hung at exit", "2.0e-06", *(check["cause"] for check in report["checks"][1:5])):
        assert html.escape(fact) in shown
        assert inline(fact) in text


def test_failed_checks_come_first_and_open() -> None:
    checks = Reader(page(content(made()))).checks()
    assert sorted(str(check["data-status"]) for check in checks) == sorted(STATUSES)
    first = [check["data-status"] for check in checks if "open" in check]
    assert first == [check["data-status"] for check in checks][: len(first)]
    assert set(first) == {"fail", "error", "hang", "crash"}


def test_a_conformant_run_has_no_diagnosis() -> None:
    text = page(content(made(("pass",))))
    assert '<h1 class="good">✓ CONFORMANT</h1>' in text
    assert "Diagnosis" not in text
    assert 'class="card' not in text


def test_a_scale_has_all_numbers_on_one_axis() -> None:
    check = {"bound": 1e-6, "measured": 1e-7, "noise": 1e-8, "control": 1.0, "facts": {"floor": {"f": {"all": 2e-7}}}}
    shown = scale(check)
    assert 'aria-label="error 1e-07, noise 1e-08, bound 1e-06, floor 2e-07, control 1"' in shown
    assert "var(--good)" in shown
    (dot,) = re.findall(r'cx="([\d.]+)"', shown)
    (bar,) = re.findall(r'<rect x="([\d.]+)"', shown)
    assert 0 < float(dot) < float(bar) < WIDTH
    assert 'r="4.5" fill="var(--bad)"' in scale(check | {"measured": 2e-6})
    assert f'cx="{float(re.findall(r"cx=.([0-9.]+)", scale(check | {"measured": 0.0}))[0]):.1f}"' in scale(
        check | {"measured": 10.0 ** (FIRST - 5)}
    ), "a value below the axis is at its end"
    assert scale(check | {"bound": 0.0}) == "", "bit for bit has no scale"


def test_equal_curves_of_two_trainers_are_both_visible() -> None:
    shown = curves({"pmap": [0.7, 0.6, 0.5], "mesh": [0.7, 0.6, 0.5]}, "loss")
    first, second = re.findall(r'points="([^"]+)"', shown)
    assert first == second
    assert len(set(re.findall(r"stroke-width=\"([\d.]+)\"", shown))) == 2, "both can be seen"
    assert curves({"mesh": [float("nan")]}, "loss") == ""


def test_the_matrix_marks_faults_that_were_not_seen() -> None:
    fault = {"id": "f", "status": "survived", "expected": ["a"], "seen_by": []}
    assert 'stroke="var(--bad)"' in matrix([fault])
    seen = matrix([fault | {"status": "killed", "seen_by": ["a"]}])
    assert 'stroke="var(--bad)"' not in seen
    assert "1 of 1 seeded faults were seen, by 1 laws" in seen


def test_speed_is_a_section_of_the_same_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, bench = tmp_path / "report.json", tmp_path / "bench.json"
    source.write_text(json.dumps(content(made(("pass",)))))
    slower = Judged("step[mesh]", "FAIL", {"wall": Ratio(1.2, 1.1, math.inf, 9)}, "slower")
    bench.write_text(json.dumps(bench_document([slower], "1 x cpu", 0.05, {})))
    assert cli.main(["report", str(source), "--bench", str(bench)]) == 0
    seen = (tmp_path / "report.html").read_text()
    assert not Reader(seen).open
    assert '<h2 id="speed">Speed: FAIL</h2>' in seen
    assert "step[mesh]" in seen
    assert "wall time 1.20 times (1.10 to any)" in seen
    for text, message in (("[]", "is no bench.json"), ("{", "is no bench.json"), ('{"verdict": "PASS"}', "KeyError")):
        bench.write_text(text)
        assert cli.main(["report", str(source), "--bench", str(bench), "--out", str(tmp_path / "other.html")]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "other.html").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "report.json"
    source.write_text(json.dumps(content(made(("pass",)))))
    assert cli.main(["report", str(source)]) == 0
    assert capsys.readouterr().out == f"CONFORMANT: {tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    for text, message in (
        ("{", "cannot be read"),
        ("{}", "is not a report"),
        ('{"schema": "sftref.report/1"}', "KeyError"),
    ):
        source.write_text(text)
        assert cli.main(["report", str(source), "--out", str(tmp_path / "other.html")]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "other.html").exists()
