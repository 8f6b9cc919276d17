"""A process lost outside of any check is in the report and the verdict; a killed run leaves no old report."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from ladders import ADAPTER, KIT, Copy
from sftref.conformance.run import scratch
from sftref.conformance.workers.plan import SCRATCH

Make = Callable[..., Copy]
IMPORTS = "import os, sys, threading, time\nfrom pathlib import Path\n"


@pytest.fixture
def copy(tmp_path: Path) -> Make:
    def make(ladder: list[tuple[int, str]], adapter: str = "", **more: float) -> Copy:
        made = Copy(tmp_path / "copy", ladder, **more)
        (made.folder / "stand_in.py").write_text(f"{IMPORTS}{ADAPTER}{adapter}")
        return made

    return make


def after_each(made: Copy, end: str, once: bool = False) -> Copy:
    """Have the process of the rung-6 checks end between two checks; with `once`, only the first process."""
    flag = f"p = Path({str(made.folder / 'gone')!r}); first = not p.exists(); p.touch(); " if once else "first = True; "
    # The event of a result is written before the teardown of its check.
    with (made.kit / "laws" / "machine" / "test_6_fates.py").open("a") as file:
        file.write(f"\n\ndef teardown_function(function):\n    {flag}first and {end}\n")
    return made


LADDER = [(0, "passes"), (6, "passes-1"), (6, "passes-2"), (6, "passes-3")]


@pytest.mark.parametrize(("end", "how"), [
    ("os.kill(os.getpid(), 9)", "SIGKILL, which the kernel also sends when memory runs out"),
    ("os._exit(7)", "exit code 7"),
    ("os._exit(0)", "exit code 0"),
])  # fmt: skip
def test_a_process_lost_between_two_checks_is_no_pass(copy: Make, end: str, how: str) -> None:
    ended = after_each(copy(LADDER), end, once=True).verify("--no-self-test")
    assert ended.code == 3, ended.out
    [trouble] = ended.report["troubles"]
    message = "the process of trainer Trainer (--adapter stand_in:Trainer) was lost once between checks (ended early, "
    assert trouble.startswith(message)
    assert how in trouble
    assert trouble.endswith("), and a new process continued")
    assert ended.verdict.startswith(f"UNRESPONSIVE: 4 of 4 checks passed, {trouble}")
    assert set(ended.statuses.values()) == {"pass"}


def test_a_process_that_is_lost_after_each_check(copy: Make) -> None:
    ended = after_each(copy(LADDER), "os._exit(7)").verify("--no-self-test")
    assert ended.code == 3
    assert "was lost 2 times between checks (ended early, before the check began: exit code 7)" in ended.verdict


@pytest.mark.parametrize(("body", "code", "start"), [
    ("os._exit(0)", 2, "SETUP: --adapter stand_in:Trainer: the process ended early, while the adapter was loaded: ex"),
    ("sys.exit(0)", 2, "SETUP: --adapter stand_in:Trainer: could not be made (SystemExit: 0)"),
    ("os.abort()", 3, "UNRESPONSIVE: 0 of 2 checks passed, --adapter stand_in:Trainer: the process ended early"),
    ("time.sleep(60)", 3, "UNRESPONSIVE: 0 of 2 checks passed, --adapter stand_in:Trainer: it is not loaded: no answer "
     "within 2 s; it was in __init__ (copy/stand_in.py:"),
])  # fmt: skip
def test_an_adapter_that_ends_or_holds_its_process_in_its_constructor(
    copy: Make, body: str, code: int, start: str
) -> None:
    made = copy([(0, "passes"), (6, "passes")], f"    def __init__(self): {body}\n")
    made.edit("workers/process.py", r"LOADING, STOPPED = .*", "LOADING, STOPPED = 2.0, 30.0")
    began = time.monotonic()
    ended = made.verify("--no-self-test")
    assert ended.verdict.startswith(start), ended.verdict
    assert ended.code == code
    assert time.monotonic() - began < 30
    jsonschema.validate(ended.report, json.loads((KIT / "report" / "report.schema.json").read_text()))


def test_a_stopped_process_is_named(copy: Make) -> None:
    made = copy([(0, "passes"), (3, "passes")], deadline=100.0)
    made.edit("laws/machine/test_3_fates.py", "check.equal", "os.kill(os.getpid(), 19); check.equal")
    made.edit("workers/process.py", r"LOADING, STOPPED = .*", "LOADING, STOPPED = 120.0, 2.0")
    began = time.monotonic()
    ended = made.verify("--no-self-test")
    assert ended.code == 3
    assert ended.check("r3.passes")["status"] == "hang"
    assert (
        ended.check("r3.passes")["message"]
        == "its process was stopped by a signal, as by SIGSTOP, and did not continue"
    )
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGINT, signal.SIGINT]])
def test_a_killed_run_replaces_the_report_before_it(copy: Make, tmp_path: Path, signals: list[int]) -> None:
    made = copy([(0, "passes"), (1, "waits")], deadline=100.0)
    out = made.folder / "sftref-report"
    assert made.verify("--only", "0", "--no-self-test").report["verdict"] == "CONFORMANT"
    flag = tmp_path / "flag"
    process = made.start("--no-self-test", SFTREF_FLAG=str(flag), TMPDIR=str(tmp_path))
    until = time.monotonic() + 60
    while not flag.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    process.communicate(timeout=60)
    report = json.loads((out / "report.json").read_text())
    assert report["verdict"] == "INCOMPLETE"
    assert "CONFORMANT" not in (out / "report.html").read_text().replace("NONCONFORMANT", "")
    jsonschema.validate(report, json.loads((KIT / "report" / "report.schema.json").read_text()))


def test_the_next_run_clears_what_a_killed_one_left(copy: Make, tmp_path: Path) -> None:
    theirs = tmp_path / "sftref-theirs"
    theirs.mkdir()
    made = copy([(0, "waits")], deadline=100.0)
    flag = tmp_path / "flag"
    process = made.start("--no-self-test", SFTREF_FLAG=str(flag), TMPDIR=str(tmp_path))
    until = time.monotonic() + 60
    while not flag.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    [left] = [owner.parent for owner in tmp_path.glob("sftref-*/owner")]
    second = Copy(tmp_path / "second", [(0, "passes")])
    assert second.verify("--no-self-test", TMPDIR=str(tmp_path)).code == 0
    assert left.exists(), "the first run is alive"
    process.kill()
    process.communicate(timeout=60)
    assert left.exists()
    assert second.verify("--no-self-test", TMPDIR=str(tmp_path)).code == 0
    assert not left.exists()
    assert theirs.exists(), "a folder that is not provably the kit's"


def test_a_process_in_a_session_of_its_own_does_not_outlive_the_run(copy: Make) -> None:
    start = "import subprocess\nsubprocess.Popen(['sleep', '97'], start_new_session=True, stderr=subprocess.DEVNULL)\n"
    made = copy([(0, "passes")], start)
    ended = made.verify("--no-self-test")
    assert ended.code == 0, ended.out
    assert "1 process that outlived the run ended (sleep 97)" in ended.verdict
    assert ended.report["outlived"] == ["sleep 97"]
    assert "It outlived the run, and was ended: sleep 97" in (made.folder / "sftref-report" / "report.html").read_text()


def test_only_processes_of_the_run_are_ended(tmp_path: Path) -> None:
    mine, other = tmp_path / "sftref-mine", tmp_path / "sftref-other"
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    running = [subprocess.Popen(command, env=os.environ | {SCRATCH: str(folder)}) for folder in (mine, other)]
    try:
        assert scratch.end_processes(mine) == [" ".join(command)]
        assert running[0].wait(10) == -signal.SIGKILL
        assert running[1].poll() is None
    finally:
        for process in running:
            process.kill()
            process.wait()
