"""A child process, as its parent sees it: its start, its events, calls and their answers, its stack, its end.

There is one protocol. A child writes events to a pipe, one JSON object a line; `event` names the kind:

    {"event": "start", "id": ..., "deadline": seconds}      a check begins
    {"event": "result", "id": ..., ...}                     a check has ended: its result
    {"event": "answer", "id": method, "value": ...}         a call has ended: what the method returned
    {"event": "failed", "id": method, "message": ...}       a call has raised

A pytest process of the kit (`process.py`) only writes events. A `Worker` also executes calls: its parent writes
{"id": method, "value": arguments}, a line each, to its standard input. JSON holds no arrays, so a `value` is a pickle
in base64. The child's half is `serve.py`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Self

from ..core.kit import IMPORT_ROOT, PACKAGE
from ..core.result import printable
from . import endings, signals
from .serve import STREAM, packed, unpacked

# Seconds in which a process must write the stacks of its threads down.
DUMP = 2.0
# Seconds between two looks at a process that writes nothing.
POLL = 0.2
# Bytes of a line of output that are kept in memory.
LONGEST = 1 << 20
# Begins the lines that gloo prints for each group of processes it connects.
CHATTER = b"[Gloo]"


class Process:
    """A running child process.

    It is killed when this object is deleted, or this process exits.

    Args:
        command: to be run, with `--sftref-stream=FILE` added: the pipe for its events.
        variables: its whole environment.
        options: of `subprocess.Popen`.

    Attributes:
        output: the last lines of its stderr.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], **options: Any) -> None:
        reads, writes = os.pipe()
        self._events = open(reads, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
        try:
            self.process = subprocess.Popen(
                [*command, f"{STREAM}/dev/fd/{writes}"],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(variables), pass_fds=(writes,), **options,
            )  # fmt: skip
        except OSError:
            self._events.close()
            raise
        finally:
            os.close(writes)
        assert self.process.stderr is not None
        self._stderr = self.process.stderr
        self.output: deque[str] = deque(maxlen=400)
        self._pending: deque[dict[str, Any]] = deque()
        self._unread = {self._events: bytearray(), self._stderr: bytearray()}
        for pipe in self._unread:
            os.set_blocking(pipe.fileno(), False)
        group = options.get("start_new_session", False)
        self._end = weakref.finalize(self, _end, self.process, self._events, group=group)

    def pipes(self) -> list[IO[bytes]]:
        """The pipes that the child has not closed; `wait` waits for them."""
        return list(self._unread)

    def events(self) -> Iterator[dict[str, Any]]:
        """The events that have come.

        An event is removed when the next one is requested: after an interruption by a signal it comes again.
        """
        with signals.held():
            self._read()
        while self._pending:
            yield dict(self._pending[0])
            self._pending.popleft()

    def _read(self) -> None:
        """Read what the pipes hold.

        stderr comes last: a child writes there before it writes an event, so what belongs to an event has come by then.
        """
        events = []
        for line in self._lines(self._events):
            with contextlib.suppress(ValueError):  # a line cut short by the process's death
                events.append(json.loads(line))
        self._read_stderr()
        for event in events:
            self._follow(event)
        self._pending.extend(events)

    def _read_stderr(self) -> None:
        for line in self._lines(self._stderr):
            if not line.startswith(CHATTER):
                self._hear(line)
        if self._stderr in self._unread:
            del self._unread[self._stderr][:-LONGEST]

    def _follow(self, event: dict[str, Any]) -> None:
        """Take note of an event."""

    def _hear(self, line: bytes) -> None:
        """Keep a line of stderr."""
        self.output.append(printable(line[:500].decode(errors="replace")))

    def _lines(self, pipe: IO[bytes]) -> list[bytes]:
        """The whole lines that can be read now, and what is left at the end of the pipe."""
        if pipe not in self._unread:
            return []
        unread = self._unread[pipe]
        searched = len(unread)
        with contextlib.suppress(BlockingIOError):
            while more := os.read(pipe.fileno(), 1 << 16):
                unread += more
            del self._unread[pipe]
            return [line for line in bytes(unread).split(b"\n") if line]
        end = unread.rfind(b"\n", searched) + 1
        lines = bytes(unread[:end]).split(b"\n")[:-1]
        del unread[:end]
        return lines

    def ended(self) -> bool:
        """Whether it has ended; it is not reaped, so that its number and its group remain its own."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def stacks(self) -> list[str]:
        """The stack of each thread, if the process can still write them: `faulthandler` needs no GIL for that."""
        before = len(self.output)
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGUSR1)
        until = time.monotonic() + DUMP
        while time.monotonic() < until and not self.ended():
            self._read_stderr()
            # faulthandler writes line by line: wait until it has been silent for a moment.
            silent = not wait([self._stderr] if self._stderr in self._unread else [], POLL)
            if silent and len(self.output) > before:
                break
        lines = list(self.output)
        first = next((i for i, line in enumerate(lines) if "(most recent call first)" in line), len(lines))
        return lines[first:]

    def close(self) -> int | None:
        """Kill it; its exit code, negative for a signal, None if it cannot be ended."""
        self._end()
        self._unread.clear()
        return self.process.returncode


def _end(process: subprocess.Popen[bytes], events: IO[bytes], *, group: bool) -> None:
    """Kill a process, with its group where it has one of its own, and close its pipes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    for pipe in (events, process.stderr, process.stdin):
        if pipe is not None:
            with contextlib.suppress(OSError):  # a call that was not read
                pipe.close()


@dataclass(frozen=True)
class NoAnswer:
    """Why a call has no answer.

    Attributes:
        how: in words: the error that the method raised, how the process ended, or how long the parent waited.
        silent: whether the process was still running, and did not answer in time.
        code: the exit code of a process that ended, negative for a signal.
    """

    how: str
    silent: bool = False
    code: int | None = None


class Worker(Process):
    """A child process that makes an object and executes calls of its methods, one at a time.

    A context manager, which kills it.

    Args:
        factory: MODULE:NAME of a function or class; the child calls it before the first method.
        arguments: of the factory; what can be pickled.
        python: the interpreter.
        variables: the environment; None for that of this process, where the child imports what this process can.
        alone: in a session of its own, so that what it starts ends with it.

    Raises:
        OSError: `python` cannot be run.
    """

    def __init__(
        self,
        factory: str,
        *arguments: Any,
        python: str = sys.executable,
        variables: Mapping[str, str] | None = None,
        alone: bool = False,
    ) -> None:
        # No `preexec_fn`: it is not safe beside JAX's threads. `serve` ties itself to its parent.
        words = [python, "-P", "-m", f"{PACKAGE}.workers.serve", factory, str(os.getpid())]
        variables = importable() if variables is None else variables
        super().__init__(words, variables, stdin=subprocess.PIPE, start_new_session=alone)
        assert self.process.stdin is not None
        self._calls = self.process.stdin
        self.send(factory, *arguments)

    def send(self, method: str, *arguments: Any, **keywords: Any) -> None:
        """Write a call; `answers` waits for its answer."""
        line = json.dumps({"id": method, "value": packed(*arguments, **keywords)})
        with contextlib.suppress(BrokenPipeError):  # the process has ended, which `answers` reports
            self._calls.write(line.encode() + b"\n")
            self._calls.flush()

    def ask(self, method: str, *arguments: Any, seconds: float, waiting: Callable[[], None] | None = None) -> Any:
        """Call a method; its answer, or a `NoAnswer`: see `answers`."""
        self.send(method, *arguments)
        [answer] = answers([self], seconds, waiting=waiting)
        return answer

    def answered(self) -> list[Any]:
        """The answer to the last call, or a `NoAnswer`, in a list; an empty one if neither has come."""
        over = self.ended()  # before reading: what it wrote before its end is then read too
        for event in list(self.events()):
            return [NoAnswer(event["message"])] if event["event"] == "failed" else list(unpacked(event["value"])[0])
        if not over:
            return []
        code = self.process.wait()
        return [NoAnswer(endings.ended(code, self.output), code=code)]

    def __enter__(self) -> Self:
        """The running process."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it."""
        self.close()


def answers(
    workers: Sequence[Worker], seconds: float, *, grace: float = math.inf, waiting: Callable[[], None] | None = None
) -> list[Any]:
    """The answers to the last call of each worker, in order, with a `NoAnswer` in place of one that did not come.

    Args:
        workers: of each of them one call has no answer yet.
        seconds: for all of them.
        grace: seconds left to the others once one has failed: they may wait for it for ever.
        waiting: is called several times a second.
    """
    began = time.monotonic()
    end = began + seconds
    results: dict[Worker, Any] = {}
    while len(results) < len(workers) and (left := end - time.monotonic()) > 0:
        busy = [worker for worker in workers if worker not in results]
        wait([pipe for worker in busy for pipe in worker.pipes()], min(POLL, left))
        for worker in busy:
            for answer in worker.answered():
                results[worker] = answer
                if isinstance(answer, NoAnswer):
                    end = min(end, time.monotonic() + grace)
        if waiting is not None:
            waiting()
    for worker in workers:
        if worker not in results:
            how = f"no answer within {min(seconds, round(end - began)):g} s{endings.position(worker.stacks())}"
            results[worker] = NoAnswer(how, silent=True)
    return [results[worker] for worker in workers]


class WorkerError(Exception):
    """Calls that have no answer: the names of the workers, and why; `hung` if one was silent or killed by a signal."""

    def __init__(self, failures: Mapping[str, NoAnswer]) -> None:
        super().__init__("; ".join(f"{name}: {failure.how}" for name, failure in failures.items()))
        self.hung = any(failure.silent or (failure.code or 0) < 0 for failure in failures.values())
        self.lost = self.hung or any(failure.code is not None for failure in failures.values())


def call(
    workers: Mapping[str, Worker], method: str, *arguments: Any, seconds: float, grace: float = math.inf
) -> list[Any]:
    """Call a method in all workers at once; their answers: see `answers`.

    Raises:
        WorkerError: a worker gave no answer.
    """
    for worker in workers.values():
        worker.send(method, *arguments)
    results = answers(list(workers.values()), seconds, grace=grace)
    failures = {name: answer for name, answer in zip(workers, results, strict=True) if isinstance(answer, NoAnswer)}
    if failures:
        raise WorkerError(failures)
    return results


def wait(pipes: Iterable[IO[bytes]], seconds: float) -> bool:
    """Wait until one of the pipes has something to read, at most so many seconds; whether one has."""
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        if not selector.get_map():
            time.sleep(seconds)
            return False
        return bool(selector.select(seconds))


def importable() -> dict[str, str]:
    """The environment of this process, in which a child can import what this process can: this kit first."""
    # pytest puts the folder of a checkout in front of what is installed.
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(IMPORT_ROOT), *filter(None, sys.path)])}
