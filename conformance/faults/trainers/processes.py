"""Fault id -> what is wrong in one of several processes, or in all: seeded in the processes that rung 9 starts.

A new process gets the fault's id from the list `process_group.FAULT`, and calls `wrong` before it joins the others.
The trainer is the template with a share of the data and with checkpoints (`sharing.py`).
"""

import contextlib
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from ...adapter import Case, HostBatch
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
# Faults of process ODD only, and of all processes.
ONE, ALL = SeededFaults(), SeededFaults()


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
    if fault in ALL:
        return ALL.seed(fault)
    return ONE.seed(fault) if number == ODD else contextlib.nullcontext()


# Of one expression, or none; the first argument is the right function.
ONE.patched("a-rank-with-fewer-devices", rank.Rank, "join")(
    lambda join, self, at, ranks, number, n, *, light: join(self, at, ranks, number, max(n - 1, 1), light=light)
)
ONE.patched("a-rank-with-another-program", rank.Rank, "join")(
    lambda join, self, *arguments, light: join(self, *arguments, light=not light)
)
ONE.patched("two-ranks-of-one-number", jax, "process_index")(lambda process_index: 0)
ALL.patched("every-rank-sees-all-devices", jax, "local_devices")(lambda local_devices: jax.devices())
# No cluster is found, and no error raised.
ALL.patched("every-rank-alone", jax.distributed, "initialize")(lambda initialize, *_, **__: None)
ALL.patched("a-group-that-takes-in-all", lax, "psum")(
    lambda psum, x, axes, **keywords: psum(x, AXES if axes == AXES[1:] else axes, **keywords)
)
ONE.patched("ranks-that-begin-otherwise", Sharing, "start")(
    lambda start, self, case, params, n: start(self, case, {name: leaf * 1.001 for name, leaf in params.items()}, n)
)
ONE.patched("rows-of-another-rank", Sharing, "_put")(
    lambda put, self, batch: put(self, HostBatch(*(np.roll(leaf, len(leaf) // 2, axis=0) for leaf in batch)))
)
ONE.patched("tokens-shifted-on-one-rank", Sharing, "_put")(
    lambda put, self, batch: put(self, with_tokens(batch, lambda ids: np.pad(ids, [(0, 0), (0, 1)])[:, 1:]))
)
ONE.patched("a-rank-that-pads-longer", Sharing, "_put")(
    lambda put, self, batch: put(self, with_tokens(batch, lambda ids: np.pad(ids, [(0, 0), (0, 1)])))
)
ALL.patched("one-share-for-all", Sharing, "share")(
    lambda share, self, batch: np.array_split(batch, jax.process_count())[0]
)
ALL.patched("everything-read-by-all", Sharing, "share")(lambda share, self, batch: batch)
ONE.patched("an-order-of-its-own", Sharing, "epoch")(
    lambda epoch, self, examples, size, number: epoch(self, examples, size, number + ODD)
)
# The process keeps its state.
ONE.patched("a-rank-that-restores-nothing", Sharing, "restore")(lambda restore, self, path: None)


def with_tokens(batch: HostBatch, change: Callable[[Any], Any]) -> HostBatch:
    """The batch with other token ids, token types and attention masks."""
    return batch._replace(**{name: change(getattr(batch, name)) for name in batch._fields[:3]})


def _last_off_by_one(results: Sequence[Any]) -> Sequence[Any]:
    def change(_: int, part: Any) -> Any:
        part.reshape(-1)[-1] += 1
        return part

    return [with_shards(result, change) for result in results]


@ONE.changed("a-reduce-scatter-of-one-size")
def _big_reduce_scatter(_: Any, program: str, results: Sequence[Any]) -> Sequence[Any]:
    large = sum(shard.data.nbytes for result in results for shard in result.addressable_shards) >= MIB
    return _last_off_by_one(results) if "reduce-scatter" in program and large else results


ONE.changed("a-sum-wrong-on-one-rank")(
    lambda _, program, results: _last_off_by_one(results) if "all-reduce" in program else results
)


@ONE.changed("an-exchange-of-the-call-before")
def _the_call_before(memory: dict[Any, Any], program: str, results: Sequence[Any]) -> Sequence[Any]:
    shapes = tuple((result.shape, str(result.dtype)) for result in results)
    kind = next((name for name in ("all-gather", "all-to-all", "collective-permute") if name in program), None)
    last, memory[kind, shapes] = memory.get((kind, shapes), results), results
    return last if kind else results


@ONE.patched("a-rank-that-hangs", rank.Rank, "collective")
def _hangs(collective: Any, self: Any, operation: str, axes: Any, data: Any) -> Any:
    if operation == "all_to_all":
        time.sleep(FOR_EVER)
    return collective(self, operation, axes, data)


@ONE.patched("a-rank-that-dies", rank.Rank, "collective")
def _dies(collective: Any, self: Any, operation: str, axes: Any, data: Any) -> Any:
    if operation == "all_gather":
        os.kill(os.getpid(), signal.SIGKILL)
    return collective(self, operation, axes, data)


@ONE.patched("a-rank-that-raises", rank.Rank, "call")
def _raises(call: Any, self: Any, method: str, *arguments: Any) -> Any:
    # An exception of the adapter itself would be no wrong result.
    if method == "step":
        raise RuntimeError("the runtime failed, on one process only")
    return call(self, method, *arguments)


@contextlib.contextmanager
def _lost(pause: float) -> Iterator[None]:
    """If an update raises, wait `pause` seconds and hide the error; JAX's heartbeats come too late to end a process."""
    right = rank.Rank.spin

    def spin(self: Any, seconds: float) -> None:
        try:
            right(self, seconds)
        except Exception:
            time.sleep(pause)

    with patch(rank, "HEARTBEAT", int(FOR_EVER)), patch(rank.Rank, "spin", spin):
        yield


ALL["a-loss-that-is-waited-for"] = lambda: _lost(FOR_EVER)
ALL["a-loss-that-is-hidden"] = lambda: _lost(0.0)


@ALL.patched("mean-of-the-ranks-means", template, "mean_loss")
def _mean_of_means(mean_loss: Any, case: Case, params: Any, batch: HostBatch) -> Any:
    parts = jax.process_count()
    means = []
    for part in range(parts):
        rows = len(batch.weights) // parts
        mine = HostBatch._make(leaf[part * rows : (part + 1) * rows] for leaf in batch)
        means.append(template.loss_sum(case, params, mine) / jnp.maximum(mine.weights.sum(), 1e-6))
    return sum(means) / parts


@ALL.patched("shares-that-leave-the-rest", Sharing, "share")
def _leave_the_rest(share: Any, self: Any, batch: npt.NDArray[Any]) -> Any:
    each = len(batch) // jax.process_count()
    return batch[jax.process_index() * each : (jax.process_index() + 1) * each]


# Fault -> what seeds it from the process that starts the others.
FAULTS = SeededFaults()
FAULTS.update({fault: functools.partial(seed, fault) for fault in [*ONE, *ALL]})
