"""Wrong collectives and copies: what a bad interconnect, library or partitioner delivers."""

import importlib
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives as core

from .executables import with_shards
from .lowering import device_number
from .primitives import cut
from .seeding import SeededFaults

FAULTS = SeededFaults()


def _of_jax(*names: str) -> list[Any]:
    """The primitives that this release of JAX has."""
    module = importlib.import_module("jax._src.lax.parallel")
    return [getattr(module, name) for name in names if hasattr(module, name)]


# With its varying-axes check on, `shard_map` uses another primitive than without.
PSUM = _of_jax("psum_p", "psum_invariant_p")
ALL_GATHER = _of_jax("all_gather_p", "all_gather_invariant_p")
SCATTER = _of_jax("reduce_scatter_p")
# Devices, bytes and calls from which a fault of large meshes, large messages or long queues shows.
MANY, MIB, LONG = 4, 2**20, 200


def each(right: Any, operands: Sequence[Any], change: Any) -> Any:
    """The results of a collective, one or several, each replaced by `change(operand, result)`."""
    results = right(*operands)
    if not isinstance(results, (list, tuple)):
        return change(operands[0], results)
    return [change(x, y) for x, y in zip(operands, results, strict=True)]


def _only(device: int, x: Any, wrong: Any) -> Any:
    """`wrong` on one device, `x` on the others."""
    return jnp.where(device_number() == device, wrong, x)


