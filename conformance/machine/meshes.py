"""Devices -> meshes, functions that run on every device, and data in which each device and position is recognized.

A stacked array, [N, ...], has one row for each device, placed on that device.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Array = npt.NDArray[Any]

FLOATS = tuple(np.dtype(kind) for kind in (jnp.float32, jnp.bfloat16, jnp.float16))
DTYPES = (*FLOATS, np.dtype(np.int32), np.dtype(np.uint32))


def mesh_of(devices: Sequence[Any], *shape: int) -> Mesh:
    """A mesh of the first devices, with axes `data` and `model`; without a shape, all devices are along `data`."""
    shape = shape or (len(devices),)
    return Mesh(np.array(devices)[: int(np.prod(shape))].reshape(shape), ("data", "model")[: len(shape)])


def shard_map(
    function: Callable[..., Any], mesh: Mesh, takes: Any, gives: PartitionSpec, *, check: bool = True
) -> Callable[..., Any]:
    """Call `jax.shard_map`, under the name and with the keyword that this version of JAX has."""
    if hasattr(jax, "shard_map"):
        return jax.shard_map(function, mesh=mesh, in_specs=takes, out_specs=gives, check_vma=check)
    from jax.experimental.shard_map import shard_map as before_0_6  # type: ignore[import-not-found,unused-ignore]

    return before_0_6(function, mesh=mesh, in_specs=takes, out_specs=gives, check_rep=check)


def varying(tree: Any, axis: str = "data") -> Any:
    """The same numbers, inside `shard_map` with its check, with a type that varies along an axis of the mesh."""
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(tree, axis, to="varying")
    return getattr(jax.lax, "pvary")(tree, axis)  # noqa: B009 - the name before JAX 0.8, which newer stubs lack


def on_each(function: Callable[..., Any], mesh: Mesh, *, check: bool = True) -> Callable[..., Any]:
    """A function of one device's arrays -> a function of stacked host arrays, which runs it on every device.

    It waits for the results of every device: before JAX 0.12, programs with collectives can deadlock on simulated
    devices if no one waits for them.
    """
    rows = PartitionSpec(mesh.axis_names)

    def own(*stacked: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[None], function(*(leaf[0] for leaf in stacked)))

    program = jax.jit(shard_map(own, mesh, rows, rows, check=check))
    place = NamedSharding(mesh, rows)

    def call(*stacked: Array) -> Any:
        return jax.tree.map(np.asarray, program(*(jax.device_put(leaf, place) for leaf in stacked)))

    return call


def exact_limit(dtype: np.dtype[Any]) -> int | None:
    """The largest n for which a float dtype represents all integers up to n; None for integer dtypes, which wrap."""
    return None if dtype.kind in "iu" else 2 ** (jnp.finfo(dtype).nmant + 1)


def holds_sums(dtype: np.dtype[Any], n: int) -> bool:
    """Whether n contributions of at least 1, and their partial sums in any order, are exact in `dtype`."""
    limit = exact_limit(dtype)
    return limit is None or limit >= 2 * n


def coded(rng: np.random.Generator, n: int, size: int, dtype: np.dtype[Any], *, room: int = 1) -> Array:
    """Stacked integers [n, size] whose sums over n devices are exact: device i has b[p] + c[(i + p) mod n] at p.

    b is random, c is a random order of distinct codes, and b + c is never zero. So the sum changes if a contribution is
    dropped, counted twice, or taken from another device or position; a sum of floats changes by at least 2. In n
    consecutive positions, every device once has the largest value of all devices, and once the smallest.

    For floats, 2 <= b + c <= limit / (room n), where `limit` is the dtype's `exact_limit`. So every partial sum is an
    integer of at most limit / room, and exact. If that leaves fewer than 4 n values (half precision on many devices),
    codes repeat; if it leaves one, b + c is 1. For integers, b is any even number and c an odd one; sums wrap.
    """
    limit = exact_limit(dtype)
    if limit is None:
        base = rng.integers(0, 2**31, size, dtype=np.uint32) * np.uint32(2)
        codes = rng.choice(2**20, n, replace=False).astype(np.uint32) * np.uint32(4094) + np.uint32(1)
    else:
        top = limit // (room * n)
        kinds = max(1, min(n, top // 4))
        codes = (2 * (rng.permutation(n) % kinds)).astype(np.uint32)
        most = top - 2 * (kinds - 1)
        base = rng.integers(min(2, most), most + 1, size, dtype=np.uint32)
    rounds = -(-size // n)
    base = np.resize(base, rounds * n).reshape(rounds, n)
    stacked = np.empty((n, rounds, n), dtype)
    for device, row in enumerate(stacked):
        words = base + np.roll(codes, -device)
        row[...] = words.view(dtype) if limit is None else words.astype(dtype)
    return stacked.reshape(n, rounds * n)[:, :size]


def signed(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Random integers of both signs that `dtype` holds exactly; for an integer dtype, any of its values."""
    limit = exact_limit(dtype)
    if limit is None:
        return rng.integers(0, 2**32, shape, dtype=np.uint32).view(dtype)
    return rng.integers(-limit, limit + 1, shape).astype(dtype)


def summed(stacked: Array) -> Array:
    """Sum over devices [n, ...] -> [...]: integers modulo 2^32; floats in float64, which is exact for `coded`."""
    if stacked.dtype.kind in "iu":
        return np.asarray(np.add.reduce(stacked.view(np.uint32), axis=0, dtype=np.uint32)).view(stacked.dtype)
    return np.asarray(np.add.reduce(stacked, axis=0, dtype=np.float64))
