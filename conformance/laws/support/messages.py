"""Collectives over processes: what each device calls, and what each must have then, computed in NumPy.

Devices stand in a grid of (process, local); a collective goes over one axis of it or over both, so that there are
groups within a process, groups across all of them, and the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax import lax

Array = npt.NDArray[Any]
Axes = Sequence[str]
AXES = ("process", "local")


def _turned(x: jax.Array, axes: Axes) -> jax.Array:
    n = int(lax.psum(1, axes))
    return lax.ppermute(x, axes, [(i, (i + 1) % n) for i in range(n)])


# Of a device's row [size], over some axes.
CALLS: dict[str, Callable[[jax.Array, Axes], jax.Array]] = {
    "psum": lambda x, axes: lax.psum(x, axes),
    "all_gather": lambda x, axes: lax.all_gather(x, axes, tiled=True),
    "reduce_scatter": lambda x, axes: lax.psum_scatter(x, axes, tiled=True),
    "all_to_all": lambda x, axes: lax.all_to_all(x, axes, 0, 0, tiled=True),
    "ppermute": _turned,
}


def sent(program: Callable[[Any], Any], place: Any, data: Array) -> dict[int, Array]:
    """Give each device its row of `data` [N, size]; the results of this process's devices, by their rows."""
    result = program(jax.make_array_from_callback(data.shape, place, lambda rows: data[rows]))
    return {int(shard.index[0].start or 0): np.array(shard.data)[0] for shard in result.addressable_shards}


def groups(shape: tuple[int, int], axes: Axes) -> list[list[int]]:
    """The rows that a collective over some axes of a grid of devices brings together, each group in its order."""
    places = np.arange(shape[0] * shape[1]).reshape(shape)
    if tuple(axes) == AXES:
        return [places.ravel().tolist()]
    return [row.tolist() for row in (places if tuple(axes) == ("local",) else places.T)]


def expected(operation: str, shape: tuple[int, int], axes: Axes, data: Array) -> Array:
    """What each device has after a collective: [N, ...] of the dtype of `data` [N, size], whose sums are exact.

    `size` must be a multiple of the devices of a group.
    """
    found: list[Array] = [data[0]] * len(data)
    for members in groups(shape, axes):
        rows = data[members]
        total = rows.sum(axis=0, dtype=np.float64 if data.dtype.kind == "f" else data.dtype).astype(data.dtype)
        for at, member in enumerate(members):
            match operation:
                case "psum":
                    found[member] = total
                case "all_gather":
                    found[member] = rows.ravel()
                case "reduce_scatter":
                    found[member] = np.split(total, len(members))[at]
                case "all_to_all":
                    found[member] = rows.reshape(len(members), len(members), -1)[:, at].ravel()
                case "ppermute":
                    found[member] = rows[at - 1]
    return np.stack(found)