def _floats(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _limits(x: Any) -> Any:
    return jnp.iinfo(x.dtype) if x.dtype.kind in "iu" else jnp.finfo(x.dtype)


# Faults of one expression; `right` is the primitive as JAX compiles it, or the function.
FAULTS.lowered("sums-without-the-eighth-device", *PSUM)(
    lambda right, *operands, **_: right(*(_only(7, x, jnp.zeros_like(x)) for x in operands))
)
FAULTS.lowered("sums-in-bfloat16", *PSUM)(lambda right, *operands, **_: right(*(cut(x, 7) for x in operands)))
FAULTS.lowered("sums-not-waited-for", *PSUM)(
    lambda right, *operands, **_: each(right, operands, lambda x, y: _only(3, y, x) if x.ndim else y)
)
FAULTS.lowered("maximum-of-all-but-one", core.pmax_p)(
    lambda right, *operands, **_: right(*(_only(5, x, jnp.full_like(x, _limits(x).min)) for x in operands))
)
FAULTS.lowered("minimum-of-all-but-one", core.pmin_p)(
    lambda right, *operands, **_: right(*(_only(5, x, jnp.full_like(x, _limits(x).max)) for x in operands))
)
FAULTS.lowered("a-nan-lost-by-one-device", *PSUM)(
    lambda right, *operands, **_: right(*(_only(5, x, jnp.where(jnp.isnan(x), 0, x)) for x in operands))
)
FAULTS.lowered("a-nan-lost-in-scattered-sums", *SCATTER)(
    lambda right, *operands, **_: right(*(jnp.where(jnp.isnan(x), 0, x) for x in operands))
)
FAULTS.lowered("nan-as-infinity-in-a-maximum", core.pmax_p)(
    lambda right, *operands, **_: right(*(jnp.where(jnp.isnan(x), jnp.inf, x) if _floats(x) else x for x in operands))
)
FAULTS.lowered("infinity-as-the-largest-number", core.pmax_p, core.pmin_p)(
    lambda right, *operands, **_: right(*(_only(1, x, jnp.clip(x, _limits(x).min, _limits(x).max)) for x in operands))
)
FAULTS.lowered("parts-exchanged", core.all_to_all_p)(
    lambda right, x, *, split_axis, **_: right(jnp.flip(x, split_axis))
)
FAULTS.patched("mean-is-a-sum", lax, "pmean")(lambda right, x, *axis, **options: lax.psum(x, *axis, **options))


@FAULTS.lowered("sums-of-one-size", *PSUM)
def _one_size(right: Any, *operands: Any, **_: Any) -> Any:
    return each(right, operands, lambda _, y: _only(2, y, y.at[(0,) * y.ndim].add(1)) if y.nbytes == MIB else y)


@FAULTS.lowered("gathered-in-another-order", *ALL_GATHER)
def _gathered(right: Any, x: Any, *, all_gather_dimension: int, axis_size: int, tiled: bool, **_: Any) -> Any:
    block = x.shape[all_gather_dimension] if tiled else 1
    return jnp.roll(right(x), block, all_gather_dimension) if axis_size > MANY else right(x)


@FAULTS.lowered("small-integers-gathered-in-another-order", *ALL_GATHER)
def _small_integers(right: Any, x: Any, *, all_gather_dimension: int, tiled: bool, **_: Any) -> Any:
    block, small = (x.shape[all_gather_dimension] if tiled else 1), x.dtype.kind in "iu" and x.nbytes % 8
    return jnp.roll(right(x), block, all_gather_dimension) if small else right(x)


@FAULTS.lowered("first-rank-without-its-tail", *SCATTER)
def _tail(right: Any, *operands: Any, **_: Any) -> Any:
    return each(right, operands, lambda x, y: _only(0, y, y.at[(-1,) * y.ndim].set(0)) if x.nbytes >= 4 * MIB else y)


@FAULTS.lowered("parts-scattered-to-neighbours", *SCATTER)
def _neighbours(right: Any, *operands: Any, scatter_dimension: int, axis_size: int, **_: Any) -> Any:
    block = operands[0].shape[scatter_dimension] // axis_size
    return right(*(jnp.roll(x, block if axis_size > MANY else 0, scatter_dimension) for x in operands))


@FAULTS.lowered("stale-where-nothing-is-sent", core.ppermute_p)
def _stale(right: Any, *operands: Any, perm: Any, **_: Any) -> Any:
    receives = (device_number() == jnp.array([target for _, target in perm], jnp.uint32)).any()
    return each(right, operands, lambda x, y: jnp.where(receives, y, x))


@FAULTS.lowered("strided-groups-as-neighbours", *PSUM, *ALL_GATHER, *SCATTER, core.all_to_all_p)
def _strided(right: Any, *operands: Any, axis_index_groups: Any = None, **_: Any) -> Any:
    if axis_index_groups is None:
        return right(*operands)
    members = iter(sorted(itertools.chain(*axis_index_groups)))
    return right(*operands, axis_index_groups=tuple(tuple(next(members) for _ in g) for g in axis_index_groups))


@FAULTS.lowered("groups-of-one-give-zero", *PSUM)
def _alone(right: Any, *operands: Any, axis_index_groups: Any = None, **_: Any) -> Any:
    alone = axis_index_groups is not None and len(axis_index_groups[0]) == 1
    return each(right, operands, lambda _, y: y * 0 if alone else y)


@FAULTS.patched("one-axis-for-the-other", lax, "psum")
def _axes(right: Any, x: Any, axis: Any, **options: Any) -> Any:
    if axis != "data":
        return right(x, axis, **options)
    try:
        return right(x, "model", **options)
    except (KeyError, NameError):  # this mesh has no axis `model`
        return right(x, axis, **options)


@FAULTS.patched("pmap-by-reversed-rows", jax, "pmap")
def _pmap(right: Any, function: Any, *args: Any, **options: Any) -> Any:
    mapped = right(function, *args, **options)
    return lambda *arrays: mapped(*(leaf[::-1] for leaf in arrays))


@FAULTS.changed("now-and-then")
def _now_and_then(memory: dict[str, int], text: str, results: Sequence[Any]) -> Sequence[Any]:
    if "all-reduce" not in text:
        return results
    memory["calls"] = memory.get("calls", 0) + 1
    return results if memory["calls"] % 17 else [_off_by_one(results[0], 1), *results[1:]]


@FAULTS.changed("sums-in-a-loop")
def _in_a_loop(_: Any, text: str, results: Sequence[Any]) -> Sequence[Any]:
    return [_off_by_one(results[0], 1), *results[1:]] if "all-reduce" in text and " while(" in text else results


@FAULTS.changed("a-nan-lost-by-the-partitioner")
def _partitioner(_: Any, text: str, results: Sequence[Any]) -> Sequence[Any]:
    # In programs of the partitioner, XLA's names of operations have `reduce_sum`; written out, they have `psum`.
    if "all-reduce" not in text or "reduce_sum" not in text:
        return results
    return [with_shards(x, lambda _, part: np.where(np.isnan(part), 0, part).astype(part.dtype)) for x in results]


@FAULTS.changed("late-steps-of-a-queue-are-stale")
def _queue(memory: dict[str, Any], text: str, results: Sequence[Any]) -> Sequence[Any]:
    if "all-reduce" not in text:
        return results
    calls, before = memory.get(text, (0, results))
    memory[text] = calls + 1, results
    return before if calls >= LONG else results


@FAULTS.changed("one-replica-of-a-sum")
def _replica(_: Any, text: str, results: Sequence[Any]) -> Sequence[Any]:
    reduced = "all-reduce" in text
    return [_off_by_one(x, 5) if reduced and len(x.devices()) > MANY else x for x in results]


def _off_by_one(result: Any, device: int) -> Any:
    """Add 1 to the first element of one device's shard."""

    def wrong(place: int, part: Any) -> Any:
        if place == device and part.size:
            part.reshape(-1)[0] += np.ones((), part.dtype)
        return part

    return with_shards(result, wrong)


@FAULTS.changed("shard-offset-lost")
def _offset(_: Any, text: str, results: Sequence[Any]) -> Sequence[Any]:
    def second_is_first(x: Any) -> Any:
        if len(x.devices()) == 1 or x.is_fully_replicated or "all-" in text:
            return x
        first = np.asarray(x.addressable_shards[0].data)
        return with_shards(x, lambda place, part: first if place == 1 and first.shape == part.shape else part)

    return [second_is_first(x) for x in results]


# Copies, all by `jax.device_put` or `jnp.array`.


@FAULTS.patched("second-device-receives-zeros", jax, "device_put")
def _zeroed(right: Any, x: Any, *to: Any, **options: Any) -> Any:
    # On a machine with one device: that one.
    second = jax.devices()[:2][-1]
    sent = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), x) if to and to[0] == second else x
    return right(sent, *to, **options)


