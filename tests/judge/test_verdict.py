"""The verdict's table, the diagnosis, and known deviations: from records that a test makes up."""

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import pytest
from sftref.conformance.core.check import NotRunReason
from sftref.conformance.core.deviations import Deviation, accepted, load, stale
from sftref.conformance.core.law import LADDER, LEVELS, blocked_by, check_id, laws, split_id
from sftref.conformance.core.result import Result
from sftref.conformance.core.settings import Settings
from sftref.conformance.judge.outcome import Outcome
from sftref.conformance.judge.verdict import CODES, judge
from sftref.conformance.machine.remedies import Tries
from sftref.conformance.report.document import diagnosis
from sftref.conformance.workers.plan import light_checks, units

# Two laws of the machine on different rungs, and one of trainers.
LOW = next(law for law in laws().values() if law.per == "machine" and law.rung == 1)
HIGH = next(law for law in laws().values() if law.per == "machine" and law.rung > 1)
TRAINER = next(law for law in laws().values() if law.per == "subject")
MESH = check_id(TRAINER.id, "mesh")
DAY = datetime.date(2030, 1, 31)
NEED = "needs 2 devices, found 1"
UNCLAIMED, NOT_APPLICABLE, LACKING = NotRunReason.UNCLAIMED, NotRunReason.NOT_APPLICABLE, NotRunReason.LACKING


def outcome(
    low: str, high: str, trainer: str, message: str = "", reason: NotRunReason | None = None, **more: object
) -> Outcome:
    """Three checks with these statuses."""
    run = Outcome(settings=Settings(), expected=[LOW.id, HIGH.id, MESH], **more)
    for law, subject, status in ((LOW, None, low), (HIGH, None, high), (TRAINER, "mesh", trainer)):
        record = Result.ended(law, subject, status, message if status != "pass" else "", 1.0, reason)
        run.records[record.id] = dataclasses.replace(record, comparisons=2, facts={"unclaimed": "data order"})
    return run


def deviation(name: str, **more: object) -> Deviation:
    return Deviation(**{"id": name, "reason": "known", "issue": "a link", "expires": DAY} | more)


@pytest.mark.parametrize(
    ("statuses", "reason", "verdict"),
    [
        (("pass", "pass", "pass"), None, "CONFORMANT"),
        (("pass", "pass", "not_run"), UNCLAIMED, "CONFORMANT"),
        (("pass", "pass", "not_run"), NOT_APPLICABLE, "CONFORMANT"),
        (("pass", "pass", "deviation"), None, "CONFORMANT"),
        (("pass", "pass", "not_run"), LACKING, "INCOMPLETE"),
        (("pass", "pass", "not_run"), NotRunReason.UNREACHED, "INCOMPLETE"),
        (("pass", "pass", "not_run"), None, "INCOMPLETE"),
        (("pass", "fail", "pass"), None, "NONCONFORMANT"),
        (("pass", "error", "blocked"), None, "NONCONFORMANT"),
        (("fail", "hang", "crash"), None, "NONCONFORMANT"),
        (("pass", "hang", "pass"), None, "UNRESPONSIVE"),
        (("pass", "pass", "crash"), None, "UNRESPONSIVE"),
        (("pass", "crash", "not_run"), LACKING, "UNRESPONSIVE"),
        (("not_run", "not_run", "not_run"), LACKING, "UNTRUSTED"),
        (("not_run", "not_run", "not_run"), UNCLAIMED, "UNTRUSTED"),
        (("deviation", "deviation", "deviation"), None, "UNTRUSTED"),
    ],
)
def test_the_verdict_on_every_kind_of_result(
    statuses: tuple[str, str, str], reason: NotRunReason | None, verdict: str
) -> None:
    """By the reason, whatever the message says."""
    judged = judge(outcome(*statuses, "capability x is not claimed: does not apply", reason))
    assert (judged.name, judged.exit_code) == (verdict, CODES[verdict])
    assert judged.line.startswith(f"{verdict}: ")
    assert "\n" not in judged.line


