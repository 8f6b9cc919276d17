"""Fault id -> what is wrong in one of several processes, or in all: seeded in the processes that rung 9 starts.

Each of these processes calls `wrong` before it joins the others; `process_group.FAULT` has it do so. The trainer is the
template with a share of the data and with checkpoints (`sharing.py`).
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from ...adapter import Arrays, Case, HostBatch
from ...adapters import template
from ...laws.support import process_group, rank
from ...laws.support.messages import AXES
from ..backend.executables import with_shards
from ..backend.seeding import Fixtures, SeededFaults, patch
from .sharing import Sharing

# The number of the wrong process, where only one is wrong; each layout has it.
ODD = 1
# Seconds to wait for a process: here it answers in less, compiling included, or never.
PATIENCE = 25.0
FOR_EVER = 3600.0
MIB = 1024 * 1024
FAULTS = SeededFaults()
seeded_ids = FAULTS.seeded_ids
# Faults of one process only.
ONE: set[str] = set()


@contextlib.contextmanager
def seed(fault: str) -> Iterator[Fixtures]:
    """Have the processes that are started inside the `with` block go wrong; replaces the trainer under test."""
    process_group.FAULT.append(fault)
    try:
        with patch(process_group, "LIMIT", PATIENCE):
            yield {"subject": Sharing(), "adapter": f"{Sharing.__module__}:Sharing"}
    finally:
        process_group.FAULT.clear()
        process_group.close_all()


def wrong(fault: str, number: int) -> AbstractContextManager[Any]:
    """Seed the fault in process `number`, if the fault is one of that process."""
    return contextlib.nullcontext() if fault in ONE and number != ODD else FAULTS.seed(fault)


def patched(fault: str, owner: Any, name: str, *, one: bool = True) -> Callable[[Any], Any]:
    """Replace `owner.name`, as `SeededFaults.patched` does, in one process or in all."""
    if one:
        ONE.add(fault)
    return FAULTS.patched(fault, owner, name)


# Devices and processes.


@patched("a-rank-with-fewer-devices", rank.Rank, "join")
def _fewer(join: Any, self: Any, coordinator: str, ranks: int, number: int, devices: int, *, light: bool) -> None:
    join(self, coordinator, ranks, number, max(devices - 1, 1), light=light)


@patched("every-rank-sees-all-devices", jax, "local_devices", one=False)
def _sees_all(local_devices: Any) -> Any:
    return jax.devices()


@patched("two-ranks-of-one-number", jax, "process_index")
def _first(process_index: Any) -> int:
    return 0


@patched("every-rank-alone", jax.distributed, "initialize", one=False)
def _alone(initialize: Any, *arguments: Any, **keywords: Any) -> None:
    """No cluster is found, and no error raised."""


# Collectives between processes.
ONE |= {"a-reduce-scatter-of-one-size", "a-sum-wrong-on-one-rank", "an-exchange-of-the-call-before"}


def _last_off_by_one(results: Sequence[Any]) -> Sequence[Any]:
    def change(_: int, part: Any) -> Any:
        part.reshape(-1)[-1] += 1
        return part

    return [with_shards(result, change) for result in results]


@FAULTS.changed("a-reduce-scatter-of-one-size")
def _big_reduce_scatter() -> Callable[[str, Sequence[Any]], Sequence[Any]]:
    def change(program: str, results: Sequence[Any]) -> Sequence[Any]:
        large = sum(shard.data.nbytes for result in results for shard in result.addressable_shards) >= MIB
        return _last_off_by_one(results) if "reduce-scatter" in program and large else results

    return change


@FAULTS.changed("a-sum-wrong-on-one-rank")
def _sums() -> Callable[[str, Sequence[Any]], Sequence[Any]]:
    return lambda program, results: _last_off_by_one(results) if "all-reduce" in program else results


@FAULTS.changed("an-exchange-of-the-call-before")
def _the_call_before() -> Callable[[str, Sequence[Any]], Sequence[Any]]:
    before: dict[Any, Sequence[Any]] = {}

    def change(program: str, results: Sequence[Any]) -> Sequence[Any]:
        shapes = tuple((result.shape, str(result.dtype)) for result in results)
        kind = next((name for name in ("all-gather", "all-to-all", "collective-permute") if name in program), None)
        last, before[kind, shapes] = before.get((kind, shapes), results), results
        return last if kind else results

    return change


@patched("a-group-that-takes-in-all", lax, "psum", one=False)
def _all_of_them(psum: Any, x: Any, axes: Any, **keywords: Any) -> Any:
    return psum(x, AXES if axes == AXES[1:] else axes, **keywords)


# Processes that hang, die or raise.


@patched("a-rank-that-hangs", rank.Rank, "collective")
def _hangs(collective: Any, self: Any, operation: str, axes: Any, data: Any) -> Any:
    if operation == "all_to_all":
        time.sleep(FOR_EVER)
    return collective(self, operation, axes, data)


@patched("a-rank-that-dies", rank.Rank, "collective")
def _dies(collective: Any, self: Any, operation: str, axes: Any, data: Any) -> Any:
    if operation == "all_gather":
        os.kill(os.getpid(), signal.SIGKILL)
    return collective(self, operation, axes, data)


@patched("a-rank-that-raises", Sharing, "step")
def _raises(step: Any, self: Any, batch: HostBatch) -> Any:
    raise MemoryError("out of memory, on one process only")


@contextlib.contextmanager
def _lost(pause: float) -> Iterator[None]:
    """If an update raises, wait `pause` seconds and hide the error; JAX's heartbeats come too late to end a process."""
    right = rank.Rank.spin

    def spin(self: Any, seconds: float) -> int:
        try:
            return right(self, seconds)
        except Exception:
            time.sleep(pause)
            return 0

    with patch(rank, "HEARTBEAT", int(FOR_EVER)), patch(rank.Rank, "spin", spin):
        yield


