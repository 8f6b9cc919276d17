"""Collectives: the function that each device calls in JAX, and the results that NumPy expects, also of NaN.

The devices of several processes form a grid with axes (process, local). A collective over `local` stays within each
process, one over `process` goes across all processes, and one over both axes joins all devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from ...core.check import Check
from ...core.comparison import share_that_differs
from ...machine.meshes import Array, coded, summed

Axes = Sequence[str]
Groups = list[list[int]]
AXES = ("process", "local")
NAN, INF = float("nan"), float("inf")
# What one device contributes to an element, and what the next one does; None is an ordinary number.
NON_FINITE = ((NAN, None), (INF, None), (-INF, None), (INF, -INF), (NAN, INF), (NAN, -INF))
# NumPy's reductions over axis 0: by IEEE 754, which gives NaN for NaN, and without NaN.
REDUCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sum": (np.add.reduce, np.nansum),
    "max": (np.maximum.reduce, np.fmax.reduce),
    "min": (np.minimum.reduce, np.fmin.reduce),
}
# Platforms whose maximum over devices is known to drop NaN. On CPU devices JAX 0.5.3 to 0.12.0.1 did. For GPUs, the
# sources of NCCL and RCCL have fmaxf and fminf (`FuncMinMax` in src/device/reduce_kernel.h); not measured.
DROPS_NAN = ("cpu", "gpu")


def _to_the_next(x: jax.Array, axes: Axes) -> jax.Array:
    n = int(lax.psum(1, axes))
    return lax.ppermute(x, axes, [(i, (i + 1) % n) for i in range(n)])


def _total(rows: Array) -> Array:
    return summed(rows).astype(rows.dtype)


def _for_all(rows: Array, value: Array) -> Array:
    return np.broadcast_to(value, (len(rows), value.size))


# Name -> a JAX function of a device's row [size] and axes, and a NumPy function from a group's rows [n, size] to its n
# results. Sums of rows must be exact.
COLLECTIVES: dict[str, tuple[Callable[..., jax.Array], Callable[[Array], Array]]] = {
    "psum": (lambda x, axes, **how: lax.psum(x, axes, **how), lambda rows: _for_all(rows, _total(rows))),
    "pmax": (lambda x, axes, **how: lax.pmax(x, axes, **how), lambda rows: _for_all(rows, rows.max(axis=0))),
    "pmin": (lambda x, axes, **how: lax.pmin(x, axes, **how), lambda rows: _for_all(rows, rows.min(axis=0))),
    "all_gather": (
        lambda x, axes, **how: lax.all_gather(x, axes, tiled=True, **how),
        lambda rows: _for_all(rows, rows.ravel()),
    ),
    "psum_scatter": (
        lambda x, axes, **how: lax.psum_scatter(x, axes, tiled=True, **how),
        lambda rows: _total(rows).reshape(len(rows), -1),
    ),
    "all_to_all": (
        lambda x, axes, **how: lax.all_to_all(x, axes, 0, 0, tiled=True, **how),
        lambda rows: rows.reshape(len(rows), len(rows), -1).swapaxes(0, 1).reshape(len(rows), -1),
    ),
    "ppermute": (_to_the_next, lambda rows: np.roll(rows, 1, axis=0)),
}
COLLECTIVES["reduce_scatter"] = COLLECTIVES["psum_scatter"]


def sent(program: Callable[[Any], Any], place: Any, data: Array) -> dict[int, Array]:
    """Run a program with one row of `data` [N, size] on each device: row -> result, on this process's devices."""
    result = program(jax.make_array_from_callback(data.shape, place, lambda rows: data[rows]))
    return {int(shard.index[0].start or 0): np.array(shard.data)[0] for shard in result.addressable_shards}


def groups(shape: tuple[int, int], axes: Axes) -> Groups:
    """The groups of a collective over some axes of a grid of devices; a group lists its devices' numbers in order."""
    places = np.arange(shape[0] * shape[1]).reshape(shape)
    if tuple(axes) == AXES:
        return [places.ravel().tolist()]
    return [row.tolist() for row in (places if tuple(axes) == ("local",) else places.T)]


def expected(name: str, data: Array, among: Groups) -> Array:
    """Each device's result of a collective within groups of one size: [N, ...], in the dtype of `data` [N, size]."""
    parts = [COLLECTIVES[name][1](data[members]) for members in among]
    results = np.empty((len(data), parts[0].shape[1]), data.dtype)
    for members, part in zip(among, parts, strict=True):
        results[members] = part
    return results


def non_finite(rng: np.random.Generator, n: int, parts: int, dtype: np.dtype[Any]) -> Array:
    """`coded` data [n, parts * 7 n]: in each of `parts` equal blocks, each device has each pair of `NON_FINITE` once.

    Its element is the device's own, so that no two devices have a NaN there. The last n elements of a block are finite.
    """
    width = len(NON_FINITE) + 1
    data = coded(rng, n, parts * width * n, dtype).reshape(n, parts, width, n)
    for device in range(n):
        for place, (own, following) in enumerate(NON_FINITE):
            data[device, :, place, device] = own
            if following is not None:
                data[(device + 1) % n, :, place, device] = following
    return data.reshape(n, -1)


def compare_non_finite(check: Check, what: str, name: str, got: Array, stacked: Array, platform: str) -> bool:
    """Compare a reduction's results [N, ...] with IEEE 754; False if they drop NaN where that is a known bug."""

    def expected(reduce: Callable[..., Any]) -> Array:
        with np.errstate(invalid="ignore"):
            value = np.asarray(reduce(stacked.astype(np.float64), axis=0)).astype(got.dtype)
        return one_nan(value.reshape(got.shape) if value.size == got.size else np.broadcast_to(value, got.shape))

    def one_nan(values: Array) -> Array:
        return np.where(np.isnan(values), np.array(NAN, got.dtype), values)

    want, without = map(expected, REDUCTIONS[name])
    known = name != "sum" and platform in DROPS_NAN and share_that_differs(one_nan(got), without) == 0
    check.equal(what, one_nan(got), without if known else want, control=want if known else without)
    return not known
