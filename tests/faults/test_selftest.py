"""Seeded faults in a run: which are chosen, whether they are seen, and what that does to the verdict."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ladders import KIT
from sftref.conformance.core.fault import LAYERS, changes, faults
from sftref.conformance.core.law import LEVELS, check_id, expected, laws, split_id
from sftref.conformance.core.result import Result
from sftref.conformance.core.settings import DEFAULT_ADAPTERS, Settings, subject_labels
from sftref.conformance.faults import __main__ as command
from sftref.conformance.judge.mutation_score import chosen, fates, level_of
from sftref.conformance.judge.outcome import Outcome
from sftref.conformance.judge.verdict import judge
from sftref.conformance.machine.remedies import Tries
from sftref.conformance.machine.snapshot import static
from sftref.conformance.report.document import document
from sftref.conformance.report.page import markdown as report_text
from sftref.conformance.workers.plan import SEEDED, trial_command, trials

pytestmark = pytest.mark.once

EVERY = {level: expected(level, subject_labels(DEFAULT_ADAPTERS)) for level in LEVELS}
FAULT, LAW = "fast-rsqrt", "operators.layer_norm"
TRIAL = check_id(LAW, FAULT)


def run(trial: str | None, law: str = "pass", message: str = "") -> Outcome:
    """An outcome of one check, and of one trial of a fault that its law must see, or of none."""
    outcome = Outcome(settings=Settings(), expected=[LAW, "operators.tanh"], seeded=[TRIAL], environment=static({}))
    for name, status in ((LAW, law), ("operators.tanh", "pass")):
        record = Result.ended(laws()[name], None, status, "" if status == "pass" else "needs 2 devices", 1.0)
        outcome.records[name] = dataclasses.replace(record, comparisons=3)
    if trial is not None:
        outcome.trials[TRIAL] = Result.ended(laws()[LAW], FAULT, trial, message, 2.0)
    return outcome


def test_a_sample_of_all_layers_is_seeded_at_every_level_and_everything_at_full() -> None:
    for level in LEVELS[:2]:
        names = [split_id(trial)[1] for trial in chosen(level, EVERY[level])]
        assert len(names) == len(set(names)), "each once"
        layers = {faults()[str(name)].layer for name in names}
        names_of_laws = {split_id(check)[0].id for check in EVERY[level]}
        possible = [f for f in faults().values() if LEVELS.index(f.level) <= LEVELS.index(level)]
        assert layers == {f.layer for f in possible if names_of_laws & {*f.seen_by}}
        assert all(faults()[str(name)].sample for name in names)
    whole = chosen("full", EVERY["full"])
    assert sorted(whole) == sorted(check_id(law, f.id) for f in faults().values() for law in f.seen_by)


def test_only_laws_of_the_run_are_tried_with_a_fault() -> None:
    assert chosen("full", ["operators.gelu"]) == [
        check_id("operators.gelu", fault.id) for fault in faults().values() if "operators.gelu" in fault.seen_by
    ]
    assert chosen("quick", []) == []
    for level in LEVELS:
        for trial in chosen(level, EVERY[level]):
            law, fault = split_id(trial)
            tried_at = level_of(level, faults()[str(fault)], law.id)
            assert LEVELS.index(law.level) <= LEVELS.index(tried_at) <= LEVELS.index(level)


@pytest.mark.parametrize(
    ("trial", "law", "status", "message"),
    [
        ("fail", "pass", "killed", ""),
        ("pass", "pass", "survived", "operators.layer_norm: pass"),
        ("error", "pass", "survived", "operators.layer_norm: error: boom"),
        ("hang", "pass", "survived", "hang"),
        ("not_run", "pass", "not_run", "boom"),
        (None, "pass", "not_run", "not started"),
        ("fail", "fail", "not_run", "does not pass without the fault (fail)"),
        ("fail", "not_run", "not_run", "did not run"),
    ],
)
def test_the_fate_of_a_fault(trial: str | None, law: str, status: str, message: str) -> None:
    [fate] = fates(run(trial, law, "boom" if trial in ("error", "not_run") else ""))
    assert (fate.status, fate.fault.id, fate.expected) == (status, FAULT, (LAW,))
    assert message in fate.message
    assert fate.seen_by == ((LAW,) if status == "killed" else ())


def test_a_fault_that_was_not_seen_makes_the_verdict_untrusted() -> None:
    good, blind = judge(run("fail")), judge(run("pass"))
    assert (good.name, good.line.endswith("1 of 1 seeded faults seen")) == ("CONFORMANT", True)
    assert (blind.name, blind.exit_code) == ("UNTRUSTED", 5)
    assert "a seeded fault was not seen (fast-rsqrt: operators.layer_norm: pass)" in blind.line
    assert blind.line.endswith("0 of 1 seeded faults seen, not fast-rsqrt")
    # A wrong result is certain, even if the kit misses a fault.
    broken = run("pass")
    broken.records["operators.tanh"] = Result.ended(laws()["operators.tanh"], None, "fail", "off", 1.0)
    assert judge(broken).name == "NONCONFORMANT"
    # A kit that misses a fault cannot say that a setting fixes everything.
    broken.tries = Tries(asked=[LAW], workaround="NCCL_PROTO=Simple")
    assert judge(broken).name == "NONCONFORMANT"
    broken.trials[TRIAL] = run("fail").trials[TRIAL]
    assert judge(broken).name == "WORKAROUND"


def test_a_self_test_that_could_not_run_is_not_one_that_passed() -> None:
    assert judge(run("not_run", message="JAX 9 has no lowering rule for tanh")).name == "UNTRUSTED"
    # On one device a law that needs two does not run, and so neither does its fault: the run is incomplete.
    assert judge(run("not_run", law="not_run", message="needs 2 devices")).name == "INCOMPLETE"


def test_the_report_has_every_fault() -> None:
    schema = json.loads((KIT / "report" / "report.schema.json").read_text())
    for trial in ("fail", "pass", None):
        outcome = run(trial)
        verdict = judge(outcome)
        content = document(outcome, verdict)
        jsonschema.validate(content, schema, jsonschema.Draft202012Validator)
        [entry] = content["faults"]
        assert (entry["id"], entry["layer"], entry["expected"]) == (FAULT, "operator", [LAW])
        assert f"| `{FAULT}` |" in report_text(content)
    content = document(run("pass"), judge(run("pass")))
    assert content["diagnosis"]["layer"] == "kit"
    assert FAULT in content["diagnosis"]["evidence"][0]


def test_the_process_of_the_seeded_faults() -> None:
    assert trials([]) == []
    [unit] = trials([TRIAL])
    assert (unit.name, unit.ids, unit.after) == (SEEDED, [TRIAL], frozenset())
    words = trial_command(Settings(level="quick", platform="cpu", devices=4, seed=3), [TRIAL])
    args = command.parser().parse_args([*words[4:]])
    assert (args.trial, args.level, args.platform, args.devices, args.seed) == ([TRIAL], "quick", "cpu", 4, 3)
    assert command.trials_of(args) == [TRIAL]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--fault", "fast-rsqr"), f"--fault = fast-rsqr, must be one of {len(faults())}, such as fast-rsqrt"),
        (("--law", "operators.gemm"), f"--law = operators.gemm, must be one of {len(laws())}, such as operators."),
        (("--trial", "operators.gelu[no]"), "--trial = operators.gelu[no], must be a law with a seeded fault"),
        (("--fault", FAULT, "--law", "operators.tanh"), "no seeded fault is left"),
        (("--devices", "0"), "--devices = 0, must be at least 1"),
    ],
)
def test_wrong_arguments(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words) == 2
    assert message in capsys.readouterr().err


def test_the_command_prints_which_faults_were_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--fault", FAULT, "--level", "quick"]) == 0
    assert f"seen      {FAULT}  by {LAW}" in capsys.readouterr().out
    assert command.main(["--trial", f"operators.tanh[{FAULT}]"]) == 5
    out = capsys.readouterr().out
    assert f"NOT SEEN  {FAULT}  by operators.tanh" in out
    assert "0 of 1 trials saw the fault" in out


def verify(kit: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Run a copy of the kit, as a user does."""
    command = [sys.executable, "-m", "conformance", "verify", "--level", "quick", "--out", "report", *words]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(command, cwd=kit.parent, env=env, capture_output=True, text=True, timeout=300, check=False)
    return ended.returncode, json.loads((kit.parent / "report" / "report.json").read_text()) | {"out": ended.stdout}