def test_exit_codes_are_the_contract() -> None:
    names = ("CONFORMANT", "NONCONFORMANT", "SETUP", "UNRESPONSIVE", "INCOMPLETE", "UNTRUSTED")
    assert dict(zip(names, range(6), strict=True)) | {"WORKAROUND": 1} == CODES


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, "WORKAROUND"),
        ({"interrupted": 130}, "INCOMPLETE"),
        ({"setup": "no device"}, "SETUP"),
        ({"tries": Tries(asked=["x"])}, "NONCONFORMANT"),
    ],
)
def test_a_setting_with_which_everything_passes_is_a_workaround(change: dict[str, Any], name: str) -> None:
    run = outcome("pass", "fail", "pass")
    run.tries = Tries(asked=["x"], workaround="NCCL_PROTO=Simple")
    for field, value in change.items():
        setattr(run, field, value)
    assert judge(run).name == name


def test_nothing_expected_is_nothing_verified() -> None:
    assert judge(Outcome(settings=Settings(), expected=[])).name == "UNTRUSTED"


def test_the_line_names_what_ran_and_what_did_not() -> None:
    line = judge(outcome("pass", "pass", "not_run", NEED, LACKING, seconds=61.6)).line
    assert "2 of 3 checks passed, 1 not run: needs 2 devices, found 1; 6 comparisons in 62 s, level standard" in line
    assert line.endswith("no seeded fault was run")


def test_the_line_has_the_whole_name_of_a_capability_and_how_trainers_were_compiled() -> None:
    run = outcome("pass", "pass", "not_run", "", UNCLAIMED)
    assert "1 not run: data order not claimed; " in judge(run).line
    assert "level standard, " in judge(run).line
    run.records[MESH].facts["optimized"] = False
    assert "level standard (1 law compiled without optimization), " in judge(run).line
    run.settings = dataclasses.replace(run.settings, level="quick")
    assert "level quick (trainers compiled without optimization), " in judge(run).line


def test_an_interrupted_run_is_incomplete_whatever_it_found() -> None:
    verdict = judge(outcome("fail", "pass", "not_run", "interrupted", interrupted=130))
    assert (verdict.name, verdict.exit_code) == ("INCOMPLETE", 130)
    assert "1 wrong" in verdict.line


def test_a_setup_says_only_how_to_fix_it() -> None:
    verdict = judge(outcome("fail", "blocked", "blocked", setup="no ROCm device; install the plugin"))
    assert verdict.line == "SETUP: no ROCm device; install the plugin"


def test_trouble_outside_of_any_check_is_a_verdict() -> None:
    assert judge(outcome("pass", "pass", "pass", troubles=["a process crashed at its exit"])).exit_code == 3


def test_the_diagnosis_is_about_the_lowest_failed_rung() -> None:
    made = outcome("pass", "fail", "hang", "what went wrong")
    shown = diagnosis(made, judge(made))
    assert shown is not None
    assert (shown["layer"], shown["cause"], shown["next_step"]) == ("collective", HIGH.cause, HIGH.next_step)
    assert shown["evidence"][0] == f"{HIGH.id}: fail: what went wrong"
    good = outcome("pass", "pass", "pass")
    assert diagnosis(good, judge(good)) is None
    short = outcome("pass", "not_run", "pass", NEED)
    assert diagnosis(short, judge(short))["evidence"] == [f"{HIGH.id}: {NEED}"]


@pytest.mark.parametrize("status", ["fail", "error", "hang", "crash"])
def test_a_known_failure_fails_nothing(status: str) -> None:
    known = [deviation(HIGH.id)]
    record = accepted(known, Result.ended(HIGH, None, status, "off", 1.0), [], DAY)
    assert record.status == "deviation"
    assert f"seen again as {status}: off" in record.message
    assert stale(known, [record], ["mesh"], [], DAY) == []


@pytest.mark.parametrize(
    ("known", "platforms", "day"),
    [
        (deviation(LOW.id), [], DAY),
        (deviation(HIGH.id, subject="mesh"), [], DAY),
        (deviation(HIGH.id, platform="rocm"), ["cpu"], DAY),
        (deviation(HIGH.id, platform="rocm"), [], DAY),
        (deviation(HIGH.id), [], DAY + datetime.timedelta(days=1)),
    ],
    ids=["another law", "another subject", "another platform", "an unknown platform", "expired"],
)
def test_what_a_deviation_does_not_cover_still_fails(
    known: Deviation, platforms: list[str], day: datetime.date
) -> None:
    assert accepted([known], Result.ended(HIGH, None, "fail", "off", 1.0), platforms, day).status == "fail"


