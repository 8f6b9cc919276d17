"""A child process as its parent sees it (its start, events, output, stack and end), and a child that runs checks.

The child writes events to a pipe, one JSON object a line, in which `event` names the kind:

    {"event": "loading", "adapter": MODULE:FACTORY}         an adapter is loaded, "" after the last one
    {"event": "collected", "ids": [...]}                    the checks that pytest found
    {"event": "start", "id": ..., "deadline": seconds}      a check begins
    {"event": "result", "id": ..., ...}                     a check has ended: its result
    {"event": "answer", "id": method, "value": ...}         a call has ended: what the method returned
    {"event": "failed", "id": method, "message": ...}       a call has raised

A pytest process of the kit (`Child`) only writes events. A `Worker` (`channel.py`) also executes calls.
"""

import contextlib
import functools
import json
import os
import selectors
import signal
import subprocess
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from ..core.result import MISMATCH, printable
from . import signals
from .serve import END_OF_CHECK, STREAM, tie

# The most seconds until a process begins its first check, between two checks, and from the last check to its end.
START, BETWEEN, EXIT = 180.0, 180.0, 60.0
# The seconds that a process has to write the stacks of its threads.
DUMP = 2.0
# The seconds that an adapter has to be loaded, and those that a process may be stopped by a signal.
LOADING, STOPPED = 120.0, 30.0
# Seconds between two looks at a process that writes nothing.
POLL = 0.2
# The most bytes of a line of output that are kept in memory.
LONGEST = 1 << 20
# Gloo prints lines that begin like this for each group of processes that it connects; they are dropped.
CHATTER = b"[Gloo]"


class Process:
    """A running child process; it is killed when this object is deleted, or this process exits.

    It runs `command` with `--sftref-stream=FILE` added, where FILE is the pipe for its events. Its environment has only
    these `variables`; further `options` are those of `subprocess.Popen`.
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
        self.output: deque[str] = deque(maxlen=400)  # the last lines of its stderr
        self._pending: deque[dict[str, Any]] = deque()
        self._halted = 0.0  # when it was first seen to be stopped
        self._unread = {self._events: bytearray(), self._stderr: bytearray()}
        for pipe in self._unread:
            os.set_blocking(pipe.fileno(), False)
        group = options.get("start_new_session", False)
        self._end = weakref.finalize(self, _end, self.process, self._events, group=group)

    def pipes(self) -> list[IO[bytes]]:
        """The pipes that the child has not closed; `wait` waits for them."""
        return list(self._unread)

    def events(self) -> Iterator[dict[str, Any]]:
        """The events that the child has written.

        An event is removed only when the next one is requested, so that a signal during its handling does not lose it.
        """
        with signals.held():
            self._read()
        while self._pending:
            yield dict(self._pending[0])
            self._pending.popleft()

    def _read(self) -> None:
        events = []
        for line in self._lines(self._events):
            with contextlib.suppress(ValueError):  # a line cut short by the process's death
                events.append(json.loads(line))
        # stderr is read last: the child writes to it before an event, so that all output of the event can be read now.
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
        """Update the state of a subclass for an event that was read."""

    def _hear(self, line: bytes) -> None:
        self.output.append(printable(line[:500].decode(errors="replace")))

    def _lines(self, pipe: IO[bytes]) -> list[bytes]:
        """The complete lines that can be read now; at the end of the pipe, also the incomplete last one."""
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
        """Whether the child has ended; it is not reaped, so that no other process can get its number or its group."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def stopped(self) -> bool:
        """Whether a signal such as SIGSTOP has stopped the child, and none has continued it, for `STOPPED` seconds."""
        with contextlib.suppress(ChildProcessError):
            if os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None:
                self._halted = self._halted or time.monotonic()
                return time.monotonic() - self._halted > STOPPED
        self._halted = 0.0
        return False

    def stacks(self) -> list[str]:
        """The stack of each thread as `faulthandler` writes it, for which it needs no GIL; empty if it writes none."""
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
        """Kill the child; returns its exit code: negative for a signal, None if it cannot be ended."""
        self._end()
        self._unread.clear()
        return self.process.returncode


def _end(process: subprocess.Popen[bytes], events: IO[bytes], *, group: bool) -> None:
    """Kill a process, and its group if it has one of its own, and close its pipes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    for pipe in (events, process.stderr, process.stdin):
        if pipe is not None:
            with contextlib.suppress(OSError):  # the child did not read a call
                pipe.close()


class Child(Process):
    """A running process that has `left` checks to run."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], left: int) -> None:
        self.running: str | None = None  # the id of the check that runs now
        self.loading = ""  # the adapter that is loaded now
        self.collected: frozenset[str] | None = None  # the checks that pytest found; None before it has searched
        self.answered, self.left = 0, left  # how many checks have ended, and how many have not
        # When the present check, or the pause between two checks, began, and the seconds that this may take.
        self.since, self.deadline = time.monotonic(), START
        self._mismatch, self._mismatches = "", dict[str, str]()
        # `preexec_fn` is safe here: the scheduler has one thread.
        tied = functools.partial(tie, os.getpid())
        super().__init__(command, variables, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=tied)

    def _hear(self, line: bytes) -> None:
        if line.startswith(END_OF_CHECK):
            check = line.removeprefix(END_OF_CHECK).decode()
            self._mismatches[check], self._mismatch = self._mismatch, ""
            return
        super()._hear(line)
        if MISMATCH in self.output[-1]:
            self._mismatch = self.output[-1]

    def _follow(self, event: dict[str, Any]) -> None:
        if event["event"] == "start":
            self.running, self.deadline, self.since = event["id"], event["deadline"], time.monotonic()
        elif event["event"] == "loading":
            self.loading, self.since = event["adapter"], time.monotonic()
            self.deadline = LOADING if self.loading else START
        elif event["event"] == "collected":
            self.collected = frozenset(event["ids"])
        elif event["event"] == "result":
            event["mismatch"] = self._mismatches.pop(event["id"], "")
            self.answered, self.left = self.answered + 1, self.left - 1
            self.running, self.since = None, time.monotonic()
            self.deadline = BETWEEN if self.left > 0 else EXIT

    def overdue(self) -> bool:
        """Whether the present check, or the pause between two checks, has taken longer than its deadline."""
        return time.monotonic() - self.since > self.deadline


def wait(pipes: Iterable[IO[bytes]], seconds: float) -> bool:
    """Wait until a pipe has something to read, at most `seconds`; returns whether one has."""
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        if not selector.get_map():
            time.sleep(seconds)
            return False
        return bool(selector.select(seconds))
