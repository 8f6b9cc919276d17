"""Rung 1: arrays that a program takes over, and programs that JAX keeps on disk, come back as what they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from ...core.check import NOT_APPLICABLE, Check, NotRun
from ...core.meshes import Array, mesh_of
from ..support import compilation
from .test_1_copies import words

# Of one shape, as a layer's parameters and their moments are: only those can change places. Upstream three were needed.
LEAVES, STEPS = 5, 3
# Multipliers are odd, so that no bit of a word is lost in a product modulo 2^32.
FACTOR = 1_664_525


def update(leaves: Sequence[Any], batch: Any) -> list[Any]:
    """Each leaf's next value, which depends on the batch and on its place."""
    return [leaf * np.uint32(FACTOR + 2 * place) + batch for place, leaf in enumerate(leaves)]


def said(leaves: Sequence[Any], batch: Any) -> Any:
    """What a program gives beside the leaves, in their shape: each counts, in its own way."""
    return sum(leaf * np.uint32(3 + 2 * place) for place, leaf in enumerate(leaves)) ^ batch


def ordered(name: str, leaves: list[Any], metrics: Any) -> list[Any]:
    """Outputs in an order of that name; `sorted_back` undoes it."""
    return {
        "state first": [*leaves, metrics],
        "metrics first": [metrics, *leaves],
        "metrics between": [*leaves[:2], metrics, *leaves[2:]],
        "state reversed": [*leaves[::-1], metrics],
    }[name]


ORDERS = ("state first", "metrics first", "metrics between", "state reversed")


def sorted_back(name: str, outputs: list[Any]) -> tuple[list[Any], Any]:
    """(leaves, metrics) of a program's outputs."""
    places = ordered(name, list(range(LEAVES)), LEAVES)
    found = [outputs[places.index(place)] for place in range(LEAVES + 1)]
    return found[:LEAVES], found[LEAVES]


def program(order: str, sharding: Any, *, donates: bool = True) -> Callable[..., list[Any]]:
    """One update that takes over its leaves, as a trainer's does; sharded ones are gathered and cut on the way."""

    def step(leaves: list[Any], batch: Any) -> list[Any]:
        if isinstance(sharding, NamedSharding):
            everywhere = NamedSharding(sharding.mesh, PartitionSpec())
            leaves = [lax.with_sharding_constraint(leaf, everywhere) for leaf in leaves]
        return ordered(order, update(leaves, batch), said(leaves, batch))

    return jax.jit(step, donate_argnums=0 if donates else (), out_shardings=sharding)


def looped(leaves: list[Any], batches: Any) -> Any:
    """The same as a loop within one program, whose carry is taken over: what each round says is stacked."""
    return lax.scan(lambda carry, batch: (update(carry, batch), said(carry, batch)), leaves, batches)


def apart(leaves: Sequence[Array], batches: Sequence[Array], sharding: Any) -> tuple[list[Array], list[Array]]:
    """The same by a program that takes over nothing. Whether that one is right on several devices is rung 2's."""
    step, now, metrics = program(ORDERS[0], sharding, donates=False), jax.device_put(list(leaves), sharding), []
    for batch in batches:
        now, told = sorted_back(ORDERS[0], step(now, jax.device_put(batch, sharding)))
        metrics.append(np.asarray(told))
    return [np.asarray(leaf) for leaf in now], metrics


