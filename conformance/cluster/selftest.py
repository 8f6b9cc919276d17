"""The self-test of runs on several hosts: each fault of `faults/cluster.toml` in four processes of this machine.

    python -m sftref.conformance.cluster.selftest [FAULT ...]

prints a line for each fault: whether the report names the right host or link, and after how many seconds.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.kit import KIT, PACKAGE
from ..faults.cluster import VARIABLE
from ..workers.channel import free_port, importable

PROCESSES = 4
# The checks of a trial, besides those that a fault needs; the pairs and collectives always run.
ONLY = ("copies.round_trip", "processes.devices")
# Seconds for one trial.
DEADLINE = 1800


def faults() -> list[dict[str, Any]]:
    """The entries of `faults/cluster.toml`."""
    return list(tomllib.loads((KIT / "faults" / "cluster.toml").read_text(encoding="utf-8"))["fault"])


def trial(fault: dict[str, Any] | None, out: Path, processes: int = PROCESSES) -> tuple[int, dict[str, Any]]:
    """Run `verify` in several processes with a fault, or none; returns the exit code of process 0 and the report."""
    only = [fault["only"]] if fault and "only" in fault else []
    words = [sys.executable, "-P", "-m", PACKAGE, "verify", "--level", "quick", "--out", str(out)]
    words += [word for check in (*ONLY, *only) for word in ("--only", check)]
    words += ["--coordinator", f"localhost:{free_port()}", "--num-processes", str(processes)]
    variables = importable() | ({VARIABLE: f"{fault['id']}@{fault['at']}"} if fault else {})
    started = [
        subprocess.Popen([*words, "--process-id", str(number)], env=variables, stdout=subprocess.DEVNULL)
        for number in range(processes)
    ]
    until = time.monotonic() + DEADLINE
    try:
        codes = [process.wait(max(until - time.monotonic(), 1)) for process in started]
    finally:
        for process in started:
            process.kill()  # the kernel then ends the children
    return codes[0], dict(json.loads((out / "report.json").read_text(encoding="utf-8")))


def missed(fault: dict[str, Any], code: int, report: dict[str, Any]) -> list[str]:
    """What a report does not say although it must; empty if it names the fault, and blames no other host."""
    cluster = report["cluster"]
    phases = {host["process"]: host["phase"] for host in cluster["hosts"] if host["phase"] is not None}
    hosts = fault.get("hosts", [])
    # Both ends of a link have it, and so has a pair that was silent for a time.
    ends = {process for pair in fault.get("bad_links", []) for process in pair}
    if fault["id"] == "partition-that-heals":
        [(a, b, *_)] = [pair for pair in cluster["pairs"] if pair[2] != "pass"] or [(-1, -1)]
        ends = {a, b}
    wants = {
        "exit code": (code, fault["exit_code"]),
        "bad hosts": (cluster["bad_hosts"], hosts),
        "bad links": (cluster["bad_links"], fault.get("bad_links", [])),
        "hosts with a fault, and their phases": (phases, dict.fromkeys([*hosts, *sorted(ends)], fault.get("phase"))),
    }
    texts = [f"{name}: {got}, should be {want}" for name, (got, want) in wants.items() if got != want]
    names = [one["name"] for one in cluster["differences"]]
    if names != ([fault["difference"]] if "difference" in fault else []):
        texts.append(f"differences: {names}")
    return texts


def main(ids: Sequence[str]) -> int:
    """Run the trials; returns 0 if every fault was named, else 5."""
    wrong = 0
    for fault in [fault for fault in faults() if not ids or fault["id"] in ids]:
        with tempfile.TemporaryDirectory(prefix="sftref-") as folder:
            began = time.monotonic()
            texts = missed(fault, *trial(fault, Path(folder)))
            wrong += bool(texts)
            took = f"{time.monotonic() - began:.0f} s"
            print(f"{'XX' if texts else 'ok'} {fault['id']}: {'; '.join(texts) or 'named'}, {took}", flush=True)
    return 5 if wrong else 0


if __name__ == "__main__":
    os.environ.pop("SFTREF_COORDINATOR", None)
    sys.exit(main(sys.argv[1:]))
