"""`verify`, `explain`, `compare` and a plain pytest of the kit, as a person runs them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from ladders import KIT, Copy
from sftref.conformance.core.law import laws

from sftref import cli

Make = Callable[..., Copy]
LATER = next(law.id for law in laws().values() if law.level != "quick")
GOOD = [(0, "passes"), (1, "measures"), (6, "passes"), (7, "is_not_claimed")]


@pytest.fixture
def copy(tmp_path: Path) -> Make:
    return lambda ladder, **more: Copy(tmp_path / "copy", ladder, **more)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_conformant_run(copy: Make) -> None:
    made = copy(GOOD)
    ended = made.verify("--no-self-test", "--seed", "7")
    assert ended.code == 0, ended.out
    message = "CONFORMANT: 3 of 4 checks passed, 1 not run: gradients not claimed; 3 comparisons in "
    assert ended.verdict.startswith(message)
    assert "level standard, 8 simulated cpu devices, seed 7; no seeded fault was run" in ended.verdict
    assert ended.verdict.endswith("report: sftref-report/report.html")
    assert ended.err == ""
    jsonschema.validate(ended.report, json.loads((KIT / "report" / "report.schema.json").read_text()))
    assert ended.report["faults"] == []
    command = [sys.executable, "-m", "conformance", "explain", "r1.measures"]
    completed = subprocess.run(command, cwd=made.folder, capture_output=True, text=True, check=True, timeout=60)
    assert "r1.measures in the report: pass" in completed.stdout
    assert "bound 0.01: by hand" in completed.stdout
    assert ended.report["subject"] == [
        {
            "label": "Trainer",
            "adapter": "stand_in:Trainer",
            "name": "a stand-in",
            "capabilities": ["padding rows", "replicas"],
        }
    ]


def test_full_batches_only_are_in_the_verdict(copy: Make) -> None:
    made = copy([(0, "passes"), (6, "passes")])
    adapter = (made.folder / "stand_in.py").read_text().replace('"padding rows", ', "")
    (made.folder / "stand_in.py").write_text(adapter)
    ended = made.verify("--no-self-test")
    assert ended.code == 0
    assert ", Trainer gets full batches only (padding rows not claimed); " in ended.verdict


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "0"], "--devices = 0, must be at least 1"),
        (["--seed", "-1"], "--seed = -1, must be 0 to 4294967295"),
        (["--only", "nothing"], "--only = nothing matches no check; `sftref explain` lists them"),
        (["--only", LATER, "--level", "quick"], f"--only = {LATER} matches no check at --level quick; raise the level"),
        (["--expect", "xpu:8"], "--expect = xpu:8, must be PLATFORM[:COUNT[:KIND]], as rocm:8"),
        (["--expect", "rocm:many"], "--expect = rocm:many, must be PLATFORM[:COUNT[:KIND]]"),
        (["--expect", "rocm:8", "--platform", "cpu"], "--expect = rocm:8 with --platform = cpu; leave one of them out"),
        (["--adapter", "no_colon"], "--adapter no_colon: must be MODULE:FACTORY"),
        (["--deviations", "nowhere.toml"], "--deviations nowhere.toml: cannot be read (No such file or directory)"),
        (["--out", "/proc/sftref"], "--out /proc/sftref: cannot be written (No such file or directory)"),
        (["--out", __file__], "is a file, must be a folder"),
    ],
)
def test_bad_arguments_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("sftref: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "--devices", "0", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapter", "stand_in:nothing"], "--adapter stand_in:nothing: cannot be found"),
        (["--against", "nowhere:Trainer"], "cannot be found (No module named 'nowhere')"),
    ],
)
def test_a_trainer_that_cannot_be_loaded_is_a_setup(copy: Make, arguments: list[str], message: str) -> None:
    ended = copy([(0, "passes")]).verify(*arguments)
    assert ended.code == 2
    assert ended.verdict.startswith("SETUP: ")
    assert message in ended.verdict
    assert ended.report["verdict"] == "SETUP"
    assert "Traceback" not in ended.out + ended.err


def test_a_missing_platform_is_one_line(copy: Make) -> None:
    made = copy([(0, "raises"), (0, "differs"), (1, "passes")])
    for name in ("laws/machine/test_0_fates.toml", "laws/machine/test_0_fates.py"):
        made.edit(name, "r0.differs", "environment.platform")
    made.edit("laws/machine/test_0_fates.toml", '(id = "environment.platform")', r"\1\nsetup = true")
    ended = made.verify("--platform", "rocm")
    assert ended.code == 2
    finding, step, verdict = ended.out.splitlines()[1:]  # without the ladder
    assert "broken: rocm is requested, but this machine has no such device" in finding
    assert "next step: " in step
    assert verdict == ended.verdict
    assert ended.verdict.startswith("SETUP: --platform rocm")
    assert ": a: error 1" in ended.verdict
    assert "; The next step." in ended.verdict
    assert ended.statuses["r1.passes"] == "blocked"


def test_too_few_devices_are_incomplete_and_nothing_verified_is_untrusted(copy: Make) -> None:
    made = copy([(0, "passes"), (1, "needs_more")])
    assert made.verify().code == 4
    ended = made.verify("--only", "1")
    assert ended.code == 5
    assert ended.verdict.startswith("UNTRUSTED: nothing was verified: 0 of 1 checks passed, 1 not run: needs 2 devices")
    assert "level standard, only 1, devices unknown" in ended.verdict


def test_a_disk_that_is_full_is_refused_at_the_start(copy: Make) -> None:
    made = copy(GOOD)
    ended = made.ended(made.start(before="export PYTHONDONTWRITEBYTECODE=1; ulimit -f 64;"))
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err == (
        "sftref: --out sftref-report: cannot be written (File too large); free some space, or choose another\n"
    )


def test_a_report_that_cannot_be_written_still_has_its_verdict(copy: Make) -> None:
    made = copy([(0, "passes")])
    replace = "import shutil; shutil.rmtree('sftref-report'); Path('sftref-report').touch(); check.equal"
    made.edit("laws/machine/test_0_fates.py", "check.equal", replace)
    process = made.start()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out.splitlines()[-1].startswith("CONFORMANT: 1 of 1 checks passed")
    assert err == "sftref: --out: sftref-report: File exists\n"


def test_known_deviations_run_and_fail_nothing(copy: Make) -> None:
    made = copy([(0, "passes"), (1, "differs"), (1, "exits"), (6, "passes")])
    entry = '[[deviation]]\nid = "r1.{}"\nreason = "known"\nissue = "a link"\nexpires = 2999-01-01\n'
    (made.folder / "known.toml").write_text(entry.format("differs") + entry.format("exits"))
    ended = made.verify("--deviations", "known.toml")
    assert ended.code == 0, ended.out
    assert list(ended.statuses.values()) == ["pass", "deviation", "deviation", "pass"], "nothing above is blocked"
    assert "2 known deviations (r1.differs, r1.exits)" in ended.verdict
    # A deviation's platform was once read before the devices were, which hid them.
    assert "8 simulated cpu devices" in ended.verdict


def test_plain_pytest_prints_the_ladder_and_writes_the_reports(copy: Make) -> None:
    made = copy([(0, "passes"), (3, "differs"), (3, "passes"), (6, "passes")])
    ended = made.pytest("--sftref-out", "out")
    assert ended.code == 1
    assert "✗  3 operators              1 passed, 1 failed, 2 comparisons" in ended.out
    assert "NONCONFORMANT: 2 of 4 checks passed, 1 wrong (rung 3, operators: r3.differs), 1 blocked" in ended.out
    assert json.loads((made.folder / "out" / "report.json").read_text())["verdict"] == "NONCONFORMANT"
    entry = '[[deviation]]\nid = "r3.differs"\nreason = "known"\nissue = "a link"\nexpires = 2999-01-01\n'
    (made.folder / "known.toml").write_text(entry)
    ended = made.pytest("--sftref-deviations", "known.toml")
    assert ended.code == 0, ended.out
    assert "CONFORMANT: 3 of 4 checks passed, 1 known deviation (r3.differs)" in ended.out
    assert "3 passed, 1 xfailed" in ended.out


@pytest.mark.parametrize(
    ("ladder", "arguments", "code", "message"),
    [
        ([(0, "needs_more")], [], 5, "UNTRUSTED: nothing was verified: 0 of 1 checks passed"),
        ([(0, "passes"), (3, "passes")], ["-k", "nothing"], 5, "2 deselected"),
        ([(0, "passes"), (3, "needs_more")], [], 4, "INCOMPLETE: 1 of 2 checks passed"),
        ([(0, "passes")], ["--sftref-deviations", "nowhere"], 4, "ERROR: --deviations nowhere: cannot be read"),
    ],
)
def test_plain_pytest_ends_as_verify_does(
    copy: Make, ladder: list[tuple[int, str]], arguments: list[str], code: int, message: str
) -> None:
    ended = copy(ladder).pytest(*arguments)
    assert ended.code == code, ended.out
    assert message in ended.out + ended.err


def test_a_mark_that_names_no_law_is_one_line(copy: Make) -> None:
    made = copy([(0, "passes")])
    made.edit("laws/machine/test_0_fates.py", r'law\("r0.passes"\)', 'law("r0.nowhere")')
    ended = made.pytest()
    assert ended.code == 4
    assert "test_passes: @pytest.mark.law('r0.nowhere') names no law of laws/*/test_*.toml" in ended.err


def test_a_session_without_our_checks_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text("import pytest\n@pytest.mark.skip\ndef test_it(): ...\n")
    command = [sys.executable, "-m", "pytest", "-p", "sftref.pytest_plugin", "test_theirs.py"]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert completed.returncode == 0, completed.stdout
    assert "conformance" not in completed.stdout


def test_compare_has_three_exit_codes(copy: Make, capsys: pytest.CaptureFixture[str]) -> None:
    made = copy([(0, "passes"), (1, "differs")])
    made.verify("--out", "whole", "--only", "0")
    made.verify("--out", "broken")
    whole, broken = (str(made.folder / name / "report.json") for name in ("whole", "broken"))
    assert cli.main(["compare", whole, whole]) == 0
    assert capsys.readouterr().out.endswith("nothing got worse\n")
    assert cli.main(["compare", whole, broken]) == 1
    printed = capsys.readouterr().out
    assert "verdict: CONFORMANT -> NONCONFORMANT" in printed
    assert "worse: r1.differs, new: fail" in printed
    assert cli.main(["compare", broken, whole]) == 1, "a check that is gone is worse"
    capsys.readouterr()
    for bad in (
        "nowhere.json",
        str(made.kit / "laws" / "machine" / "test_0_fates.toml"),
        str(KIT / "report" / "report.schema.json"),
    ):
        assert cli.main(["compare", whole, bad]) == 2
        error = capsys.readouterr().err
        assert bad in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["verify", "env", "report", "explain", "compare"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    assert f"sftref {command} " in capsys.readouterr().out.split("examples:")[1]


def test_the_installed_plugin_imports_nothing_heavy(tmp_path: Path) -> None:
    """Pytest loads it in the runs of all projects. NumPy and others cost 0.2 to 0.6 s there."""
    code = "import sys, pytest; before = set(sys.modules); import sftref.pytest_plugin; "
    code += "print(*sorted({name.partition('.')[0] for name in sys.modules.keys() - before}))"
    new = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60, check=True, capture_output=True)
    assert set(new.stdout.decode().split()) <= {"sftref", "tomllib"}


def test_the_parent_imports_no_jax(tmp_path: Path) -> None:
    names = ("cli", "run.verify", "report.explain", "report.compare", "report.terminal", "pytest_plugin.plugin")
    code = "import sys; from sftref import cli; " + "; ".join(f"import sftref.conformance.{name}" for name in names)
    code += "; assert not {'jax', 'flax', 'rich.live', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=60)


@pytest.mark.parametrize(
    "arguments",
    [
        # A named trainer is loaded in every process, also in those without its checks.
        ["--adapter", "sftref.conformance.adapters.sftref:single", "--only", "copies.round_trip"],
        pytest.param([], marks=pytest.mark.slow),
    ],
    ids=["copies", "all"],
)
def test_verify_imports_none_of_the_heavy_packages_in_any_process(arguments: list[str], tmp_path: Path) -> None:
    """The real kit and JAX; each of the packages leaves a file when it is imported."""
    for name in ("transformers", "datasets", "evaluate", "torch"):
        mark = f"import os\nopen(os.path.join({str(tmp_path)!r}, 'imported'), 'a').write({name!r})\n"
        (tmp_path / "trap" / name).mkdir(parents=True)
        (tmp_path / "trap" / name / "__init__.py").write_text(mark)
    command = [sys.executable, "-m", "sftref.cli", "verify", "--level", "quick", "--out", "out", *arguments]
    variables = os.environ | {"PYTHONPATH": str(tmp_path / "trap")}
    completed = subprocess.run(
        command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=600, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    quiet = {check["message"] for check in report["checks"] if check["status"] != "pass"}
    assert quiet <= {"capability devices is not claimed"}, "`single` has one device"
    assert report["environment"]["versions"]["jax"]
    assert len(report["environment"]["devices"]) == 8
    assert not (tmp_path / "imported").exists()
