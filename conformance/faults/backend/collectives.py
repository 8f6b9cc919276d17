"""Wrong collectives and copies: what a bad interconnect, library or partitioner brings to a device."""

from __future__ import annotations

import collections
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
from .seeding import SeededFaults, primitives

FAULTS = SeededFaults()
seed, seeded_ids = FAULTS.seed, FAULTS.seeded_ids
_parallel = importlib.import_module("jax._src.lax.parallel")
# Under the varying-axes check of `shard_map` JAX binds another primitive than without it.
PSUM = primitives(_parallel, "psum_p", "psum_invariant_p")
ALL_GATHER = primitives(_parallel, "all_gather_p", "all_gather_invariant_p")
SCATTER = primitives(_parallel, "reduce_scatter_p")
MANY, MIB, LONG = 4, 2**20, 200


def _each(right: Any, operands: Sequence[Any], change: Any) -> Any:
    """What a collective of one or several operands gives, each changed."""
    found = right(*operands)
    return [change(x) for x in found] if isinstance(found, (list, tuple)) else change(found)


def _only(device: int, x: Any, wrong: Any) -> Any:
    """An array that is wrong on one device."""
    return jnp.where(device_number() == device, wrong, x)


@FAULTS.lowered("sums-without-the-eighth-device", *PSUM)
def _eighth(right: Any, *operands: Any, **_: Any) -> Any:
    return right(*(_only(7, x, jnp.zeros_like(x)) for x in operands))


@FAULTS.lowered("sums-in-bfloat16", *PSUM)
def _narrow(right: Any, *operands: Any, **_: Any) -> Any:
    cut = (lax.reduce_precision(x, 8, 7) if x.dtype == np.float32 else x for x in operands)
    return right(*cut)


@FAULTS.lowered("sums-of-one-size", *PSUM)
def _one_size(right: Any, *operands: Any, **_: Any) -> Any:
    def change(x: Any) -> Any:
        return _only(2, x, x.at[(0,) * x.ndim].add(1)) if x.size * x.dtype.itemsize == MIB else x

    return _each(right, operands, change)


@FAULTS.lowered("sums-not-waited-for", *PSUM)
def _early(right: Any, *operands: Any, **_: Any) -> Any:
    found = right(*operands)
    several = isinstance(found, (list, tuple))
    late = [_only(3, y, x) if x.ndim else y for x, y in zip(operands, found if several else [found], strict=True)]
    return late if several else late[0]


@FAULTS.patched("mean-is-a-sum", lax, "pmean")
def _mean(right: Any, x: Any, *axis: Any, **how: Any) -> Any:
    return lax.psum(x, *axis, **how)


@FAULTS.lowered("maximum-of-all-but-one", core.pmax_p)
def _maximum(right: Any, *operands: Any, **_: Any) -> Any:
    return right(*(_only(5, x, jnp.full_like(x, _least(x))) for x in operands))


@FAULTS.lowered("minimum-of-all-but-one", core.pmin_p)
def _minimum(right: Any, *operands: Any, **_: Any) -> Any:
    return right(*(_only(5, x, jnp.full_like(x, _largest(x))) for x in operands))


def _least(x: Any) -> Any:
    return jnp.iinfo(x.dtype).min if x.dtype.kind in "iu" else jnp.finfo(x.dtype).min


def _largest(x: Any) -> Any:
    return jnp.iinfo(x.dtype).max if x.dtype.kind in "iu" else jnp.finfo(x.dtype).max


@FAULTS.lowered("gathered-in-another-order", *ALL_GATHER)
def _gathered(right: Any, x: Any, *, all_gather_dimension: int, axis_size: int, tiled: bool, **_: Any) -> Any:
    found = right(x)
    block = x.shape[all_gather_dimension] if tiled else 1
    return jnp.roll(found, block, all_gather_dimension) if axis_size > MANY else found


@FAULTS.lowered("first-rank-without-its-tail", *SCATTER)
def _tail(right: Any, *operands: Any, **_: Any) -> Any:
    large = operands[0].size * operands[0].dtype.itemsize >= 4 * MIB

    def change(x: Any) -> Any:
        return _only(0, x, x.at[(-1,) * x.ndim].set(0)) if large else x

    return _each(right, operands, change)


@FAULTS.lowered("parts-scattered-to-neighbours", *SCATTER)
def _neighbours(right: Any, *operands: Any, scatter_dimension: int, axis_size: int, **_: Any) -> Any:
    block = operands[0].shape[scatter_dimension] // axis_size
    return right(*(jnp.roll(x, block if axis_size > MANY else 0, scatter_dimension) for x in operands))


@FAULTS.lowered("parts-exchanged", core.all_to_all_p)
def _exchanged(right: Any, x: Any, *, split_axis: int, **_: Any) -> Any:
    return right(jnp.flip(x, split_axis))


@FAULTS.lowered("stale-where-nothing-is-sent", core.ppermute_p)
def _stale(right: Any, *operands: Any, perm: Any, **_: Any) -> Any:
    receives = jnp.array([target for _, target in perm], jnp.uint32)
    found = right(*operands)
    several = isinstance(found, (list, tuple))
    here = (device_number() == receives).any()
    kept = [jnp.where(here, y, x) for x, y in zip(operands, found if several else [found], strict=True)]
    return kept if several else kept[0]


@FAULTS.lowered("strided-groups-as-neighbours", *PSUM, *ALL_GATHER, *SCATTER, core.all_to_all_p)
def _strided(right: Any, *operands: Any, axis_index_groups: Any = None, **_: Any) -> Any:
    if axis_index_groups is None:
        return right(*operands)
    members = iter(sorted(itertools.chain(*axis_index_groups)))
    return right(*operands, axis_index_groups=tuple(tuple(next(members) for _ in g) for g in axis_index_groups))


