"""One process of several -> a worker that runs it, and a supervisor that can still write when the worker is gone.

JAX ends a process that has lost another one from a thread of its own, by SIGABRT, and the kernel ends one that uses too
much memory by SIGKILL: no Python code in it sees either. So the worker is a child process. Its lines are kept in
OUT/logs/process-I.log, those of process 0 are also printed, and when it fails one line says how, and which was lost.
"""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from sftref.cluster.distributed import HEARTBEAT, LOST, lost
from sftref.cluster.endings import how_it_ended, last_words, tie

# Set in the worker's environment.
WORKER = "SFTREF_WORKER"
# The worker prints this with its number once it has joined the others.
JOINED = "sftref: joined as process "
LOGS = "logs"
# Begins the lines that gloo prints on stdout for each group of processes it connects.
CHATTER = "[Gloo] "
# The call in which JAX waits for all processes to join.
JOINING = "RegisterTask"
# Begins what faulthandler writes when a deadline has passed.
TIMEOUT = "Timeout ("


class Output:
    """The worker's output: kept in a log, and printed if it is process 0."""

    def __init__(self, out: Path | None) -> None:
        self.process: int | None = None
        self.last: deque[str] = deque(maxlen=400)
        self._out, self._early = out, list[tuple[str, IO[str]]]()
        self._log: IO[str] | None = None
        self._lock = threading.Lock()

    def copy(self, pipe: IO[str], to: IO[str]) -> None:
        """Take each line of `pipe` until it is closed; `to` is where process 0 prints it."""
        for line in pipe:
            with self._lock:
                if self.process is None and line.startswith(JOINED):
                    self._joined(int(line.removeprefix(JOINED).split()[0]))
                else:
                    self._take(line, to)

    def _joined(self, process: int) -> None:
        self.process = process
        if self._out is not None:
            folder = self._out / LOGS
            folder.mkdir(parents=True, exist_ok=True)
            self._log = (folder / f"process-{process}.log").open("a", buffering=1)
        early, self._early = self._early, []
        for line, to in early:
            self._take(line, to)

    def _take(self, line: str, to: IO[str]) -> None:
        chatter = line.startswith(CHATTER)
        if not chatter:
            self.last.append(line.rstrip("\n"))
        if self.process is None:
            self._early.append((line, to))
            return
        if self._log is not None:
            self._log.write(line)
        if self.process == 0 and not chatter:
            to.write(line)
            to.flush()

    def close(self) -> None:
        """Print the lines of a worker that has not joined."""
        for line, to in self._early:
            to.write(line)
        if self._log is not None:
            self._log.close()


def run(argv: Sequence[str], out: Path | None) -> int:
    """Run `sftref ARGV` in a worker; its exit code, or `LOST` where the worker or a process it needs was lost."""
    output = Output(out)
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "sftref.cli", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=os.environ | {WORKER: "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        preexec_fn=functools.partial(tie, os.getpid()),  # noqa: PLW1509 - no thread is started before
    )

    def end(number: int, frame: FrameType | None) -> None:
        worker.send_signal(number)

    # A Ctrl-C reaches the worker itself: it is in the same process group.
    for number, handler in ((signal.SIGINT, lambda *_: None), (signal.SIGTERM, end), (signal.SIGHUP, end)):
        signal.signal(number, handler)
    assert worker.stdout is not None
    assert worker.stderr is not None
    pairs = ((worker.stdout, sys.stdout), (worker.stderr, sys.stderr))
    threads = [threading.Thread(target=output.copy, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    code = worker.wait()
    for thread in threads:
        thread.join()
    output.close()
    message, code = explain(output, code)
    if message:
        print(f"sftref: {message}", file=sys.stderr, flush=True)
    return code


def leave(code: int, error: BaseException) -> NoReturn:
    """End a worker that failed, at once: Python's own exit would wait for the other processes.

    If JAX failed because the connection to another process is gone, JAX's heartbeats first get the time to find out
    which process that was, and to end this one.
    """
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError):
        sys.stderr.flush()
        time.sleep(2 * HEARTBEAT + 5)
        code = LOST
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def explain(output: Output, code: int) -> tuple[str, int]:
    """A line about the end of a worker, empty if it needs none, and the exit code of the supervisor."""
    who = "a process that joined no other" if output.process is None else f"process {output.process}"
    words = "\n".join(output.last)
    others = [str(number) for number in lost(words) if number != output.process]
    where = "see the logs of all processes in OUT/logs; --resume continues from the newest checkpoint"
    if output.process is None and code < 0 and JOINING in words:
        return (
            "not all processes joined within --wait, or the coordinator cannot be reached; start all of them, with an "
            "address of process 0 that each can reach",
            LOST,
        )
    if any(line.startswith(TIMEOUT) for line in output.last):
        return f"{who} got no answer from the others, all of which are running; {where}", LOST
    if code < 0 or code == LOST:
        if others:
            return f"{who} lost process {', '.join(others)}, which sent no heartbeat for {HEARTBEAT} s; {where}", LOST
        if code == LOST:
            return f"{who} lost the connection to another process; {where}", LOST
        if code in (-signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT):
            return f"{who} was ended by {how_it_ended(code)}", 128 - code
        return f"{who} ended by {how_it_ended(code)}; last output: {last_words(output.last)}", LOST
    # Process 0 has printed its error itself.
    silent = code in (0, 130) or output.process in (None, 0)
    return ("" if silent else f"{who}: {last_words(output.last, 1).removeprefix('sftref: ')}"), code
