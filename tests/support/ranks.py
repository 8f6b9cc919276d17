"""Starts the processes of one `sftref train` on this machine, waits for their end, and reads their records."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sftref.conformance.laws.support.process_group import free_port

Ended = subprocess.CompletedProcess[str]


@contextlib.contextmanager
def started(
    processes: int,
    words: Sequence[str],
    *,
    extra: Mapping[int, Sequence[str]] | None = None,
    variables: Mapping[int, Mapping[str, str]] | None = None,
    folders: Mapping[int, Path] | None = None,
    absent: Sequence[int] = (),
) -> Iterator[dict[int, subprocess.Popen[str]]]:
    """Run `sftref WORDS` in several processes, which are killed at the end of the `with` block.

    Args:
        processes: the number of processes.
        words: the command and its options.
        extra: further options, by the number of the process.
        variables: further environment variables, by the number of the process.
        folders: the working directory, by the number of the process.
        absent: the numbers of the processes that are not started.
    """
    port = free_port()
    running = {}
    for number in sorted(set(range(processes)) - set(absent)):
        mine = ["--coordinator", f"localhost:{port}", "--num-processes", str(processes), "--process-id", str(number)]
        running[number] = subprocess.Popen(
            [sys.executable, "-P", "-m", "sftref.cli", *words, *mine, *(extra or {}).get(number, ())],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=(folders or {}).get(number),
            env=os.environ | dict((variables or {}).get(number, {})),
            start_new_session=True,
        )
    try:
        yield running
    finally:
        for process in running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ends(running: Mapping[int, subprocess.Popen[str]], timeout: float) -> dict[int, Ended]:
    """Wait for all processes, at most `timeout` seconds in total. Returns the exit code and output of each.

    Raises:
        subprocess.TimeoutExpired: a process has not ended in time.
    """
    until = time.monotonic() + timeout
    ended = {}
    for number, process in running.items():
        output = process.communicate(timeout=max(1.0, until - time.monotonic()))
        ended[number] = subprocess.CompletedProcess(process.args, process.returncode, *output)
    return ended


def worker(process: subprocess.Popen[str]) -> int:
    """The process id of the worker that one `sftref train` of several has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def until(path: Path, timeout: float = 120.0) -> None:
    """Wait until a file or a folder exists."""
    end = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{path} did not appear within {timeout:g} s")
        time.sleep(0.1)


def records(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    """The loss of each update."""
    return [line["loss"] for line in records(out) if line["kind"] == "step"]
