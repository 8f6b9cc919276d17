"""The reports of a run: valid, complete, and safe for any text in a message."""

import dataclasses
import json
import math
from pathlib import Path
from xml.etree import ElementTree as Xml

import jsonschema
import numpy as np
import pytest
from ladders import KIT
from sftref.conformance import report
from sftref.conformance.core.law import check_id, laws
from sftref.conformance.core.result import STATUSES, Result, plain
from sftref.conformance.core.settings import Settings
from sftref.conformance.judge.diagnosis import advice
from sftref.conformance.judge.outcome import Outcome
from sftref.conformance.judge.verdict import CODES, judge
from sftref.conformance.machine import snapshot
from sftref.conformance.machine.remedies import Tries, Try
from sftref.conformance.report.compare import compare
from sftref.conformance.report.document import document
from sftref.conformance.report.explain import read_report
from sftref.conformance.report.page import margins

SCHEMA = json.loads((KIT / "report" / "report.schema.json").read_text())
MACHINE = [law for law in laws().values() if law.per == "machine"]
# A message with markup of Markdown and XML, a table's bar, fences, control characters, half a surrogate.
NASTY = "a | b `c` ```\n<d> & [e](f) *g* \x1b[31m\x00 \ud800 ]]>"
ENVIRONMENT = snapshot.static({"JAX_X": NASTY})


NASTY_TRY = Try(id=NASTY, words=NASTY, does=NASTY, source=NASTY, result="mends", message=NASTY, everything=NASTY)


def made(statuses: tuple[str, ...] = STATUSES, **more: object) -> Outcome:
    """One check of each status, all with a message that needs escaping."""
    outcome = Outcome(settings=Settings(), expected=[], environment=dict(ENVIRONMENT), **more)
    for law, status in zip(MACHINE, statuses, strict=False):
        record = Result.ended(law, None, status, NASTY if status != "pass" else "", 2.0)
        facts = {"compile_seconds": 0.5, "stderr": [NASTY]}
        outcome.records[law.id] = dataclasses.replace(
            record, measured=0.2, bound=0.5, noise=0.1, margin=0.4, median_margin=0.1, comparisons=3, compared=30,
            bound_from="n u | derived", worst="w", facts=facts, repro="sftref verify",
        )  # fmt: skip
        outcome.expected.append(law.id)
    return outcome


def content(outcome: Outcome) -> dict[str, object]:
    return document(outcome, judge(outcome))


def test_an_exception_is_not_explained_by_the_law() -> None:
    """For a typing error in an adapter, the law's own cause would point at the optimizer."""
    law = laws()["step.update"]
    failed, raised = (Result.ended(law, "mine", status, "KeyError", 0.0) for status in ("fail", "error"))
    assert advice(failed) == (law.cause, law.next_step)
    assert "raised an exception" in advice(raised)[0]


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("verdict", CODES)
def test_every_verdict_has_a_valid_report(verdict: str, tmp_path: Path) -> None:
    made_of = {
        "CONFORMANT": made(("pass",)),
        "NONCONFORMANT": made(),
        "WORKAROUND": made(tries=Tries(asked=[NASTY], unchanged=2, tries=[NASTY_TRY], workaround=NASTY)),
        "SETUP": made(("not_run",), setup=NASTY),
        "UNRESPONSIVE": made(("pass", "hang")),
        "INCOMPLETE": made(("pass", "not_run"), interrupted=130),
        "UNTRUSTED": made(("not_run",)),
    }
    outcome = made_of[verdict]
    report.write(tmp_path, outcome, judge(outcome))
    written = read_report(tmp_path / "report.json")
    jsonschema.validate(written, SCHEMA, jsonschema.Draft202012Validator)
    assert written["verdict"] == verdict
    assert (written["diagnosis"] is None) == (verdict == "CONFORMANT")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["junit.xml", "report.html", "report.json", "report.md"]


def test_each_status_is_in_all_files(tmp_path: Path) -> None:
    outcome = made()
    report.write(tmp_path, outcome, judge(outcome))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    cases = {case.get("name"): case for case in Xml.parse(tmp_path / "junit.xml").iter("testcase")}
    assert [check["status"] for check in content(outcome)["checks"]] == list(STATUSES)
    for record in outcome.ended():
        assert record.status == "pass" or f"`{record.id}`" in text
        tags = [child.tag for child in cases[record.id]]
        assert tags == {
            "pass": [], "fail": ["failure"], "error": ["error"], "hang": ["error"], "crash": ["error"]
        }.get(record.status, ["skipped"])  # fmt: skip


def test_junit_counts_are_those_of_its_cases(tmp_path: Path) -> None:
    outcome = made()
    report.write(tmp_path, outcome, judge(outcome))
    for suite in Xml.parse(tmp_path / "junit.xml").iter("testsuite"):
        cases = suite.findall("testcase")
        assert int(suite.get("tests")) == len(cases)
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(name)) == len(suite.findall(f"testcase/{tag}"))


def test_a_message_stays_inside_its_table_and_its_fence(tmp_path: Path) -> None:
    outcome = made()
    report.write(tmp_path, outcome, judge(outcome))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert "\x00" not in text
    fence, columns = "", 0
    for line in text.splitlines():
        if line.startswith("```") and fence in ("", line):
            fence = "" if fence else line
        if fence or not line.startswith("| "):
            columns = 0
            continue
        count = line.replace("\\|", "").count("|")
        assert columns in (0, count), f"{line!r} has another number of cells than the row above"
        columns = count
    assert fence == ""