FAULTS["a-loss-that-is-waited-for"] = lambda: _lost(FOR_EVER)
FAULTS["a-loss-that-is-hidden"] = lambda: _lost(0.0)


# Parameters, rows and programs.


@patched("ranks-that-begin-otherwise", Sharing, "start")
def _otherwise(start: Any, self: Any, case: Case, params: Arrays, n_devices: int) -> None:
    start(self, case, {name: leaf * 1.001 for name, leaf in params.items()}, n_devices)


@patched("rows-of-another-rank", Sharing, "_put")
def _rows_of_another(put: Any, self: Any, batch: HostBatch) -> Any:
    return put(self, HostBatch(*(np.roll(leaf, len(leaf) // 2, axis=0) for leaf in batch)))


@patched("tokens-shifted-on-one-rank", Sharing, "_put")
def _shifted(put: Any, self: Any, batch: HostBatch) -> Any:
    left = {name: np.pad(getattr(batch, name), [(0, 0), (0, 1)])[:, 1:] for name in batch._fields[:3]}
    return put(self, batch._replace(**left))


@patched("a-rank-that-pads-longer", Sharing, "_put")
def _longer(put: Any, self: Any, batch: HostBatch) -> Any:
    more = {name: np.pad(getattr(batch, name), [(0, 0), (0, 1)]) for name in batch._fields[:3]}
    return put(self, batch._replace(**more))


@patched("a-rank-with-another-program", rank.Rank, "join")
def _another_program(join: Any, self: Any, *arguments: Any, light: bool) -> None:
    join(self, *arguments, light=not light)


@patched("mean-of-the-ranks-means", template, "mean_loss", one=False)
def _mean_of_means(mean_loss: Any, case: Case, params: Any, batch: HostBatch) -> Any:
    parts = jax.process_count()
    means = []
    for part in range(parts):
        rows = len(batch.weights) // parts
        mine = HostBatch._make(leaf[part * rows : (part + 1) * rows] for leaf in batch)
        means.append(template.loss_sum(case, params, mine) / jnp.maximum(mine.weights.sum(), 1e-6))
    return sum(means) / parts


@patched("one-share-for-all", Sharing, "share", one=False)
def _one_share(share: Any, self: Any, batch: npt.NDArray[Any]) -> Any:
    return np.array_split(batch, jax.process_count())[0]


@patched("shares-that-leave-the-rest", Sharing, "share", one=False)
def _leave_the_rest(share: Any, self: Any, batch: npt.NDArray[Any]) -> Any:
    each = len(batch) // jax.process_count()
    return batch[jax.process_index() * each : (jax.process_index() + 1) * each]


@patched("an-order-of-its-own", Sharing, "epoch")
def _own_order(epoch: Any, self: Any, examples: int, batch_size: int, number: int) -> Any:
    return epoch(self, examples, batch_size, number + ODD)


@patched("everything-read-by-all", Sharing, "share", one=False)
def _reads_all(share: Any, self: Any, batch: npt.NDArray[Any]) -> Any:
    return batch


@patched("a-rank-that-restores-nothing", Sharing, "restore")
def _restores_nothing(restore: Any, self: Any, path: Path) -> None:
    """The process keeps its state."""
