"""One pytest process of the kit: what it tells, what it says on stderr, the check it is in, and its end.

It is a session of its own, so that ending it ends what it started, and it does not outlive its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..core.result import END_OF_CHECK, MISMATCH, printable
from . import signals

# Seconds in which a process must reach its first check, go from one check to the next, and end after the last.
START, BETWEEN, EXIT = 180.0, 180.0, 60.0
# Seconds in which it must write the stacks of its threads down when asked.
DUMP = 2.0
# Frames of these call the check; what is above them is the check's own.
MACHINERY = ("/_pytest/", "/pluggy/")
PR_SET_PDEATHSIG = 1


class Child:
    """A running process.

    Attributes:
        running: the id of the check that it is in, or None.
        answered: how many checks it has answered.
        stderr: its last lines.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], left: int) -> None:
        """Start `command`, which has `left` checks to answer, with a pipe for the stream of its events."""
        stream, theirs = os.pipe()
        try:
            self.process = subprocess.Popen(
                [*command, f"--sftref-stream=/dev/fd/{theirs}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=dict(variables),
                pass_fds=(theirs,),
                start_new_session=True,
                preexec_fn=tied_to(os.getpid()),  # noqa: PLW1509 - the runner has one thread
            )
        finally:
            os.close(theirs)
        assert self.process.stderr is not None
        self.running: str | None = None
        self.answered, self.left = 0, left
        self.stderr: deque[str] = deque(maxlen=400)
        self.began = self.since = time.monotonic()
        self.deadline = START
        self._mismatch, self._mismatches = "", dict[str, str]()
        self._told: deque[dict[str, Any]] = deque()
        self._pipes = {stream: b"", self.process.stderr.fileno(): b""}
        self._stream = stream
        for pipe in self._pipes:
            os.set_blocking(pipe, False)

    def pipes(self) -> list[int]:
        """What can be waited for."""
        return list(self._pipes)

    def events(self) -> Iterator[dict[str, Any]]:
        """What it told and nobody has taken yet.

        An event is taken when the next one is asked for: whoever is interrupted by a signal finds it here again.
        """
        with signals.held():
            self._read()
        while self._told:
            yield dict(self._told[0])
            self._told.popleft()

    def _read(self) -> None:
        """Read what there is.

        stderr comes last: a check says it before its result, so it is there by then. Read first, it could be written
        between the two reads and be missed.
        """
        found = []
        for line in self._lines(self._stream):
            with contextlib.suppress(ValueError):  # a line cut short by the process's death
                found.append(json.loads(line))
        self._hear()
        for event in found:
            self._follow(event)
        self._told.extend(found)

    def _hear(self) -> None:
        for pipe in [pipe for pipe in self._pipes if pipe != self._stream]:
            for line in self._lines(pipe):
                if line.startswith(END_OF_CHECK):
                    check = line.removeprefix(END_OF_CHECK).decode()
                    self._mismatches[check], self._mismatch = self._mismatch, ""
                    continue
                self.stderr.append(printable(line.decode(errors="replace")[:500]))
                if MISMATCH in self.stderr[-1]:
                    self._mismatch = self.stderr[-1]

    def _follow(self, event: dict[str, Any]) -> None:
        if event["event"] == "start":
            self.running, self.deadline, self.since = event["id"], event["deadline"], time.monotonic()
        elif event["event"] == "result":
            event["mismatch"] = self._mismatches.pop(event["id"], "")
            self.answered, self.left = self.answered + 1, self.left - 1
            self.running, self.since = None, time.monotonic()
            self.deadline = BETWEEN if self.left > 0 else EXIT

    def _lines(self, pipe: int) -> list[bytes]:
        if pipe not in self._pipes:
            return []
        data = self._pipes[pipe]
        while True:
            try:
                more = os.read(pipe, 1 << 16)
            except BlockingIOError:
                break
            if not more:
                del self._pipes[pipe]
                if pipe == self._stream:
                    os.close(pipe)
                return [line for line in data.split(b"\n") if line]
            data += more
        *lines, rest = data.split(b"\n")
        self._pipes[pipe] = rest[-(1 << 20) :]
        return lines

    def overdue(self) -> bool:
        """Whether it is longer in its check, or outside any, than it may be."""
        return time.monotonic() - self.since > self.deadline

    def ended(self) -> bool:
        """Whether it is over; it stays unreaped, so that its number and its group remain its own."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def stacks(self) -> list[str]:
        """Where each of its threads stands, if it can still say so: asked of `faulthandler`, which needs no GIL."""
        heard = len(self.stderr)
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGUSR1)
        until = time.monotonic() + DUMP
        while time.monotonic() < until and not self.ended():
            self._hear()
            # faulthandler writes line by line: wait until it has been silent for a moment.
            if not wait([pipe for pipe in self.pipes() if pipe != self._stream], 0.2) and len(self.stderr) > heard:
                break
        found = list(self.stderr)
        at = next((i for i, line in enumerate(found) if "(most recent call first)" in line), len(found))
        return found[at:]

    def close(self) -> int | None:
        """End it with all that it started; its exit code, negative for a signal, None if it cannot be ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        for pipe in self.pipes():
            if pipe == self._stream:
                os.close(pipe)
        self._pipes = {}
        if self.process.stderr is not None:
            self.process.stderr.close()
        return self.process.returncode


def wait(pipes: Iterable[int], seconds: float) -> bool:
    """Wait until one of the pipes has something to read, at most so long."""
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        if not selector.get_map():
            time.sleep(seconds)
            return False
        return bool(selector.select(seconds))


def tied_to(parent: int) -> Any:
    """What a new process does first: ask the kernel to end it with its parent (Linux only)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def how_it_ended(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "cannot be ended, not even by SIGKILL"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name}, which the kernel also sends when memory runs out" if name == "SIGKILL" else name


def frames(stack: Iterable[str], *, current: bool = False, most: int = 3) -> str:
    """Lines of `faulthandler` -> the innermost frames of the main thread, which comes last, or of the current one."""
    threads: list[tuple[str, list[str]]] = []
    over = False
    for line in stack:
        if "(most recent call first)" in line:
            threads.append((line, []))
            over = False
        elif threads and line.lstrip().startswith("File "):
            found = threads[-1][1]
            over |= bool(found) and any(name in line for name in MACHINERY)
            if not over:
                found.append(re.sub(r'File ".*?([^/"]+/[^/"]+)", line (\d+) in (\S+)', r"\3 (\1:\2)", line.strip()))
        elif threads and line.strip():
            break
    chosen = [found for title, found in threads if title.startswith("Current") or not current]
    return ", called from ".join(chosen[-1][:most]) if chosen else ""


def last_words(stderr: Iterable[str], most: int = 4) -> str:
    """The last lines that a process said, in one line; the fatal one and its frames, where there is one."""
    lines = [line.strip() for line in stderr if line.strip()]
    fatal = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    if fatal is None:
        return " | ".join(lines[-most:])
    said = lines[max(fatal - 2, 0) : fatal + 1]
    where = frames(lines[fatal + 1 :], current=True)
    return " | ".join([*said, f"in {where}"] if where else said)


def usage(stderr: Iterable[str]) -> str:
    """What pytest's usage error says, in one line."""
    lines = list(stderr)
    said = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return said[0] if said else last_words(lines) or "pytest refused its arguments"
