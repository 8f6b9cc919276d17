"""Collectives over processes: what each device calls, and what each must have afterwards, computed in NumPy.

Devices form a grid of (process, local). A collective goes over one axis of it or over both, so its groups are within a
process, across all processes, or all devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax import lax

Array = npt.NDArray[Any]
Axes = Sequence[str]
AXES = ("process", "local")


def _to_the_next(x: jax.Array, axes: Axes) -> jax.Array:
    n = int(lax.psum(1, axes))
    return lax.ppermute(x, axes, [(i, (i + 1) % n) for i in range(n)])


# Of a device's row [size], over some axes.
CALLS: dict[str, Callable[[jax.Array, Axes], jax.Array]] = {
    "psum": lambda x, axes: lax.psum(x, axes),
    "all_gather": lambda x, axes: lax.all_gather(x, axes, tiled=True),
    "reduce_scatter": lambda x, axes: lax.psum_scatter(x, axes, tiled=True),
    "all_to_all": lambda x, axes: lax.all_to_all(x, axes, 0, 0, tiled=True),
    "ppermute": _to_the_next,
}


def sent(program: Callable[[Any], Any], place: Any, data: Array) -> dict[int, Array]:
    """Give each device its row of `data` [N, size]; the results of this process's devices, by their rows."""
    result = program(jax.make_array_from_callback(data.shape, place, lambda rows: data[rows]))
    return {int(shard.index[0].start or 0): np.array(shard.data)[0] for shard in result.addressable_shards}


def groups(shape: tuple[int, int], axes: Axes) -> list[list[int]]:
    """The groups of a collective over some axes of a grid of devices, each as the rows of its members in order."""
    places = np.arange(shape[0] * shape[1]).reshape(shape)
    if tuple(axes) == AXES:
        return [places.ravel().tolist()]
    return [row.tolist() for row in (places if tuple(axes) == ("local",) else places.T)]


def expected(operation: str, shape: tuple[int, int], axes: Axes, data: Array) -> Array:
    """What each device has after a collective: [N, ...] of the dtype of `data` [N, size], whose sums are exact.

    `size` must be a multiple of the devices of a group.
    """
    results: list[Array] = [data[0]] * len(data)
    for members in groups(shape, axes):
        rows = data[members]
        total = rows.sum(axis=0, dtype=np.float64 if data.dtype.kind == "f" else data.dtype).astype(data.dtype)
        for at, member in enumerate(members):
            match operation:
                case "psum":
                    results[member] = total
                case "all_gather":
                    results[member] = rows.ravel()
                case "reduce_scatter":
                    results[member] = np.split(total, len(members))[at]
                case "all_to_all":
                    results[member] = rows.reshape(len(members), len(members), -1)[:, at].ravel()
                case "ppermute":
                    results[member] = rows[at - 1]
    return np.stack(results)