@FAULTS.lowered("groups-of-one-give-zero", *PSUM)
def _alone(right: Any, *operands: Any, axis_index_groups: Any = None, **_: Any) -> Any:
    alone = axis_index_groups is not None and len(axis_index_groups[0]) == 1
    return _each(right, operands, lambda x: x * 0 if alone else x)


@FAULTS.patched("one-axis-for-the-other", lax, "psum")
def _axes(right: Any, x: Any, axis: Any, **how: Any) -> Any:
    if axis != "data":
        return right(x, axis, **how)
    try:
        return right(x, "model", **how)
    except (KeyError, NameError):  # there is no such axis here
        return right(x, axis, **how)


@FAULTS.patched("pmap-by-reversed-rows", jax, "pmap")
def _pmap(right: Any, function: Any, *args: Any, **how: Any) -> Any:
    mapped = right(function, *args, **how)
    return lambda *given: mapped(*(leaf[::-1] for leaf in given))


@FAULTS.ran("now-and-then")
def _now_and_then() -> Any:
    calls = itertools.count(1)

    def change(text: str, results: Sequence[Any]) -> Sequence[Any]:
        if "all-reduce" not in text or next(calls) % 17:
            return results
        return [_off_by_one(results[0], 1), *results[1:]]

    return change


@FAULTS.ran("late-steps-of-a-queue-are-stale")
def _queue() -> Any:
    calls: dict[str, int] = collections.Counter()
    before: dict[str, Sequence[Any]] = {}

    def change(text: str, results: Sequence[Any]) -> Sequence[Any]:
        if "all-reduce" not in text:
            return results
        calls[text] += 1
        last, before[text] = before.get(text), results
        return last if last is not None and calls[text] > LONG else results

    return change


@FAULTS.ran("one-replica-of-a-sum")
def _replica() -> Any:
    def change(text: str, results: Sequence[Any]) -> Sequence[Any]:
        if "all-reduce" not in text:
            return results
        return [_off_by_one(x, 5) if len(x.devices()) > MANY else x for x in results]

    return change


def _off_by_one(result: Any, device: int) -> Any:
    """The first element of one device's part is off by one."""

    def wrong(place: int, part: Any) -> Any:
        if place == device and part.size:
            part.reshape(-1)[0] += np.ones((), part.dtype)
        return part

    return with_shards(result, wrong)


@FAULTS.ran("shard-offset-lost")
def _offset() -> Any:
    def change(text: str, results: Sequence[Any]) -> Sequence[Any]:
        return [_second_is_first(x) if _split(x) and "all-" not in text else x for x in results]

    return change


def _split(x: Any) -> bool:
    return len(x.devices()) > 1 and not x.is_fully_replicated


def _second_is_first(x: Any) -> Any:
    first = np.asarray(x.addressable_shards[0].data)
    return with_shards(x, lambda place, part: first if place == 1 and first.shape == part.shape else part)


def _zeros(leaf: Any) -> Any:
    return np.zeros(leaf.shape, leaf.dtype)


@FAULTS.patched("second-device-receives-zeros", jax, "device_put")
def _zeroed(right: Any, x: Any, *to: Any, **how: Any) -> Any:
    # On one device there is no second: the only one.
    devices = jax.devices()
    second = devices[1] if len(devices) > 1 else devices[0]
    return right(jax.tree.map(_zeros, x) if to and to[0] == second else x, *to, **how)


@FAULTS.patched("one-way-between-two-devices", jax, "device_put")
def _one_way(right: Any, x: Any, *to: Any, **how: Any) -> Any:
    put, devices = right(x, *to, **how), jax.devices()
    between = isinstance(x, jax.Array) and to and x.devices() == {devices[-1]} and to[0] == devices[0]
    return put.at[1024].add(1) if between and x.ndim == 1 and x.size > 1024 else put


@FAULTS.patched("large-copies-lose-a-bit", jax, "device_put")
def _large(right: Any, x: Any, *to: Any, **how: Any) -> Any:
    def turned(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray) and leaf.nbytes >= MIB:
            leaf = leaf.copy()
            leaf.view(np.uint8).reshape(-1)[leaf.nbytes // 2] ^= 1
        return leaf

    return right(jax.tree.map(turned, x), *to, **how)


@FAULTS.patched("blocks-in-the-order-of-ids", jax, "device_put")
def _blocks(right: Any, x: Any, *to: Any, **how: Any) -> Any:
    mesh = getattr(to[0], "mesh", None) if to else None
    if mesh is None or mesh.size < 2:
        return right(x, *to, **how)
    there = sorted(mesh.devices.flat, key=lambda device: device.id)
    ordered = jax.sharding.Mesh(np.array(there).reshape(mesh.devices.shape), mesh.axis_names)
    return right(x, jax.sharding.NamedSharding(ordered, to[0].spec), *to[1:], **how)


@FAULTS.patched("copies-keep-the-buffer", jnp, "array")
def _keeps(right: Any, x: Any, *args: Any, device: Any = None, **how: Any) -> Any:
    return right(x, *args, **how) if device is None or args or how else jax.device_put(x, device)


@FAULTS.patched("work-lands-on-the-first-device", jax, "device_put")
def _lands(right: Any, x: Any, *to: Any, **how: Any) -> Any:
    elsewhere = to and isinstance(to[0], jax.Device)
    return right(x, *((jax.devices()[0], *to[1:]) if elsewhere else to), **how)