def test_the_self_test_fails_if_a_law_sees_nothing(tmp_path: Path) -> None:
    """The threefry law of the copy compares a value with itself; the self-test shows that it sees nothing."""
    kit = Path(shutil.copytree(KIT, tmp_path / "conformance", ignore=shutil.ignore_patterns("__pycache__")))
    code, report = verify(kit, "--only", "random.threefry")
    assert (code, report["verdict"]) == (0, "CONFORMANT")
    assert [fault["status"] for fault in report["faults"]] == ["killed"] * len(report["faults"])
    assert report["faults"]
    assert "self-test" in report["out"]
    law = kit / "laws" / "machine" / "test_5_random.py"
    text = law.read_text()
    assert "np.asarray(noise(key, counter.ravel())), want)" in text
    text = text.replace("np.asarray(noise(key, counter.ravel())), want)", "want, want)")
    law.write_text(text.replace("np.asarray(got), np.array(want, np.uint32))", "*[np.array(want, np.uint32)] * 2)"))
    code, report = verify(kit, "--only", "random.threefry")
    assert (code, report["verdict"], report["diagnosis"]["layer"]) == (5, "UNTRUSTED", "kit")
    assert {fault["status"] for fault in report["faults"]} == {"survived"}
    code, report = verify(kit, "--only", "random.threefry", "--no-self-test")
    assert (code, report["verdict"], report["faults"]) == (0, "CONFORMANT", [])


def test_the_catalogues() -> None:
    assert len(faults()) >= 70
    assert len(changes()) >= 15
    assert not faults().keys() & changes().keys()
    assert {fault.layer for fault in faults().values()} <= set(LAYERS)
    seen = {law for fault in faults().values() for law in fault.seen_by}
    assert seen == set(laws()), "every law has a fault that it alone or with others must see"
