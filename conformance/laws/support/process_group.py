"""Processes of this machine that `jax.distributed` joins, calls made in all of them, and a trainer that runs in them.

Each process has a `Rank`, called through a channel. If a process ends, raises or does not answer in time, the error
names it, with its last output or its stack, and all processes are ended.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ...adapter import HostBatch
from ...core.check import AdapterRaised, LawBroken
from ...core.comparison import Array
from ...workers.channel import NoAnswer, Worker, WorkerError, answers, free_port, importable
from .rank import HEARTBEAT, JOINING

# Seconds for an answer. The first run of a program includes its compilation, in all processes at once.
LIMIT = 120.0
# Seconds until the others notice that a process is lost, or JAX ends them: it looks for heartbeats every few seconds.
SOON = 2 * HEARTBEAT + 15.0
# The fault, if any, that processes started from now on seed in themselves; `faults/trainers/processes.py` sets it.
FAULT: list[str] = []


@dataclass(frozen=True)
class Layout:
    """A number of processes, and the number of devices that each of them has."""

    processes: int
    devices: int

    @property
    def n(self) -> int:
        """The number of devices of all processes."""
        return self.processes * self.devices

    def __str__(self) -> str:
        return f"{self.processes} x {self.devices}"


class RanksBroken(LawBroken):
    """A process ended, raised, or did not answer."""

    final = True


class Ranks:
    """The running, joined processes of a layout. A context manager; `shared` reuses the processes for later checks.

    Raises:
        RanksBroken: a process did not join.
    """

    def __init__(self, layout: Layout, adapter: str | None = None, *, light: bool = False) -> None:
        self.layout, self.broken = layout, ""
        coordinator = f"localhost:{free_port()}"
        self.running: list[Worker] = []
        for number in range(layout.processes):
            self.running.append(Worker(f"{__package__}.rank:make", number, *FAULT, variables=_variables()))
            self.running[-1].send("join", coordinator, layout.processes, number, layout.devices, light=light)
        self._checked("join", LIMIT + JOINING)
        if adapter is not None:
            self.every("load", adapter)

    def every(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method in all processes; returns their answers.

        Raises:
            RanksBroken: a process did not answer within `LIMIT`. All are then ended; later calls raise the error again.
            AdapterRaised: the trainer under test raised in a process.
        """
        words = f"{method} {arguments[0]}" if arguments and isinstance(arguments[0], str) else method
        if self.broken:
            raise RanksBroken(f"{self.layout} processes x devices, {words}: processes were ended after {self.broken}")
        self.send(method, *arguments)
        return self._checked(words, LIMIT)

    def _checked(self, words: str, seconds: float) -> list[Any]:
        results = self.answers(seconds)
        failures = {f"rank {k}": answer for k, answer in enumerate(results) if isinstance(answer, NoAnswer)}
        if failures:
            self.close()
            self.broken = f"{words}: {WorkerError(failures)}"
            message = f"{self.layout} processes x devices, {self.broken}"
            frames = [frame for failure in failures.values() for frame in failure.frames]
            # Where a process was lost, the others raise because of that.
            if frames and all(failure.code is None for failure in failures.values()):
                raise AdapterRaised(message, frames)
            raise RanksBroken(message)
        return results

    def send(self, method: str, *arguments: Any) -> None:
        """Call a method in all processes; `answers` waits for the answers."""
        for worker in self.running:
            worker.send(method, *arguments)

    def answers(self, seconds: float) -> list[Any]:
        """The answers of all processes to what was sent, in order; see `channel.answers`."""
        return answers(self.running, seconds, grace=SOON)

    def close(self) -> None:
        """Kill all processes."""
        for worker in self.running:
            worker.close()
        self.running.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_SHARED: dict[Any, Ranks] = {}


def shared(layout: Layout, adapter: str | None = None, *, light: bool = False) -> Ranks:
    """Processes that later checks reuse, because joining takes seconds; only one trainer's processes run at a time."""
    key = layout, adapter, light, tuple(FAULT)
    if key in _SHARED and not _SHARED[key].running:
        del _SHARED[key]  # a process failed, and all were ended
    if key not in _SHARED:
        close_all(keep=key[1:])
        _SHARED[key] = Ranks(layout, adapter, light=light)
    return _SHARED[key]


def close_all(*, keep: tuple[Any, ...] = ()) -> None:
    """End the shared processes, except those whose key, without the layout, is `keep`."""
    for key in [key for key in _SHARED if key[1:] != keep]:
        _SHARED.pop(key).close()


def _variables() -> dict[str, str]:
    """The environment of a process: that of its parent, with simulated devices of its own, and without proxies.

    gRPC would connect processes of this machine through a proxy, and hang (https://github.com/jax-ml/jax/issues/22995).
    """
    kept = {name: value for name, value in importable().items() if not name.lower().endswith("_proxy")}
    variables = kept | {"JAX_PLATFORMS": "cpu"}
    variables.pop("JAX_NUM_CPU_DEVICES", None)
    if "XLA_FLAGS" in variables:
        flags = re.sub(r"--xla_force_host_platform_device_count=\S*", "", variables["XLA_FLAGS"])
        variables["XLA_FLAGS"] = flags.strip()
    return variables


def layouts(processes: int, devices: int = 4) -> list[Layout]:
    """Layouts of 2 to `processes` processes that share `devices` devices, or `processes` if these do not divide."""
    total = devices if devices % processes == 0 else processes
    return [Layout(p, total // p) for p in range(2, processes + 1) if total % p == 0]


class Across:
    """A trainer under test in several processes, behind the adapter interface, so that other rungs can test it.

    Each method of the adapter interface is called in every process, `start` with the number of devices of the layout.
    The answers must have the same bits; the first one is returned.
    """

    def __init__(self, ranks: Ranks, name: str, capabilities: frozenset[str], fixed: Mapping[str, Any]) -> None:
        self.ranks, self.name, self.capabilities = ranks, f"{name}, {ranks.layout} processes x devices", capabilities
        self.fixed = fixed

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return lambda *arguments: self._same(method, self.ranks.every("call", method, *arguments))

    def evaluate(self, batch: HostBatch) -> Array:
        """See `TrainerUnderTest.evaluate`; rows of weight 0 may differ."""
        answers = self.ranks.every("call", "evaluate", batch)
        counted = [np.where((batch.weights > 0)[:, None], logits, 0) for logits in answers]
        return np.asarray(self._same("evaluate", counted))

    def _same(self, method: str, answers: Sequence[Any]) -> Any:
        for number, answer in enumerate(answers):
            where = unlike(answer, answers[0])
            if where is not None:
                what = f"{where} of rank {number} is not that of rank 0"
                raise LawBroken(f"{self.ranks.layout} processes x devices, {method}(): {what}")
        return answers[0]


def unlike(answer: Any, other: Any) -> str | None:
    """The part of two answers that differs in a bit: a leaf's name, or `the result`; None if they are the same."""
    if isinstance(answer, Mapping):
        if answer.keys() != other.keys():
            return "the set of leaves"
        return next((name for name in answer if not _same_bits(answer[name], other[name])), None)
    return None if _same_bits(answer, other) else "the result"


def _same_bits(one: Any, other: Any) -> bool:
    a, b = np.asarray(one), np.asarray(other)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
