"""Rung 2: collectives among some of the devices, along two axes, and through pmap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pytest
from jax import lax

from ...core.check import Check
from ...core.meshes import FLOATS, Array, coded, mesh_of, on_each, summed

KIB, MIB = 1024, 1024 * 1024
Groups = list[list[int]]


def together(axis: Any, groups: Groups | None = None) -> Callable[[jax.Array], list[jax.Array]]:
    """What one device holds -> the results of all collectives among its group along an axis, in one program."""

    def collect(x: jax.Array) -> list[jax.Array]:
        among: dict[str, Any] = {"axis_index_groups": groups}
        return [
            lax.psum(x, axis, **among),
            lax.pmax(x, axis, **among),
            lax.pmin(x, axis, **among),
            lax.all_gather(x, axis, tiled=True, **among),
            lax.psum_scatter(x, axis, tiled=True, **among),
            lax.all_to_all(x, axis, 0, 0, tiled=True, **among),
        ]

    return collect


NAMES = ("psum", "pmax", "pmin", "all_gather", "psum_scatter", "all_to_all")


def wanted(stacked: Array) -> list[Array]:
    """What `together` gives in a group, for its devices' arrays [n, size] in the group's order: six times [n, ...]."""
    n, kind = len(stacked), stacked.dtype
    total = summed(stacked).astype(kind)
    return [
        np.broadcast_to(total, stacked.shape),
        np.broadcast_to(stacked.max(axis=0), stacked.shape),
        np.broadcast_to(stacked.min(axis=0), stacked.shape),
        np.broadcast_to(stacked.ravel(), (n, stacked.size)),
        total.reshape(n, -1),
        stacked.reshape(n, n, -1).swapaxes(0, 1).reshape(n, -1),
    ]


def hold(check: Check, what: str, got: Sequence[Array], stacked: Array, groups: Groups) -> None:
    """The results of `together` are those of each group; in the control two positions have changed places."""
    parts = [wanted(stacked[group]) for group in groups]
    for number, (name, found) in enumerate(zip(NAMES, got, strict=True)):
        want = np.empty_like(found)
        for group, part in zip(groups, parts, strict=True):
            want[group] = part[number]
        # Where every element is alike the next value stands in for its neighbour.
        control = want + 1 if found.shape[1] == 1 else np.roll(want, 1, axis=1)
        check.equal(f"{name}, {what}", found, want, control=control.astype(want.dtype))


def partitions(n: int, *, all_sizes: bool = True) -> dict[str, Groups]:
    """Ways of dividing n devices into groups of one size: neighbours, every k-th, and each by itself."""
    found = {}
    sizes = [size for size in range(2, n) if n % size == 0]
    for size in sizes if all_sizes else sizes[-1:]:
        found[f"groups of {size} neighbours"] = np.arange(n).reshape(-1, size).tolist()
        found[f"groups of every {n // size}."] = np.arange(n).reshape(size, -1).T.tolist()
    return {**found, "each by itself": [[i] for i in range(n)]}


@pytest.mark.law("collectives.subgroups")
def test_subgroups(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Groups named by `axis_index_groups`, and meshes of some of the devices, in other orders too."""
    check.need(len(devices) >= 2, f"needs 2 devices, found {len(devices)}")
    n = len(devices)
    sizes = [3 * KIB] + [4 * MIB] * check.at("standard") + [512 * KIB - 4] * check.at("full")
    for what, groups in partitions(n, all_sizes=check.at("standard")).items():
        # The varying-axes check of shard_map does not take groups.
        program = on_each(together("data", groups), mesh_of(devices), check=False)
        for size in sizes:
            stacked = coded(rng, n, max(1, size // 4 // n) * n, FLOATS[0])
            hold(check, f"{what}, {stacked[0].nbytes} B", program(stacked), stacked, groups)
    for what, some in list(subsets(devices).items())[: None if check.at("standard") else 2]:
        program = on_each(together("data"), mesh_of(some))
        for size in sizes if check.at("full") else sizes[:1]:
            stacked = coded(rng, len(some), max(1, size // 4 // len(some)) * len(some), FLOATS[0])
            hold(check, f"{what}, {stacked[0].nbytes} B", program(stacked), stacked, [list(range(len(some)))])


def subsets(devices: Sequence[Any]) -> dict[str, list[Any]]:
    """Meshes that begin elsewhere, skip devices, or have them in another order."""
    found = {"backwards": list(devices[::-1])}
    if len(devices) >= 3:
        found |= {"without the first": list(devices[1:]), "first and last": [devices[0], devices[-1]]}
    if len(devices) >= 4:
        found |= {"every second": list(devices[::2]), "the others": list(devices[1::2])}
    return found


@pytest.mark.law("collectives.two_axes")
def test_two_axes(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """A 2-D mesh, whose program has collectives along each axis and along both at once."""
    half = len(devices) // 2
    check.need(half >= 2, f"needs 4 devices, found {len(devices)}")
    times = 20 if check.at("standard") else 3
    for shape in [(2, half)] + [(half, 2)] * (check.at("standard") and half > 2):
        n = math.prod(shape)

        def all_axes(x: jax.Array) -> list[list[jax.Array]]:
            return [together(axis)(x) for axis in ("data", "model", ("data", "model"))]

        program = on_each(all_axes, mesh_of(devices, *shape))
        at = np.arange(n).reshape(shape)
        groups: dict[str, Groups] = {"data": at.T.tolist(), "model": at.tolist(), "both": [list(range(n))]}
        for size in [3 * KIB] * times + [512 * KIB - 4, MIB] * check.at("standard"):
            stacked = coded(rng, n, max(1, size // 4 // n) * n, FLOATS[0])
            for (axis, among), got in zip(groups.items(), program(stacked), strict=True):
                hold(check, f"axis {axis} of {shape}, {stacked[0].nbytes} B", got, stacked, among)


@pytest.mark.law("collectives.pmap")
def test_pmap(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """The same through `jax.pmap`; each device's result is read from that device."""
    check.need(len(devices) >= 2, f"needs 2 devices, found {len(devices)}")
    for n in sorted({2, 3, len(devices)} if check.at("standard") else {len(devices)}):
        if n > len(devices):
            continue
        program = jax.pmap(together("data"), "data", devices=devices[:n])
        for size in [3 * KIB] + [512 * KIB - 4, MIB] * check.at("standard") + [8 * MIB] * check.at("full"):
            stacked = coded(rng, n, max(1, size // 4 // n) * n, FLOATS[0])
            results = jax.block_until_ready(program(stacked))
            where = sorted(str(shard.device) for shard in results[0].addressable_shards)
            check.same(f"devices of pmap's result, N = {n}", where, sorted(map(str, devices[:n])))
            got = [np.asarray(result) for result in results]
            hold(check, f"pmap, N = {n}, {stacked[0].nbytes} B", got, stacked, [list(range(n))])