@FAULTS.patched("one-way-between-two-devices", jax, "device_put")
def _one_way(right: Any, x: Any, *to: Any, **options: Any) -> Any:
    put, devices = right(x, *to, **options), jax.devices()
    between = isinstance(x, jax.Array) and to and x.devices() == {devices[-1]} and to[0] == devices[0]
    return put.at[1024].add(1) if between and x.ndim == 1 and x.size > 1024 else put


@FAULTS.patched("large-copies-lose-a-bit", jax, "device_put")
def _large(right: Any, x: Any, *to: Any, **options: Any) -> Any:
    def flipped(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray) and leaf.nbytes >= MIB:
            leaf = leaf.copy()
            leaf.view(np.uint8).reshape(-1)[leaf.nbytes // 2] ^= 1
        return leaf

    return right(jax.tree.map(flipped, x), *to, **options)


@FAULTS.patched("one-dtype-is-copied-backwards", jax, "device_put")
def _backwards(right: Any, x: Any, *to: Any, **options: Any) -> Any:
    def backwards(leaf: Any) -> Any:
        return leaf[::-1] if getattr(leaf, "dtype", None) == np.int16 else leaf

    return right(jax.tree.map(backwards, x), *to, **options)


@FAULTS.patched("64-bits-are-copied-as-32", jax, "device_put")
def _narrowed(right: Any, x: Any, *to: Any, **options: Any) -> Any:
    def narrow(leaf: Any) -> Any:
        return leaf.astype(np.float32).astype(leaf.dtype) if getattr(leaf, "dtype", None) == np.float64 else leaf

    return right(jax.tree.map(narrow, x), *to, **options)


@FAULTS.patched("flags-lost-between-devices", jax, "device_put")
def _flags(right: Any, x: Any, *to: Any, **options: Any) -> Any:
    put = right(x, *to, **options)
    return jnp.zeros_like(put) if isinstance(x, jax.Array) and to and x.dtype == bool else put


@FAULTS.patched("one-dimensional-shards-turned", jax, "device_put")
def _turned(right: Any, x: Any, *to: Any, **options: Any) -> Any:
    sharded = to and isinstance(to[0], jax.sharding.NamedSharding) and to[0].spec and np.ndim(x) == 1
    return right(np.roll(x, 1) if sharded else x, *to, **options)


@FAULTS.patched("blocks-in-the-order-of-ids", jax, "device_put")
def _blocks(right: Any, x: Any, *to: Any, **options: Any) -> Any:
    mesh = getattr(to[0], "mesh", None) if to else None
    if mesh is None or mesh.size < 2:
        return right(x, *to, **options)
    by_id = sorted(mesh.devices.flat, key=lambda device: device.id)
    ordered = jax.sharding.Mesh(np.array(by_id).reshape(mesh.devices.shape), mesh.axis_names)
    return right(x, jax.sharding.NamedSharding(ordered, to[0].spec), *to[1:], **options)


@FAULTS.patched("copies-keep-the-buffer", jnp, "array")
def _keeps(right: Any, x: Any, *args: Any, device: Any = None, **options: Any) -> Any:
    return right(x, *args, **options) if device is None or args or options else jax.device_put(x, device)


@FAULTS.patched("work-lands-on-the-first-device", jax, "device_put")
def _lands(right: Any, x: Any, *to: Any, **options: Any) -> Any:
    to_a_device = to and isinstance(to[0], jax.Device)
    return right(x, *((jax.devices()[0], *to[1:]) if to_a_device else to), **options)
