"""`sftref bench` and `pytest --sftref-benchmark`, run as commands."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from sftref.conformance.benchmarks import cli as bench
from sftref.conformance.workers.plan import KIT

from sftref import cli

# `sftref bench` never imports JAX; this process has it, and Python warns of a fork beside its threads.
pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore:os.fork")]
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
ONE = ["--sftref-benchmark", "--sftref-time", "dispatch", "--sftref-devices", "1"]
FOLDER = Path(".benchmarks/1-x-cpu-small")
# Compared with runs three times as fast; on a busy machine wall time may be ambiguous while processor time is not.
SLOWER = re.compile("FAIL: 1 benchmarks on 1 x cpu, small: 1 FAIL; dispatch: (wall|cpu) time")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # These tests may run in a worker of pytest-xdist, but their child processes do not.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def pytest_run(*words: str, folder: Path = Path()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PYTEST, *ONE, *words], capture_output=True, text=True, check=False, timeout=300, cwd=folder)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a run was stored as `mine`, with its reports in `out`."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_XDIST_WORKER", raising=False)
        ended = pytest_run("--benchmark-save", "mine", "--sftref-bench-out", "out", folder=folder)
    assert ended.returncode == 0, ended.stdout
    assert "RECORDED: 1 benchmarks on 1 x cpu, small: 1 RECORDED; report: out/bench.html" in ended.stdout
    return folder


def stored_again(recorded: Path) -> Path:
    """The file of that run, in a copy here."""
    shutil.copytree(recorded, ".", dirs_exist_ok=True)
    (path,) = stored(FOLDER)
    return path


def stored(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.json"))


def three_times_as_fast(path: Path, content: dict[str, Any]) -> None:
    """Store three runs that were three times as fast and scattered little."""
    (bench,) = content["benchmarks"]
    relative = bench["extra_info"]["sftref"]["relative"]
    for number in (1, 2, 3):
        bench["extra_info"]["sftref"]["relative"] = {s: r / 3 * (1 + number / 1000) for s, r in relative.items()}
        path.with_name(f"000{number}_mine.json").write_text(json.dumps(content))


def test_a_run_is_stored_and_later_ones_are_compared_with_it(recorded: Path) -> None:
    path = stored_again(recorded)
    content = json.loads(path.read_text())
    assert content["machine_info"]["sftref"]["where"] == "1 x cpu, small"
    assert "jax" in content["machine_info"]["sftref"]["versions"]
    (bench,) = content["benchmarks"]
    assert bench["stats"]["rounds"] == len(bench["stats"]["data"]) == bench["extra_info"]["sftref"]["rounds"]
    report = json.loads(Path("out/bench.json").read_text())
    assert (report["verdict"], report["exit_code"]) == ("RECORDED", 0)
    assert "<svg" not in Path("out/bench.html").read_text(), "nothing was compared yet"

    three_times_as_fast(path, content)
    slower = pytest_run("--junitxml", "junit.xml", "--sftref-bench-out", "out", "--benchmark-autosave")
    assert slower.returncode == 1, slower.stdout
    assert SLOWER.search(slower.stdout)
    assert "Traceback" not in slower.stdout + slower.stderr
    assert ElementTree.parse("junit.xml").getroot()[0].get("failures") == "1"
    assert Path("out/bench.html").read_text().count("<svg") == 1


def test_bench_runs_in_any_folder(capfd: pytest.CaptureFixture[str]) -> None:
    """In a checkout whose package has no kit inside, beside conftest.py files that must not run."""
    for folder in ("sftref", ".", "tests", "quick", "cpu", "1"):
        Path(folder).mkdir(exist_ok=True)
        Path(folder, "__init__.py" if folder == "sftref" else "conftest.py").write_text("open('run', 'a')\n")
    assert cli.main(["bench", "--only", "dispatch", "--devices", "1", "--platform", "cpu", "--save", "1"]) == 0
    assert "RECORDED: 1 benchmarks on 1 x cpu, small" in capfd.readouterr().out
    assert not Path("run").exists()


def test_a_slower_benchmark_is_rerun_in_new_processes(recorded: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = stored_again(recorded)
    three_times_as_fast(path, json.loads(path.read_text()))
    assert cli.main(["bench", "--only", "dispatch", "--devices", "1", "--platform", "cpu"]) == 1
    out = capfd.readouterr().out
    assert "rerun in a new process, 2 of 3: dispatch" in out
    assert "rerun in a new process, 3 of 3: dispatch" in out
    last = out.strip().splitlines()[-1]
    assert SLOWER.match(last)
    assert last.endswith("report: sftref-bench/bench.html")
    report = json.loads(Path("sftref-bench/bench.json").read_text())
    assert (report["verdict"], report["benchmarks"][0]["by_clock"]) == ("FAIL", True)
    assert len(stored(FOLDER)) == 3, "a slower run is not stored"


def test_a_copied_kit_times_with_its_own_code(tmp_path: Path) -> None:
    shutil.copytree(KIT, tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    words = [sys.executable, "-m", "mine", "bench", "--only", "dispatch", "--devices", "1", "--platform", "cpu"]
    kernels = tmp_path / "mine" / "benchmarks" / "measuring" / "kernels.py"
    kernels.write_text(kernels.read_text() + "\nprint('from the copy')\n")
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "from the copy" in ended.stdout
    assert "RECORDED: 1 benchmarks on 1 x cpu, small" in ended.stdout


def test_saved_runs_into_an_empty_folder_are_recorded(capfd: pytest.CaptureFixture[str]) -> None:
    # Two: the third is compared with how two scatter, which beside other work may say FAIL.
    words = ["bench", "--only", "dispatch", "--devices", "1", "--platform", "cpu", "--save", "--runs", "2"]
    assert cli.main(words) == 0
    assert capfd.readouterr().out.count("RECORDED: 1 benchmarks on 1 x cpu, small: 1 RECORDED") == 2
    assert len(stored(FOLDER)) == 2


@pytest.mark.parametrize(
    ("ended", "code"),
    [((4, 1, 4), 1), ((0, 4, 0), 4), ((0, 0, 0), 0), ((1, 3), 3)],
    ids=["fail", "open", "none", "hang"],
)
def test_the_worst_of_several_runs_is_the_exit_code(
    ended: tuple[int, ...], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = iter(ended)
    monkeypatch.setattr(bench, "_session", lambda _: next(codes))
    monkeypatch.setattr(bench, "_confirmed", lambda *_: 1)
    assert cli.main(["bench", "--runs", "3"]) == code


@pytest.mark.parametrize("option", ["--benchmark-disable", "--benchmark-skip"])
def test_a_run_that_would_time_nothing_is_refused(option: str) -> None:
    ended = pytest_run(option)
    assert ended.returncode == 4
    assert "nothing would be timed" in ended.stderr


def test_parallel_processes_are_refused() -> None:
    ended = pytest_run("-n", "2")
    assert ended.returncode == 4
    assert "-n 2 with --sftref-benchmark: parallel processes slow each other down; omit -n" in ended.stderr


def test_stored_runs_of_other_devices_are_refused_by_name(recorded: Path) -> None:
    path = stored_again(recorded)
    content = json.loads(path.read_text())
    content["machine_info"]["sftref"]["where"] = "8 x NVIDIA H100, base"
    Path("other.json").write_text(json.dumps(content))
    ended = pytest_run("--benchmark-compare", "other.json")
    assert ended.returncode == 4
    assert "other.json: measured on 8 x NVIDIA H100, base, must be 1 x cpu, small as in this run" in ended.stderr


def test_benchmarks_run_only_with_their_option() -> None:
    words = ["--collect-only", "-q", "--pyargs", "sftref.conformance", "--sftref-only", "environment"]
    ended = subprocess.run([*PYTEST, *words], capture_output=True, text=True, check=False, timeout=300)
    assert "test_0_environment.py" in ended.stdout
    assert "test_speed" not in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--matters", "0"], "--matters = 0, must be above 0 and at most 1, as 0.05 is for 5 %"),
        (["--matters", "7"], "--matters = 7, must be above 0 and at most 1, as 0.05 is for 5 %"),
        (["--runs", "0"], "--runs = 0, must be at least 1"),
        (["--devices", "0"], "--devices = 0, must be at least 1"),
        (["--against", "python", "--save"], "--against with --save, --storage or --runs"),
        (["--against", "/no/python"], "--against /no/python: must be a Python interpreter"),
        (["--against", "a:B"], "--against a:B: compares one trainer with another; name yours with --adapter"),
        (["--adapter", "nothing"], "must be MODULE:FACTORY"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_missing_package_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert cli.main(["bench"]) == 2
    assert capsys.readouterr().err == (
        "sftref: bench needs pytest-benchmark; install it with: pip install pytest-benchmark\n"
    )


def test_an_id_that_matches_nothing_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--only", "nothing"]) == 2
    err = capfd.readouterr().err
    assert "--only = nothing matches no benchmark at level quick; there are: collective.all_gather" in err


@pytest.mark.parametrize("platform", ["gpu", "cuda"])
def test_a_missing_platform_is_not_replaced_by_another(platform: str, capfd: pytest.CaptureFixture[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    words = [sys.executable, "-m", "sftref.cli", "bench", "--platform", platform, "--only", "dispatch"]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 2
    assert f"--platform = {platform}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not Path(".benchmarks").exists()


def test_two_sides_that_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["bench", "--against", sys.executable, "--only", "dispatch", "--matters", "1", "--devices", "1"])
    out = capsys.readouterr().out
    assert "1 benchmarks on 1 x cpu, small: JAX" in out
    assert code == 0, out
    assert out.splitlines()[-1].startswith("PASS: 1 benchmarks on 1 x cpu, small: 1 PASS; report: ")
    sides = json.loads(Path("sftref-bench/bench.json").read_text())["sides"]
    assert sides["before"]["versions"] == sides["after"]["versions"]
