"""One process of several -> a worker that runs it, and somebody beside it who can still speak when it is gone.

JAX ends a process that has lost another one from a thread of its own, by SIGABRT, and the kernel ends one that has
taken too much memory by SIGKILL: no Python code sees either. So the worker is a child. Its lines are kept in
OUT/logs/process-I.log, those of process 0 are passed on, and when it ends badly one line says how, and who was lost.
"""

from __future__ import annotations

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
from sftref.cluster.endings import how_it_ended, last_words, tied_to

# Set for the worker.
WORKER = "SFTREF_WORKER"
# The worker says who it is, once it has joined the others.
JOINED = "sftref: joined as process "
LOGS = "logs"
# What JAX's library for messages between CPUs says on stdout of every group that it makes.
CHATTER = "[Gloo] "
# The call in which JAX waits for all processes to come.
JOINING = "RegisterTask"
# How faulthandler begins when a deadline is over.
TIMEOUT = "Timeout ("


class _Voice:
    """What the worker says: kept, and passed on from process 0."""

    def __init__(self, out: Path | None) -> None:
        self.process: int | None = None
        self.last: deque[str] = deque(maxlen=400)
        self._out, self._early = out, list[tuple[str, IO[str]]]()
        self._log: IO[str] | None = None
        self._lock = threading.Lock()

    def listen(self, pipe: IO[str], to: IO[str]) -> None:
        """Take every line of `pipe`, which is that of `to`, until it is closed."""
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
        if not line.startswith(CHATTER):
            self.last.append(line.rstrip("\n"))
        if self.process is None:
            self._early.append((line, to))
            return
        if self._log is not None:
            self._log.write(line)
        if self.process == 0 and not line.startswith(CHATTER):
            to.write(line)
            to.flush()

    def close(self) -> None:
        """Pass on what a worker said that never joined."""
        for line, to in self._early:
            to.write(line)
        if self._log is not None:
            self._log.close()


def run(argv: Sequence[str], out: Path | None) -> int:
    """Run `sftref ARGV` in a worker; its exit code, or `LOST` where it, or a process that it needs, was lost."""
    voice = _Voice(out)
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "sftref.cli", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=os.environ | {WORKER: "1", "PYTHONUNBUFFERED": "1"},
        preexec_fn=tied_to(os.getpid()),  # noqa: PLW1509 - no thread is started before
    )

    def end(number: int, frame: FrameType | None) -> None:
        worker.send_signal(number)

    # A Ctrl-C reaches the worker by itself: it is of the same group.
    for number, handler in ((signal.SIGINT, lambda *_: None), (signal.SIGTERM, end), (signal.SIGHUP, end)):
        signal.signal(number, handler)
    assert worker.stdout is not None
    assert worker.stderr is not None
    threads = [
        threading.Thread(target=voice.listen, args=pair)
        for pair in ((worker.stdout, sys.stdout), (worker.stderr, sys.stderr))
    ]
    for thread in threads:
        thread.start()
    code = worker.wait()
    for thread in threads:
        thread.join()
    voice.close()
    message, code = _explain(voice, code)
    if message:
        print(f"sftref: {message}", file=sys.stderr, flush=True)
    return code


def leave(code: int, error: BaseException) -> NoReturn:
    """End a worker that failed, at once: its way out would wait for the others, who may wait for it.

    Where it was JAX that failed, because the connection to another process is gone, it first gives JAX's own watch
    the time to find out which process that was, and to end this one.
    """
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError):
        sys.stderr.flush()
        time.sleep(2 * HEARTBEAT + 5)
        code = LOST
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _explain(voice: _Voice, code: int) -> tuple[str, int]:
    """What to say of the end of a worker, and the exit code."""
    who = "a process that joined no other" if voice.process is None else f"process {voice.process}"
    words = "\n".join(voice.last)
    gone = [number for number in lost(words) if number != voice.process]
    where = "see the logs of all processes in OUT/logs; --resume goes on from the newest checkpoint"
    if voice.process is None and code < 0 and JOINING in words:
        return (
            "not all processes came within --wait, or the coordinator cannot be reached; start them all, with an "
            "address of process 0 that each of them reaches",
            LOST,
        )
    if any(line.startswith(TIMEOUT) for line in voice.last):
        return f"{who} waited in vain for the others, all of which are alive; {where}", LOST
    if code < 0 or code == LOST:
        if gone:
            named = f"lost process {', '.join(map(str, gone))}, of which no sign came for {HEARTBEAT} s"
            return f"{who} {named}; {where}", LOST
        if code == LOST:
            return f"{who} lost the connection to another process; {where}", LOST
        if code in (-signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT):
            return f"{who} was ended by {how_it_ended(code)}", 128 - code
        return f"{who} ended by {how_it_ended(code)}; last output: {last_words(voice.last)}", LOST
    # A process other than 0 is not heard, but for how it failed.
    failed = code not in (0, 130) and voice.process not in (None, 0)
    return (f"{who}: {last_words(voice.last, 1).removeprefix('sftref: ')}" if failed else ""), code
