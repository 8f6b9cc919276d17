"""Equivalent changes: other orders, layouts, roundings and settings, under which every law must pass.

A law that fails here raises a false alarm: its bound or one of its assumptions is wrong.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives as core

from ..adapter import HostBatch
from ..oracle.draws import rows_of
from ..oracle.model import Array, Params
from .backend.lowering import CannotSeedError
from .backend.seeding import Fixtures, SeededFaults, WrongTrainers, option
from .trainers import fixtures
from .trainers.numpy_trainer import NumpyTrainer, Sums, added

MACHINE = SeededFaults()
TRAINERS = WrongTrainers(NumpyTrainer, "numpy")
ULP = np.float32(1 + 2.0**-23)


def seed(change: str) -> AbstractContextManager[Fixtures | None]:
    """Make a change inside the `with` block; gives the fixtures that it replaces."""
    return contextlib.nullcontext(fixtures(TRAINERS[change]())) if change in TRAINERS else MACHINE.seed(change)


def seeded_ids() -> list[str]:
    """The ids of the changes: those of the machine, then those of a trainer."""
    return [*MACHINE, *TRAINERS]


# Of the machine, of one expression; `right` is the primitive as JAX compiles it.
MACHINE.lowered("sums-from-the-end", core.reduce_sum_p)(
    lambda right, x, *, axes, **_: right(lax.rev(x, tuple(axes))),
)
MACHINE.lowered("exp-of-another-library", core.exp_p)(
    lambda right, x, **_: right(x) * ULP if x.dtype == np.float32 else right(x),
)
MACHINE.lowered("rsqrt-by-division", core.rsqrt_p)(lambda right, x, **_: 1 / lax.sqrt(x))
MACHINE.lowered("division-by-reciprocal", core.div_p)(
    lambda right, a, b, **_: a * right(jnp.ones_like(b), b) if a.dtype == np.float32 else right(a, b),
)
MACHINE["compiled-without-optimization"] = lambda: option("jax_disable_most_optimizations", True)
MACHINE["highest-precision-declared"] = lambda: option("jax_default_matmul_precision", "highest")
MACHINE["another-default-generator"] = lambda: option("jax_default_prng_impl", "rbg")
MACHINE["64-bit-types-on"] = lambda: option("jax_enable_x64", True)


# Of the machine.


@MACHINE.lowered("sums-by-halves", core.reduce_sum_p)
def _halves(right: Any, x: Any, *, axes: Any, **_: Any) -> Any:
    even = lax.broadcasted_iota(np.int32, x.shape, axes[0]) % 2 == 0
    zero = jnp.zeros_like(x)
    return right(jnp.where(even, x, zero)) + right(jnp.where(even, zero, x))


@MACHINE.lowered("products-by-blocks", core.dot_general_p)
def _blocks(right: Any, a: Any, b: Any, *, dimension_numbers: Any, preferred_element_type: Any, **_: Any) -> Any:
    over = dimension_numbers[0][0]
    if len(over) != 1 or (preferred_element_type or a.dtype) != np.float32:
        return right(a, b)
    first = lax.broadcasted_iota(np.int32, a.shape, over[0]) < a.shape[over[0]] // 2
    zero = jnp.zeros_like(a)
    return right(jnp.where(first, a, zero), b) + right(jnp.where(first, zero, a), b)


@MACHINE.lowered("products-without-subnormals", core.dot_general_p)
def _flushed(right: Any, a: Any, b: Any, **_: Any) -> Any:
    def flush(x: Any) -> Any:
        return jnp.where(jnp.abs(x) < np.finfo(x.dtype).tiny, 0, x) if x.dtype in (np.float32, np.float16) else x

    return right(flush(a), flush(b))


@MACHINE.lowered("rows-added-from-the-last", core.scatter_add_p)
def _from_the_last(right: Any, table: Any, ids: Any, updates: Any, **_: Any) -> Any:
    rows = ids.ndim == 2 and updates.ndim == 2 and len(ids) == len(updates)
    return right(table, lax.rev(ids, (0,)), lax.rev(updates, (0,))) if rows else right(table, ids, updates)


@MACHINE.lowered("tanh-of-another-library", core.tanh_p)
def _tanh(right: Any, x: Any, **_: Any) -> Any:
    y = right(x)
    # 1, the limit at infinity, stays 1.
    return jnp.where(jnp.abs(y) < 1, y * (2 - ULP), y) if x.dtype == np.float32 else y


@MACHINE.context("devices-from-the-last")
def _devices() -> Iterator[Fixtures]:
    yield {"devices": jax.devices()[::-1]}


@MACHINE.context("five-devices")
def _five() -> Iterator[Fixtures]:
    if len(jax.devices()) < 5:
        raise CannotSeedError(f"needs 5 devices, found {len(jax.devices())}")
    yield {"devices": jax.devices()[:5]}


# Of a trainer.

TRAINERS.method("devices-added-from-the-last", "reduce", lambda right, self, parts: added(parts[::-1]))


@TRAINERS("rows-dealt-in-turn")
class _InTurn(NumpyTrainer):
    def shards(self, batch: HostBatch) -> list[HostBatch]:
        every = [np.arange(d, len(batch.weights), self.n) for d in range(self.n)]
        return [rows_of(batch, rows) for rows in every if len(rows)]


@TRAINERS("devices-added-as-a-tree")
class _Tree(NumpyTrainer):
    def reduce(self, parts: list[Sums]) -> Sums:
        while len(parts) > 1:
            parts = [added(parts[i : i + 2]) for i in range(0, len(parts), 2)]
        return parts[0]


@TRAINERS("rows-sorted-by-length")
class _Sorted(NumpyTrainer):
    def shards(self, batch: HostBatch) -> list[HostBatch]:
        return super().shards(rows_of(batch, np.argsort(batch.attention_mask.sum(axis=1), kind="stable")))


@TRAINERS("padding-trimmed")
class _Trimmed(NumpyTrainer):
    def shards(self, batch: HostBatch) -> list[HostBatch]:
        return super().shards(trimmed(batch))

    def evaluate(self, batch: HostBatch) -> Array:
        return super().evaluate(trimmed(batch))


def trimmed(batch: HostBatch) -> HostBatch:
    """The batch without columns in which every row is padding."""
    longest = int(batch.attention_mask.sum(axis=1).max())
    return batch._replace(**{name: getattr(batch, name)[:, :longest] for name in HostBatch._fields[:3]})


@TRAINERS("more-rows-of-padding")
class _MoreRows(NumpyTrainer):
    def shards(self, batch: HostBatch) -> list[HostBatch]:
        more = rows_of(batch, np.arange(5))
        more = more._replace(weights=np.zeros_like(more.weights), labels=more.labels + 10**6)
        return super().shards(HostBatch(*(np.concatenate(pair) for pair in zip(batch, more, strict=True))))


@TRAINERS("weights-in-another-unit")
class _Unit(NumpyTrainer):
    def shards(self, batch: HostBatch) -> list[HostBatch]:
        return super().shards(batch._replace(weights=batch.weights * np.float32(4)))


@TRAINERS("more-micro-batches")
class _MicroBatches(NumpyTrainer):
    def micro_batches(self, batch: HostBatch) -> list[list[HostBatch]]:
        parts = super().micro_batches(batch)
        return [[rows_of(s, np.arange(len(s.weights)) % 3 == k) for s in shards] for shards in parts for k in range(3)]


def in_float32(leaves: Params) -> Params:
    """The leaves rounded to float32."""
    return {name: leaf.astype(np.float32).astype(np.float64) for name, leaf in leaves.items()}


@TRAINERS("state-in-float32")
class _Float32(NumpyTrainer):
    def update(self, gradients: Params, rate: float) -> None:
        if self.case.precision != "float32":
            return super().update(gradients, rate)
        super().update(in_float32(gradients), rate)
        self.now, self.first, self.second = in_float32(self.now), in_float32(self.first), in_float32(self.second)
        return None


@TRAINERS("adam-rearranged")
class _Adam(NumpyTrainer):
    def directions(self, first: Params, second: Params) -> Params:
        one, two = self.corrections()
        root, eps = np.sqrt(two), self.case.eps
        return {name: m * (root / one) / (np.sqrt(second[name]) + eps * root) for name, m in first.items()}


@TRAINERS("decay-before-the-step")
class _Decay(NumpyTrainer):
    def update(self, gradients: Params, rate: float) -> None:
        self.first, self.second = self.moments_after(gradients)
        toward, decay = self.directions(self.first, self.second), self.case.weight_decay
        decayed = {k: p * (1 - rate * decay * self.decays(k)) for k, p in self.now.items()}
        self.now = {k: p - rate * toward[k] for k, p in decayed.items()}


@TRAINERS("evaluation-by-three-rows")
class _Evaluation(NumpyTrainer):
    def evaluate(self, batch: HostBatch) -> Array:
        parts = np.array_split(np.arange(len(batch.weights)), -(-len(batch.weights) // 3))
        return np.concatenate([super(_Evaluation, self).evaluate(rows_of(batch, part)) for part in parts])


@TRAINERS("checkpoint-of-another-format")
class _Checkpoint(NumpyTrainer):
    def save(self, path: Path) -> None:
        state = {"now": self.now, "first": self.first, "second": self.second}
        flat = {f"{kind}/{name}": leaf for kind, leaves in state.items() for name, leaf in leaves.items()}
        np.savez(path / "state.npz", t=np.array(self.t), **flat)  # type: ignore[arg-type]

    def restore(self, path: Path) -> None:
        state: dict[str, Params] = {"now": {}, "first": {}, "second": {}}
        with np.load(path / "state.npz") as saved:
            self.t = int(saved["t"])
            for key in saved.files:
                kind, _, name = key.partition("/")
                if name:
                    state[kind][name] = saved[key]
        self.now, self.first, self.second = state["now"], state["first"], state["second"]
