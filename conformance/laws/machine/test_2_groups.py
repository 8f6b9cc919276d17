"""Rung 2: collectives among some of the devices, along two axes, and through pmap."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ...core.check import Check
from ...machine.meshes import FLOATS, Array, coded, mesh_of, on_each
from ..support.messages import COLLECTIVES, Groups, expected
from ..support.running import law

KIB, MIB = 1024, 1024 * 1024
NAMES = ("psum", "pmax", "pmin", "all_gather", "psum_scatter", "all_to_all")


def collectives(axis: Any, groups: Groups | None = None) -> Callable[[jax.Array], list[jax.Array]]:
    """A function from a device's array to the results of all collectives of NAMES, within its group along an axis."""
    return lambda x: [COLLECTIVES[name][0](x, axis, axis_index_groups=groups) for name in NAMES]


def compare(check: Check, what: str, got: Sequence[Array], stacked: Array, groups: Groups) -> None:
    """Compare the results of `collectives` in every group; the control is shifted by one element."""
    for name, result in zip(NAMES, got, strict=True):
        want = expected(name, stacked, groups)
        # A result of one element cannot be shifted: its control is the value plus 1.
        control = want + 1 if result.shape[1] == 1 else np.roll(want, 1, axis=1)
        check.equal(f"{name}, {what}, {stacked[0].nbytes} B", result, want, control=control.astype(want.dtype))


def draw(rng: np.random.Generator, n: int, size: int) -> Array:
    """Data [n, elements], about `size` bytes for each device; n divides the number of elements."""
    return coded(rng, n, max(1, size // 4 // n) * n, FLOATS[0])


def partitions(n: int, *, all_sizes: bool = True) -> dict[str, Groups]:
    """Name -> groups of n devices, all of one size: neighbours, every k-th device, or single devices."""
    groups = {}
    sizes = [size for size in range(2, n) if n % size == 0]
    for size in sizes if all_sizes else sizes[-1:]:
        groups[f"groups of {size} neighbours"] = np.arange(n).reshape(-1, size).tolist()
        groups[f"groups of every {n // size}."] = np.arange(n).reshape(size, -1).T.tolist()
    return {**groups, "each by itself": [[i] for i in range(n)]}


@law("collectives.subgroups", devices=2)
def test_subgroups(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Compares collectives in groups named by `axis_index_groups`, and on meshes of some of the devices."""
    n = len(devices)
    sizes = [3 * KIB] + [4 * MIB] * check.at("standard") + [512 * KIB - 4] * check.at("full")
    for what, groups in partitions(n, all_sizes=check.at("standard")).items():
        # The varying-axes check of shard_map does not support groups.
        program = on_each(collectives("data", groups), mesh_of(devices), check=False)
        for size in sizes:
            stacked = draw(rng, n, size)
            compare(check, what, program(stacked), stacked, groups)
    # Meshes that leave out the first device, skip devices, or reverse their order.
    subsets = {"backwards": devices[::-1]}
    if n >= 3:
        subsets |= {"without the first": devices[1:], "first and last": [devices[0], devices[-1]]}
    if n >= 4:
        subsets |= {"every second": devices[::2], "the others": devices[1::2]}
    for what, some in list(subsets.items())[: None if check.at("standard") else 2]:
        program = on_each(collectives("data"), mesh_of(some))
        for size in sizes if check.at("full") else sizes[:1]:
            stacked = draw(rng, len(some), size)
            compare(check, what, program(stacked), stacked, [list(range(len(some)))])


@law("collectives.two_axes", devices=4)
def test_two_axes(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Compares the collectives of one program along each axis of a 2-D mesh and along both."""
    half = len(devices) // 2
    times = 20 if check.at("standard") else 3
    for shape in [(2, half)] + [(half, 2)] * (check.at("standard") and half > 2):
        n = math.prod(shape)

        def all_axes(x: jax.Array) -> list[list[jax.Array]]:
            return [collectives(axis)(x) for axis in ("data", "model", ("data", "model"))]

        program = on_each(all_axes, mesh_of(devices, *shape))
        at = np.arange(n).reshape(shape)
        groups: dict[str, Groups] = {"data": at.T.tolist(), "model": at.tolist(), "both": [list(range(n))]}
        for size in [3 * KIB] * times + [512 * KIB - 4, MIB] * check.at("standard"):
            stacked = draw(rng, n, size)
            for (axis, among), got in zip(groups.items(), program(stacked), strict=True):
                compare(check, f"axis {axis} of {shape}", got, stacked, among)


@law("collectives.pmap", devices=2)
def test_pmap(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Compares the results of the collectives in `jax.pmap`, and the devices that have them."""
    for n in sorted({2, 3, len(devices)} if check.at("standard") else {len(devices)}):
        if n > len(devices):
            continue
        program = jax.pmap(collectives("data"), "data", devices=devices[:n])
        for size in [3 * KIB] + [512 * KIB - 4, MIB] * check.at("standard") + [8 * MIB] * check.at("full"):
            stacked = draw(rng, n, size)
            results = jax.block_until_ready(program(stacked))
            where = sorted(str(shard.device) for shard in results[0].addressable_shards)
            check.same(f"devices of pmap's result, N = {n}", where, sorted(map(str, devices[:n])))
            got = [np.asarray(result) for result in results]
            compare(check, f"pmap, N = {n}", got, stacked, [list(range(n))])