def expected(leaves: Sequence[Array], batches: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """The leaves in the end and what each step said, by NumPy modulo 2^32."""
    now, metrics = list(leaves), []
    for batch in batches:
        metrics.append(said(now, batch))
        now = update(now, batch)
    return now, metrics


def places(check: Check, devices: list[Any]) -> Iterator[tuple[str, Any]]:
    """Where the arrays lie: on one device, or cut by rows among all; from `standard` on, on each and among two."""
    more = check.at("standard")
    for device in devices if more else devices[:1]:
        yield str(device), jax.sharding.SingleDeviceSharding(device)
    for n in sorted({2, len(devices)} if more else {len(devices)}):
        if 1 < n <= len(devices):
            yield f"{n} devices", NamedSharding(mesh_of(devices[:n]), PartitionSpec("data"))


@pytest.mark.law("copies.donated")
def test_donated(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Programs that take over arguments: exact on one device, on several what others give, in any order of outputs."""
    shape = (2 * len(devices), 1031)
    taken = 0
    for where, sharding in places(check, devices):
        leaves, batches = ([words(rng, shape) for _ in range(n)] for n in (LEAVES, STEPS))
        one = isinstance(sharding, jax.sharding.SingleDeviceSharding)
        want, metrics = expected(leaves, batches) if one else apart(leaves, batches, sharding)
        for order in ORDERS:
            step, now = program(order, sharding), jax.device_put(leaves, sharding)
            for number, batch in enumerate(batches):
                # A copy: a CPU may keep the host's array, and what a program writes there it would write here.
                before, placed = now, jax.device_put(batch.copy(), sharding)
                now, told = sorted_back(order, step(before, placed))
                what = f"{where}, {order}, update {number}"
                check.equal(f"{what}: what it says beside the state", np.asarray(told), metrics[number])
                check.equal(f"{what}: its batch, which it must not write to", np.asarray(placed), batch)
                taken += sum(leaf.is_deleted() for leaf in before)
            for place, (got, leaf) in enumerate(zip(now, want, strict=True)):
                check.equal(f"{where}, {order}, leaf {place} after {STEPS} updates", np.asarray(got), leaf)
        stacked = jnp.stack([jax.device_put(batch, sharding) for batch in batches])
        now, told = jax.jit(looped, donate_argnums=0)(jax.device_put(leaves, sharding), stacked)
        if not one:
            want, metrics = jax.jit(looped)(jax.device_put(leaves, sharding), stacked)
        for place, (got, leaf) in enumerate(zip(now, want, strict=True)):
            check.equal(f"{where}, a loop's leaf {place}", np.asarray(got), np.asarray(leaf))
        check.equal(f"{where}, what a loop's rounds say", np.asarray(told), np.asarray(metrics))
    check.facts["arguments_taken_over"] = taken


@pytest.mark.law("copies.kept_programs")
def test_kept_programs(check: Check, rng: np.random.Generator, devices: list[Any], tmp_path: Path) -> None:
    """A program that comes from JAX's cache on disk gives the bits of the one compiled; another is not taken for it."""
    numbers = rng.standard_normal((4 * len(devices), 67)).astype(np.float32)
    rows = NamedSharding(mesh_of(devices), PartitionSpec("data"))
    constants = [float(c) for c in rng.choice(1000, 3, replace=False) + 2]
    for where, sharding in ((str(devices[0]), jax.sharding.SingleDeviceSharding(devices[0])), ("all devices", rows)):
        placed = jax.device_put(numbers, sharding)
        with compilation.kept_in(tmp_path) as found:
            # All are kept before the first one is asked for again: an older one could be taken for it.
            fresh = [_run(constant, placed) for constant in constants]
            if not found and not any(tmp_path.iterdir()):
                raise NotRun(f"{NOT_APPLICABLE}: JAX keeps no programs of {devices[0].platform}")
            check.same(f"{where}: programs taken from an empty cache", len(found), 0)
            again = [_run(constant, placed) for constant in constants]
            check.same(f"{where}: programs found again, of {len(constants)}", len(found), len(constants))
        for constant, one, other in zip(constants, fresh, again, strict=True):
            if sharding is not rows:  # whether what is compiled for several is right is rung 2's
                check.equal(f"{where}, compiled: words times {constant:g}", one[0], _product(numbers, constant))
            for what, got, want in zip(("words", "tanh"), other, one, strict=True):
                check.equal(f"{where}, kept: {what} for {constant:g}, as it was compiled", got, want)


def _product(numbers: Array, constant: float) -> Array:
    return numbers.view(np.uint32) * np.uint32(constant)


def _run(constant: float, numbers: Any) -> list[Array]:
    """A program whose constant is part of it. It is another function each time, so that JAX asks its cache."""

    def kept(x: Any) -> Any:
        words = lax.bitcast_convert_type(x, np.uint32) * np.uint32(constant)
        return words, jnp.tanh(x * np.float32(1 / constant)) + jnp.sum(x, axis=0)

    return [np.asarray(leaf) for leaf in jax.jit(kept)(numbers)]
