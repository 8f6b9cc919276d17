"""Processes of this machine, joined by `jax.distributed` and asked together: what the laws of rung 9 look at.

Each is a `rank.py` with a pipe. One that ends, raises or does not answer in time is named, with what it said last and
where it stood; then all of them are ended. None outlives whoever started it.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from ...core.check import LawBroken
from ...core.kit import IMPORT_ROOT
from ...workers import process
from .rank import HEARTBEAT, JOINING

# Seconds for an answer. The first one of a program compiles it, in all processes at once.
LIMIT = 120.0
# Once one is lost JAX tells the others, or ends them: it looks for heartbeats every few seconds.
SOON = 2 * HEARTBEAT + 15.0
# The seeded fault that the processes started from now on have; `faults/processes.py` sets it.
FAULT: list[str] = []


@dataclass(frozen=True)
class Layout:
    """So many processes with so many devices each."""

    processes: int
    devices: int

    @property
    def n(self) -> int:
        """Devices of all processes."""
        return self.processes * self.devices

    def __str__(self) -> str:
        """As 2 x 2."""
        return f"{self.processes} x {self.devices}"


@dataclass(frozen=True)
class Gone:
    """Why a process gave no answer.

    Attributes:
        how: in words.
        silent: whether it was still there, and said nothing until its time was over.
    """

    how: str
    silent: bool = False


class RanksBroken(LawBroken):
    """A process ended, raised, or did not answer."""

    final = True


class Ranks:
    """The processes of a layout, running. A context manager; `shared` keeps those that several checks ask."""

    def __init__(self, layout: Layout, adapter: str | None = None, *, light: bool = False) -> None:
        """Start them, and wait until they have joined.

        Raises:
            RanksBroken: one did not.
        """
        self.layout = layout
        self.broken = ""
        self.running: list[tuple[subprocess.Popen[bytes], Connection, Any]] = []
        self._waiting: set[int] = set()
        coordinator = f"localhost:{free_port()}"
        for number in range(layout.processes):
            self.running.append(_started(number))
        each = [(coordinator, layout.processes, number, layout.devices) for number in range(layout.processes)]
        self.every("join", each=each, seconds=LIMIT + JOINING, light=light)
        if adapter is not None:
            self.every("load", adapter)

    def every(
        self,
        method: str,
        *arguments: Any,
        each: Sequence[tuple[Any, ...]] | None = None,
        seconds: float | None = None,
        **keywords: Any,
    ) -> list[Any]:
        """Ask all of them the same, or each with its own arguments; their answers, within `LIMIT` seconds.

        Raises:
            RanksBroken: not all answered; they are ended then, and whoever asks them again is told why.
        """
        what = f"{self.layout} processes x devices, {_in_words(method, arguments)}"
        if self.broken:
            raise RanksBroken(f"{what}: are no longer there, since {self.broken}")
        self.send(method, *arguments, each=each, **keywords)
        found = self.answers(LIMIT if seconds is None else seconds)
        gone = [f"rank {number} {answer.how}" for number, answer in sorted(found.items()) if isinstance(answer, Gone)]
        if gone:
            self.close()
            self.broken = f"{_in_words(method, arguments)}: {'; '.join(gone)}"
            raise RanksBroken(f"{what}: {'; '.join(gone)}")
        return [found[number] for number in range(self.layout.processes)]

    def send(
        self, method: str, *arguments: Any, each: Sequence[tuple[Any, ...]] | None = None, **keywords: Any
    ) -> None:
        """Ask, and do not wait."""
        for number, (_, pipe, _) in enumerate(self.running):
            with contextlib.suppress(BrokenPipeError):
                pipe.send((method, arguments if each is None else each[number], keywords))
            self._waiting.add(number)

    def answers(self, seconds: float) -> dict[int, Any]:
        """The answers to what was sent, by number; `Gone` in place of one that did not come within so many seconds.

        Once one is lost, or has raised, the others are waited for a short while only: they may wait for it for ever.
        """
        end, found = time.monotonic() + seconds, dict[int, Any]()
        pipes = {self.running[number][1]: number for number in self._waiting}
        while pipes:
            ready = wait(list(pipes), max(0.0, end - time.monotonic()))
            if not ready:
                break
            for pipe in ready:
                number = pipes.pop(pipe)  # type: ignore[call-overload]
                found[number] = self._received(number)
                if isinstance(found[number], Gone):
                    end = min(end, time.monotonic() + SOON)
        for number in pipes.values():
            found[number] = self._silent(number, seconds)
        self._waiting.clear()
        return found

    def _received(self, number: int) -> Any:
        child, pipe, said = self.running[number]
        try:
            answer, wrong = pipe.recv()
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            words = process.last_words(_lines(said))
            return Gone(f"ended by {process.how_it_ended(child.returncode)}{f', and said: {words}' if words else ''}")
        return answer if wrong is None else Gone(f"raised {wrong}")

    def _silent(self, number: int, seconds: float) -> Gone:
        child, _, said = self.running[number]
        heard = len(_lines(said))
        child.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
        where = process.frames(_lines(said)[heard:])
        return Gone(f"did not answer within {seconds:g} s{f', in {where}' if where else ''}", silent=True)

    def kill(self, number: int) -> None:
        """As the kernel does to one that takes too much memory."""
        self.running[number][0].kill()

    def close(self) -> None:
        """End all of them."""
        for child, pipe, said in self.running:
            child.kill()
            child.wait()
            pipe.close()
            said.close()
        self.running.clear()

    def __enter__(self) -> Ranks:
        """The processes."""
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        self.close()


_SHARED: dict[Any, Ranks] = {}


def shared(layout: Layout, adapter: str | None = None, *, light: bool = False) -> Ranks:
    """Processes that are kept for the checks that follow: joining takes seconds. Only those of one trainer are."""
    key = layout, adapter, light, tuple(FAULT)
    if key in _SHARED and not _SHARED[key].running:
        del _SHARED[key]  # one of them broke
    if key not in _SHARED:
        close_all(but=key[1:])
        _SHARED[key] = Ranks(layout, adapter, light=light)
    return _SHARED[key]


def close_all(*, but: tuple[Any, ...] = ()) -> None:
    """End the processes that are kept, but those of one trainer."""
    for key in [key for key in _SHARED if key[1:] != but]:
        _SHARED.pop(key).close()


atexit.register(close_all)


def _in_words(method: str, arguments: Sequence[Any]) -> str:
    return f"{method} {arguments[0]}" if arguments and isinstance(arguments[0], str) else method


def _started(number: int) -> tuple[subprocess.Popen[bytes], Connection, Any]:
    mine, theirs = multiprocessing.Pipe()
    said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
    words = [sys.executable, "-P", "-m", f"{__package__}.rank", str(theirs.fileno()), str(os.getpid())]
    with theirs:
        # No `preexec_fn`: it is not safe beside JAX's threads. It ties itself to its parent.
        child = subprocess.Popen(
            [*words, *([FAULT[0], str(number)] if FAULT else [])],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=_variables(),
            pass_fds=(theirs.fileno(),),
        )
    return child, mine, said


def _variables() -> dict[str, str]:
    """The environment of a process: that of its parent, and what its parent can import; devices are its own."""
    # This kit first: pytest puts the folder of a checkout in front of what is installed.
    paths = [str(IMPORT_ROOT), *(path for path in sys.path if path)]
    found = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
    flags = re.sub(r"--xla_force_host_platform_device_count=\S*", "", found.get("XLA_FLAGS", "")).strip()
    found.pop("JAX_NUM_CPU_DEVICES", None)
    return found | ({"XLA_FLAGS": flags} if "XLA_FLAGS" in found else {})


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def _lines(said: Any) -> list[str]:
    text = os.pread(said.fileno(), 1 << 20, 0).decode(errors="replace")
    return [line for line in text.splitlines() if not line.startswith("[Gloo]")]


def layouts(processes: int, devices: int = 4) -> list[Layout]:
    """At most so many processes, that share `devices` among them; more devices where they do not divide."""
    total = devices if devices % processes == 0 else processes
    return [Layout(p, total // p) for p in range(2, processes + 1) if total % p == 0]
