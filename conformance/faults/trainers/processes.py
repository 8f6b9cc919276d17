"""Id -> what is wrong in one process of several, or in all of them: seeded in the processes that rung 9 starts.

`ranks.FAULT` has each of them call `wrong` before it joins the others. The trainer is the template, with a share of
the data and a checkpoint (`sharing.py`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
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
from ..backend.executables import results_changed, with_shards
from ..backend.seeding import Instead, patch
from .sharing import Batches, Sharing

# The process that is wrong where only one is; each layout has it.
ODD = 1
# Seconds that a process is waited for here: it answers in less, compiling included, or never.
PATIENCE = 25.0
FOR_EVER = 3600.0
MIB = 1024 * 1024
WRONG: dict[str, Callable[[], AbstractContextManager[Any]]] = {}
# Of one process only.
ONE: set[str] = set()


def seeded_ids() -> list[str]:
    """The ids of the faults that this module seeds."""
    return list(WRONG)


@contextlib.contextmanager
def seed(fault: str) -> Iterator[Instead]:
    """Have the processes that are started in here go wrong; gives the trainer that runs in them."""
    process_group.FAULT.append(fault)
    try:
        with patch(process_group, "LIMIT", PATIENCE):
            yield {"subject": Sharing(), "adapter": f"{Sharing.__module__}:Sharing"}
    finally:
        process_group.FAULT.clear()
        process_group.close_all()


def wrong(fault: str, number: int) -> AbstractContextManager[Any]:
    """What process `number` has to be in, to be wrong: nothing where the fault is another process's."""
    return contextlib.nullcontext() if fault in ONE and number != ODD else WRONG[fault]()


def patched(fault: str, owner: Any, name: str, *, one: bool = True) -> Callable[[Any], Any]:
    """The decorated function, which gets the right one first, takes the place of `owner.name`."""

    def add(instead: Any) -> Any:
        right = getattr(owner, name)

        def called(*arguments: Any, **keywords: Any) -> Any:
            return instead(right, *arguments, **keywords)

        WRONG[fault] = lambda: patch(owner, name, called)
        if one:
            ONE.add(fault)
        return instead

    return add


# Who is there.


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
    """Nothing is found, and nothing said."""


# What is carried between them.


def _changed(fault: str, make: Callable[[], Callable[[str, Sequence[Any]], Sequence[Any]]]) -> None:
    WRONG[fault] = lambda: results_changed(make())
    ONE.add(fault)


def _last_off_by_one(results: Sequence[Any]) -> Sequence[Any]:
    def change(_: int, part: Any) -> Any:
        part.reshape(-1)[-1] += 1
        return part

    return [with_shards(result, change) for result in results]


def _big_reduce_scatter() -> Callable[[str, Sequence[Any]], Sequence[Any]]:
    def change(program: str, results: Sequence[Any]) -> Sequence[Any]:
        large = sum(shard.data.nbytes for result in results for shard in result.addressable_shards) >= MIB
        return _last_off_by_one(results) if "reduce-scatter" in program and large else results

    return change


def _sums() -> Callable[[str, Sequence[Any]], Sequence[Any]]:
    return lambda program, results: _last_off_by_one(results) if "all-reduce" in program else results


def _the_call_before() -> Callable[[str, Sequence[Any]], Sequence[Any]]:
    before: dict[Any, Sequence[Any]] = {}

    def change(program: str, results: Sequence[Any]) -> Sequence[Any]:
        shapes = tuple((result.shape, str(result.dtype)) for result in results)
        kind = next((name for name in ("all-gather", "all-to-all", "collective-permute") if name in program), None)
        kept, before[kind, shapes] = before.get((kind, shapes), results), results
        return kept if kind else results

    return change


_changed("a-reduce-scatter-of-one-size", _big_reduce_scatter)
_changed("a-sum-wrong-on-one-rank", _sums)
_changed("an-exchange-of-the-call-before", _the_call_before)


@patched("a-group-that-takes-in-all", lax, "psum", one=False)
def _all_of_them(psum: Any, x: Any, axes: Any, **keywords: Any) -> Any:
    return psum(x, AXES if axes == AXES[1:] else axes, **keywords)


# Who ends, and who does not.


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


def _at_a_loss(does: Callable[[], int]) -> AbstractContextManager[Any]:
    """Errors of an update are caught, and heartbeats are so far apart that JAX ends nobody."""
    right = rank.Rank.spin

    def spin(self: Any, seconds: float) -> int:
        try:
            return right(self, seconds)
        except Exception:
            return does()

    stack = ExitStack()
    stack.enter_context(patch(rank, "HEARTBEAT", int(FOR_EVER)))
    stack.enter_context(patch(rank.Rank, "spin", spin))
    return stack


def _wait() -> int:
    time.sleep(FOR_EVER)
    return 0


WRONG["a-loss-that-is-waited-for"] = lambda: _at_a_loss(_wait)
WRONG["a-loss-that-is-hidden"] = lambda: _at_a_loss(lambda: 0)


# What they train on, and with.


@patched("ranks-that-begin-otherwise", Sharing, "start")
def _otherwise(start: Any, self: Any, case: Case, params: Arrays, n_devices: int) -> None:
    start(self, case, {name: leaf * 1.001 for name, leaf in params.items()}, n_devices)


@patched("rows-of-another-rank", Sharing, "_put")
def _rows_of_another(put: Any, self: Any, batch: HostBatch) -> HostBatch:
    found: HostBatch = put(self, HostBatch(*(np.roll(leaf, len(leaf) // 2, axis=0) for leaf in batch)))
    return found


@patched("tokens-shifted-on-one-rank", Sharing, "_put")
def _shifted(put: Any, self: Any, batch: HostBatch) -> HostBatch:
    left = {name: np.pad(getattr(batch, name), [(0, 0), (0, 1)])[:, 1:] for name in batch._fields[:3]}
    found: HostBatch = put(self, batch._replace(**left))
    return found


@patched("a-rank-that-pads-longer", Sharing, "_put")
def _longer(put: Any, self: Any, batch: HostBatch) -> HostBatch:
    more = {name: np.pad(getattr(batch, name), [(0, 0), (0, 1)]) for name in batch._fields[:3]}
    found: HostBatch = put(self, batch._replace(**more))
    return found


@patched("a-rank-with-another-program", rank.Rank, "join")
def _another_program(join: Any, self: Any, *arguments: Any, light: bool) -> None:
    join(self, *arguments, light=not light)


@patched("mean-of-the-ranks-means", template, "mean_loss", one=False)
def _mean_of_means(mean_loss: Any, case: Case, params: Any, batch: HostBatch) -> Any:
    parts = jax.process_count()
    means = []
    for part in range(parts):
        rows = len(batch.weights) // parts
        cut: list[Any] = [leaf[part * rows : (part + 1) * rows] for leaf in batch]
        mine = HostBatch(*cut)
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
def _own_order(epoch: Any, self: Any, examples: int, batch_size: int, number: int) -> Batches:
    found: Batches = epoch(self, examples, batch_size, number + ODD)
    return found


@patched("everything-read-by-all", Sharing, "share", one=False)
def _reads_all(share: Any, self: Any, batch: npt.NDArray[Any]) -> Any:
    return batch


@patched("a-rank-that-restores-nothing", Sharing, "restore")
def _restores_nothing(restore: Any, self: Any, path: Path) -> None:
    """It goes on from what it had."""