def test_numbers_that_json_lacks(tmp_path: Path) -> None:
    values = {"a": math.nan, "b": [math.inf, np.float32(0.5), np.int64(3), np.arange(2)], "c": {1: Path("x")}}
    converted = plain(values)
    assert converted == {"a": "nan", "b": ["inf", 0.5, 3, [0, 1]], "c": {"1": "x"}}
    outcome = made(("pass", "fail"))
    record = outcome.records[MACHINE[1].id]
    outcome.records[record.id] = dataclasses.replace(record, facts=values)
    report.write(tmp_path, outcome, judge(outcome))
    assert "NaN" not in (tmp_path / "report.json").read_text()


def test_time_names_the_slowest_and_the_share_of_compilation() -> None:
    timing = content(made(("pass",) * 20, seconds=50.0))["timing"]
    assert len(timing["slowest"]) == 10
    assert timing["compile_share"] == 0.25
    assert timing["seconds"] == 50.0
    assert sum(timing["rungs"].values()) == pytest.approx(timing["check_seconds"])


def test_margins_are_by_rung() -> None:
    outcome = made(("pass",) * 3)
    for rung, *cells in margins(content(outcome)["checks"]).rows:
        count = sum(f"{record.rung} {laws()[record.law].rung_name}" == rung for record in outcome.ended())
        assert [cell.text for cell in cells] == [f"{count}", f"{3 * count}", f"{30 * count}", "0.1", "0.4"]


def test_a_report_is_complete_or_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = made(("pass",))
    report.write(tmp_path, outcome, judge(outcome))
    before = (tmp_path / "report.json").read_text()
    write_text = Path.write_text

    def full(path: Path, text: str, **more: object) -> int:
        write_text(path, text[:10], **more)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        report.write(tmp_path, made(), judge(made()))
    monkeypatch.undo()
    assert (tmp_path / "report.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["junit.xml", "report.html", "report.json", "report.md"]


def test_equal_reports_have_no_difference() -> None:
    same = content(made(("pass", "deviation")))
    lines, worse = compare(same, same)
    assert not worse
    assert lines == ["time: 0.0 s -> 0.0 s"]


@pytest.mark.parametrize(
    ("old", "new", "worse", "line_start"),
    [
        ("pass", "fail", True, "worse: {}: pass -> fail"),
        ("pass", "not_run", True, "worse: {}: pass -> not_run"),
        ("pass", "hang", True, "worse: {}: pass -> hang"),
        ("fail", "pass", False, "better: {}: fail -> pass"),
        ("fail", "error", False, "changed: {}: fail -> error"),
        ("fail", "crash", True, "worse: {}: fail -> crash"),
        ("hang", "fail", False, "better: {}: hang -> fail"),
    ],
)
def test_compare_orders_statuses(old: str, new: str, worse: bool, line_start: str) -> None:
    lines, got_worse = compare(content(made(("pass", old))), content(made(("pass", new))))
    assert got_worse == worse
    assert any(line.startswith(line_start.format(MACHINE[1].id)) for line in lines)


def test_compare_names_missing_and_new_checks_and_larger_margins() -> None:
    one, two = made(("pass",)), made(("pass", "pass"))
    lines, worse = compare(content(two), content(one))
    assert worse
    assert f"worse: missing: 1 check: {MACHINE[1].id}" in lines
    lines, worse = compare(content(one), content(two))
    assert not worse
    assert f"new: 1 check: {MACHINE[1].id}" in lines
    lines, worse = compare(content(one), content(made(("pass", "fail"))))
    assert worse
    assert any(line.startswith(f"worse: {MACHINE[1].id}, new: fail") for line in lines)
    lines, _ = compare(content(made(("pass",) * 9)), content(one))
    assert any(line.startswith("worse: missing: 8 checks: ") and line.endswith(" and 4 more") for line in lines)
    grown = made(("pass",))
    grown.records[MACHINE[0].id] = dataclasses.replace(grown.records[MACHINE[0].id], margin=0.9)
    lines, worse = compare(content(one), content(grown))
    assert worse
    assert f"worse: {MACHINE[0].id}: margin 0.4 -> 0.9" in lines


def test_compare_names_differences_of_the_machine() -> None:
    one, two = made(("pass",)), made(("pass",))
    two.environment = {**one.environment, "versions": {**one.environment["versions"], "jax": "99"}, "variables": {}}
    two.records[MACHINE[0].id] = dataclasses.replace(two.records[MACHINE[0].id], seconds=9.0)
    lines, worse = compare(content(one), content(two))
    assert not worse
    assert any(line.startswith("environment versions jax: ") and line.endswith(" -> 99") for line in lines)
    assert any(line.startswith("environment variables JAX_X: ") for line in lines)
    assert f"slower: {MACHINE[0].id}: 2.0 s -> 9.0 s" in lines


def test_platform_names_go_from_general_to_exact() -> None:
    assert snapshot.platform_names("cpu", "cpu") == ["cpu"]
    assert snapshot.platform_names("gpu", "PJRT C API rocm 7.0") == ["gpu", "rocm"]
    assert snapshot.platform_names("rocm", "") == ["gpu", "rocm"]
    assert snapshot.platform_names("cuda", "cuda 12080") == ["gpu", "cuda"]


def test_subjects_have_lines_of_their_own(tmp_path: Path) -> None:
    law = next(law for law in laws().values() if law.per == "subject")
    outcome = Outcome(settings=Settings(), expected=[check_id(law.id, name) for name in ("pmap", "mesh")])
    for name in ("pmap", "mesh"):
        record = Result.ended(law, name, "pass", "", 1.0)
        outcome.records[record.id] = record
    report.write(tmp_path, outcome, judge(outcome))
    suites = [suite.get("name") for suite in Xml.parse(tmp_path / "junit.xml").iter("testsuite")]
    assert suites == [f"{law.rung} {law.rung_name} [pmap]", f"{law.rung} {law.rung_name} [mesh]"]
