"""`verify` in several processes of this machine: right ones, killed ones, ones that never come, and seeded faults."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sftref.conformance.cluster import selftest
from sftref.conformance.core.kit import PACKAGE
from sftref.conformance.workers.channel import free_port, importable

pytestmark = [pytest.mark.slow, pytest.mark.once]
CHECKS = ("--level", "quick", "--only", "copies.round_trip", "--only", "processes.devices")
MARK = "SFTREF_TEST_CLUSTER"
DEADLINE = 600


def left(mark: str) -> list[str]:
    """The commands of processes that have the mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


class Group:
    """Started processes of a run."""

    def __init__(self, out: Path, processes: int) -> None:
        self.out, self.mark, self.address = out, str(out), f"localhost:{free_port()}"
        self.processes, self.running = processes, dict[int, subprocess.Popen[str]]()

    def start(self, number: int, *more: str) -> None:
        words = [sys.executable, "-P", "-m", PACKAGE, "verify", *CHECKS, "--out", str(self.out), *more]
        words += ["--coordinator", self.address, "--num-processes", str(self.processes), "--process-id", str(number)]
        self.running[number] = subprocess.Popen(
            words, env=importable() | {MARK: self.mark}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def ended(self, number: int) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a process."""
        process = self.running[number]
        texts = process.communicate(timeout=DEADLINE)
        return process.returncode, *texts

    def until(self, phase: str) -> None:
        """Wait until process 1 has been given a job of a phase."""
        log, end = self.out / "logs" / "process-1.log", time.monotonic() + DEADLINE
        while not (log.is_file() and f": {phase}" in log.read_text()):
            assert time.monotonic() < end, f"{phase} did not begin"
            time.sleep(0.1)

    def report(self) -> Any:
        return json.loads((self.out / "report.json").read_text())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Group]]:
    groups = []

    def started(processes: int, *more: str, missing: int | None = None) -> Group:
        groups.append(Group(tmp_path / "out", processes))
        for number in range(processes):
            if number != missing:
                groups[-1].start(number, *more)
        return groups[-1]

    yield started
    for group in groups:
        for process in group.running.values():
            process.kill()
            process.wait()
        time.sleep(2)
        assert left(group.mark) == []


def test_right_hosts_are_conformant_and_no_process_is_left(start: Any) -> None:
    group = start(3)
    code, out, _ = group.ended(0)
    assert (code, out.splitlines()[-1].partition(":")[0]) == (0, "CONFORMANT")
    assert [group.ended(number)[0] for number in (1, 2)] == [0, 0]
    report = group.report()
    assert [host["status"] for host in report["cluster"]["hosts"]] == ["pass"] * 3
    assert [pair[2] for pair in report["cluster"]["pairs"]] == ["pass"] * 3
    assert {check["id"] for check in report["checks"]} == {
        "copies.round_trip", "processes.devices", "processes.collectives",
    }  # fmt: skip
    assert sorted(path.name for path in (group.out / "logs").iterdir()) == [f"process-{k}.log" for k in range(3)]


def test_a_killed_process_is_named_and_the_others_go_on_without_it(start: Any) -> None:
    group = start(3)
    group.until("group")
    group.running[1].kill()
    code, out, _ = group.ended(0)
    assert code == 3
    assert "process 1" in out.splitlines()[-1]
    assert group.ended(2)[0] == 0
    cluster = group.report()["cluster"]
    assert (cluster["hosts"][1]["status"], cluster["bad_hosts"], cluster["bad_links"]) == ("lost", [1], [])
    assert cluster["hosts"][0]["states"]["together"] == "pass"


def test_without_process_0_the_others_end_within_seconds(start: Any) -> None:
    group = start(3)
    group.until("alone")
    group.running[0].kill()
    for number in (1, 2):
        code, _, words = group.ended(number)
        assert code == 3
        found = re.search(rf"sftref: process {number}: process 0 is lost: \S+ no answer for (\d+) s", words)
        assert found is not None
        assert int(found[1]) <= 20


def test_a_process_that_never_comes_is_named(start: Any) -> None:
    group = start(3, "--wait", "40", missing=2)
    code, out, _ = group.ended(0)
    assert code == 3
    assert "process 2 (host unknown): start: it did not come within --wait 40 s" in out
    assert [pair[:3] for pair in group.report()["cluster"]["pairs"]] == [[0, 1, "pass"]]


def test_a_signal_ends_all_and_leaves_a_report(start: Any) -> None:
    group = start(3)
    group.until("alone")
    # Not SIGINT, which a shell's background jobs ignore, and their children with them.
    group.running[0].send_signal(signal.SIGTERM)
    assert group.ended(0)[0] == 128 + signal.SIGTERM
    assert [group.ended(number)[0] for number in (1, 2)] == [0, 0]
    assert group.report()["verdict"] == "INCOMPLETE"


@pytest.mark.parametrize("fault", selftest.faults(), ids=lambda fault: fault["id"])
def test_each_seeded_fault_is_named(fault: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, MARK, str(tmp_path))
    assert selftest.missed(fault, *selftest.trial(fault, tmp_path)) == []
    assert left(str(tmp_path)) == [] or all("pytest" in command for command in left(str(tmp_path)))
