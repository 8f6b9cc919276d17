"""Equivalent changes: other orders, layouts, roundings and settings, under which every law must pass.

A law that fails here raises a false alarm: its bound or one of its assumptions is wrong.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives as core

from ..adapter import HostBatch
from ..oracle.draws import rows_of
from ..oracle.tape import Array, Params
from .backend.collectives import each
from .backend.lowering import CannotSeedError
from .backend.seeding import Fixtures, SeededFaults, option
from .trainers.numpy_trainer import NumpyTrainer, Sums, added

FAULTS = SeededFaults(NumpyTrainer)
ULP = np.float32(1 + 2.0**-23)

# Of the machine, of one expression; `right` is the primitive as JAX compiles it.
FAULTS.lowered("sums-from-the-end", core.reduce_sum_p)(lambda right, x, *, axes, **_: right(lax.rev(x, tuple(axes))))
FAULTS.lowered("exp-of-another-library", core.exp_p)(
    lambda right, x, **_: right(x) * ULP if x.dtype == np.float32 else right(x)
)
FAULTS.lowered("rsqrt-by-division", core.rsqrt_p)(lambda right, x, **_: 1 / lax.sqrt(x))
FAULTS.lowered("division-by-reciprocal", core.div_p)(
    lambda right, a, b, **_: a * right(jnp.ones_like(b), b) if a.dtype == np.float32 else right(a, b)
)
FAULTS.lowered("16-bit-rows-added-in-float32", core.scatter_add_p)(
    lambda right, table, ids, updates, *, dimension_numbers, **_: (
        lax.scatter_add(table.astype(np.float32), ids, updates.astype(np.float32), dimension_numbers).astype(
            table.dtype
        )
        if table.dtype == jnp.bfloat16
        else right(table, ids, updates)
    )
)
FAULTS["compiled-without-optimization"] = lambda: option("jax_disable_most_optimizations", True)
FAULTS["highest-precision-declared"] = lambda: option("jax_default_matmul_precision", "highest")
FAULTS["another-default-generator"] = lambda: option("jax_default_prng_impl", "rbg")
FAULTS["64-bit-types-on"] = lambda: option("jax_enable_x64", True)
FAULTS.fixtures("devices-from-the-last")(lambda: {"devices": jax.devices()[::-1]})


@FAULTS.fixtures("five-devices")
def _five() -> Fixtures:
    if len(jax.devices()) < 5:
        raise CannotSeedError(f"needs 5 devices, found {len(jax.devices())}")
    return {"devices": jax.devices()[:5]}


def positions(x: Any, axis: int) -> Any:
    """The position of each element along an axis, sharded as x is, which matters on explicit axes."""
    return jnp.zeros_like(x, dtype=np.int32) + lax.broadcasted_iota(np.int32, x.shape, axis)


@FAULTS.lowered("sums-by-halves", core.reduce_sum_p)
def _halves(right: Any, x: Any, *, axes: Any, **_: Any) -> Any:
    even = positions(x, axes[0]) % 2 == 0
    zero = jnp.zeros_like(x)
    return right(jnp.where(even, x, zero)) + right(jnp.where(even, zero, x))


@FAULTS.lowered("products-by-blocks", core.dot_general_p)
def _blocks(right: Any, a: Any, b: Any, *, dimension_numbers: Any, preferred_element_type: Any, **_: Any) -> Any:
    over = dimension_numbers[0][0]
    if len(over) != 1 or (preferred_element_type or a.dtype) != np.float32:
        return right(a, b)
    first = positions(a, over[0]) < a.shape[over[0]] // 2
    zero = jnp.zeros_like(a)
    return right(jnp.where(first, a, zero), b) + right(jnp.where(first, zero, a), b)


@FAULTS.lowered("products-without-subnormals", core.dot_general_p)
def _flushed(right: Any, a: Any, b: Any, **_: Any) -> Any:
    def flush(x: Any) -> Any:
        return jnp.where(jnp.abs(x) < np.finfo(x.dtype).tiny, 0, x) if x.dtype in (np.float32, np.float16) else x

    return right(flush(a), flush(b))


@FAULTS.lowered("rows-added-from-the-last", core.scatter_add_p)
def _from_the_last(right: Any, table: Any, ids: Any, updates: Any, **_: Any) -> Any:
    rows = ids.ndim == 2 and updates.ndim == 2 and len(ids) == len(updates)
    return right(table, lax.rev(ids, (0,)), lax.rev(updates, (0,))) if rows else right(table, ids, updates)


@FAULTS.lowered("maxima-that-keep-nan", core.pmax_p, core.pmin_p)
def _keeps_nan(right: Any, *operands: Any, **_: Any) -> Any:
    """What IEEE 754 demands, and no JAX of today computes on CPU devices; each NaN has another sign."""

    def keep(x: Any, y: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return y
        # One of the two is not 0 where a device has NaN, whether `right` is a maximum or a minimum.
        for sign in (1, -1):
            mark = right(jnp.where(jnp.isnan(x), sign, 0).astype(x.dtype))
            y = jnp.where((mark[0] if isinstance(mark, (list, tuple)) else mark) != 0, -jnp.nan, y).astype(x.dtype)
        return y

    return each(right, operands, keep)


@FAULTS.lowered("tanh-of-another-library", core.tanh_p)
def _tanh(right: Any, x: Any, **_: Any) -> Any:
    y = right(x)
    # 1, the limit at infinity, stays 1.
    return jnp.where(jnp.abs(y) < 1, y * (2 - ULP), y) if x.dtype == np.float32 else y


# Of a trainer.
FAULTS.method("devices-added-from-the-last", "reduce")(lambda right, self, parts: added(parts[::-1]))
FAULTS.method("weights-in-another-unit", "shards")(
    lambda right, self, batch: right(self, batch._replace(weights=batch.weights * np.float32(4)))
)
FAULTS.method("rows-sorted-by-length", "shards")(
    lambda right, self, batch: right(self, rows_of(batch, np.argsort(batch.attention_mask.sum(axis=1), kind="stable")))
)


@FAULTS.method("rows-dealt-in-turn", "shards")
def _in_turn(right: Any, self: NumpyTrainer, batch: HostBatch) -> list[HostBatch]:
    every = [np.arange(d, len(batch.weights), self.n) for d in range(self.n)]
    return [rows_of(batch, rows) for rows in every if len(rows)]


@FAULTS.method("devices-added-as-a-tree", "reduce")
def _tree(right: Any, self: NumpyTrainer, parts: list[Sums]) -> Sums:
    while len(parts) > 1:
        parts = [added(parts[i : i + 2]) for i in range(0, len(parts), 2)]
    return parts[0]


@FAULTS.trainer("padding-trimmed")
class _Trimmed(NumpyTrainer):
    def shards(self, batch: HostBatch) -> list[HostBatch]:
        return super().shards(trimmed(batch))

    def evaluate(self, batch: HostBatch) -> Array:
        return super().evaluate(trimmed(batch))


def trimmed(batch: HostBatch) -> HostBatch:
    """The batch without columns in which every row is padding."""
    longest = int(batch.attention_mask.sum(axis=1).max())
    return batch._replace(**{name: getattr(batch, name)[:, :longest] for name in HostBatch._fields[:3]})


@FAULTS.method("more-rows-of-padding", "shards")
def _more_rows(right: Any, self: NumpyTrainer, batch: HostBatch) -> list[HostBatch]:
    more = rows_of(batch, np.arange(5))
    more = more._replace(weights=np.zeros_like(more.weights), labels=more.labels + 10**6)
    return right(self, HostBatch(*(np.concatenate(pair) for pair in zip(batch, more, strict=True))))


@FAULTS.method("more-micro-batches", "micro_batches")
def _micro_batches(right: Any, self: NumpyTrainer, batch: HostBatch) -> list[list[HostBatch]]:
    parts = right(self, batch)
    return [[rows_of(s, np.arange(len(s.weights)) % 3 == k) for s in shards] for shards in parts for k in range(3)]


def in_float32(leaves: Params) -> Params:
    """The leaves rounded to float32."""
    return {name: leaf.astype(np.float32).astype(np.float64) for name, leaf in leaves.items()}


@FAULTS.method("state-in-float32", "update")
def _float32(right: Any, self: NumpyTrainer, gradients: Params, rate: float) -> None:
    narrow = in_float32 if self.case.precision == "float32" else lambda leaves: leaves
    right(self, narrow(gradients), rate)
    self.now, self.first, self.second = narrow(self.now), narrow(self.first), narrow(self.second)


@FAULTS.method("adam-rearranged", "directions")
def _adam(right: Any, self: NumpyTrainer, first: Params, second: Params) -> Params:
    one, two = self.corrections()
    root, eps = np.sqrt(two), self.case.eps
    return {name: m * (root / one) / (np.sqrt(second[name]) + eps * root) for name, m in first.items()}


@FAULTS.method("decay-before-the-step", "update")
def _decay(right: Any, self: NumpyTrainer, gradients: Params, rate: float) -> None:
    self.first, self.second = self.moments_after(gradients)
    toward, decay = self.directions(self.first, self.second), self.case.weight_decay
    decayed = {k: p * (1 - rate * decay * self.decays(k)) for k, p in self.now.items()}
    self.now = {k: p - rate * toward[k] for k, p in decayed.items()}


@FAULTS.method("evaluation-by-three-rows", "evaluate")
def _evaluation(right: Any, self: NumpyTrainer, batch: HostBatch) -> Array:
    parts = np.array_split(np.arange(len(batch.weights)), -(-len(batch.weights) // 3))
    return np.concatenate([right(self, rows_of(batch, part)) for part in parts])


@FAULTS.trainer("checkpoint-of-another-format")
class _Checkpoint(NumpyTrainer):
    def save(self, path: Path) -> None:
        state = {"now": self.now, "first": self.first, "second": self.second}
        flat = {f"{kind}/{name}": leaf for kind, leaves in state.items() for name, leaf in leaves.items()}
        np.savez(path / "state.npz", t=np.array(self.t), **flat)  # type: ignore[arg-type]

    def restore(self, path: Path) -> None:
        with np.load(path / "state.npz") as saved:
            self.t = int(saved["t"])
            for kind in ("now", "first", "second"):
                setattr(self, kind, {name: saved[f"{kind}/{name}"] for name in self.now})