def test_a_scope_narrows_to_a_platform_and_a_subject() -> None:
    known = [deviation(TRAINER.id, subject="mesh", platform="gpu")]
    for subject, status in (("mesh", "deviation"), ("pmap", "fail")):
        record = Result.ended(TRAINER, subject, "fail", "off", 1.0)
        assert accepted(known, record, ["gpu", "rocm"], DAY).status == status


@pytest.mark.parametrize(
    ("known", "status", "message"),
    [
        (deviation(HIGH.id), "pass", f"{HIGH.id} passes"),
        (deviation(HIGH.id, expires=DAY - datetime.timedelta(days=1)), "fail", f"{HIGH.id} expired on 2030-01-30"),
        (deviation("copies.nowhere"), "fail", "copies.nowhere matches nothing"),
        (deviation(f"{TRAINER.id}[nobody]"), "fail", f"{TRAINER.id}[nobody] matches nothing"),
    ],
)
def test_a_stale_deviation_fails_the_run(known: Deviation, status: str, message: str) -> None:
    made = outcome("pass", status, "pass", deviations=[known])
    verdict = judge(made, DAY)
    assert verdict.exit_code == 1
    assert f"deviation {message}" in verdict.line


@pytest.mark.parametrize("status", ["not_run", "blocked"])
def test_a_check_that_did_not_run_makes_no_deviation_stale(status: str) -> None:
    assert stale([deviation(HIGH.id)], [Result.ended(HIGH, None, status, "", 0.0)], ["mesh"], [], DAY) == []
    assert stale([deviation(HIGH.id)], [], ["mesh"], [], DAY) == [], "a narrower run does not include the check"


ENTRY = '[[deviation]]\nid = "a.b"\nreason = "r"\nissue = "i"\nexpires = 2030-01-31\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[deviation]\n", "must have [[deviation]] entries only"),
        ("[[deviations]]\n", "has deviations, must"),
        ("[[deviation]]\n", "entry 1: id = None, must be a text"),
        (ENTRY.replace("2030-01-31", '"2030-01-31"'), "must be a date such as"),
        (ENTRY.replace("2030-01-31", "2030-01-31T00:00:00"), "must be a date such as"),
        (ENTRY + 'note = "x"\n', "note is unknown"),
        (ENTRY + 'scope = "cpu"\n', "must be a table of texts"),
        (ENTRY + 'scope = { host = "x" }\n', "must be of subject, platform"),
        (ENTRY + 'scope = { platform = "amd" }\n', "must be of subject, platform"),
    ],
)
def test_a_file_of_deviations_is_validated(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^--deviations ") as caught:
        load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_of_deviations_is_read(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text(ENTRY + 'scope = { platform = "rocm" }\n')
    assert load(path) == [Deviation(id="a.b", reason="r", issue="i", expires=DAY, platform="rocm")]


def test_a_failed_rung_blocks_only_the_rungs_that_need_it() -> None:
    for law in laws().values():
        for rung in range(9):
            assert (blocked_by({(rung, None)}, law, None) is not None) == (rung in LADDER[law.rung].needs)
    assert blocked_by({(1, "mesh")}, HIGH, None) is None
    assert blocked_by({(6, "mesh"), (3, None)}, max(laws().values(), key=lambda law: law.rung), "mesh") == (
        "rung 3 (operators)"
    )


@pytest.mark.parametrize("level", LEVELS)
def test_units_have_every_check_once_after_those_that_it_needs(level: str) -> None:
    ids = [law.id if law.per == "machine" else check_id(law.id, name) for law in laws().values() for name in "ab"]
    ids = list(dict.fromkeys(ids))
    made = units(ids, light_checks(ids, level, {"jax": "0.10.2"}, {}))
    assert sorted(check for unit in made for check in unit.ids) == sorted(ids)
    answered: set[str] = set()
    for unit in made:
        assert unit.after <= answered, f"{unit.name} would wait for what comes after it"
        for check in unit.ids:
            law, subject = split_id(check)
            needs = LADDER[law.rung].needs
            needed = {i for i in ids if split_id(i)[0].rung in needs and split_id(i)[1] in (None, subject)}
            assert needed <= unit.after | set(unit.ids), f"{unit.name} does not wait for what {check} needs"
        answered |= set(unit.ids)


def test_operators_begin_when_copies_are_done_and_beside_the_collectives() -> None:
    ids = [law.id for law in laws().values() if law.rung < 5]
    waits = next(unit for unit in units(ids) if unit.name == "rungs 3 and 4").after
    assert {split_id(check)[0].rung for check in waits} == {0, 1}
