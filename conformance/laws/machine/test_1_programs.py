"""Rung 1: neither donated arguments nor programs from JAX's compilation cache change a result."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from ...core.check import Check, NotRunReason
from ...machine.meshes import Array, mesh_of
from ..support import compilation
from ..support.running import law
from .test_1_copies import words

# All leaves have one shape, since only buffers of equal shape can be swapped by mistake. The upstream bug needed three.
LEAVES, STEPS = 5, 3
# Leaves of parameters and moments of a model of a few layers.
MANY = 80
# All multipliers here are odd, since a multiplication by an even number loses bits modulo 2^32.
FACTOR = 1_664_525
# Name -> an order of the program's outputs: each is the number of a leaf, or LEAVES for the metrics.
ORDERS = {
    "state first": (0, 1, 2, 3, 4, LEAVES),
    "metrics first": (LEAVES, 0, 1, 2, 3, 4),
    "metrics between": (0, 1, LEAVES, 2, 3, 4),
    "state reversed": (4, 3, 2, 1, 0, LEAVES),
}
# Of a single device at level quick; programs on several devices run in every order.
EXTREMES = ("metrics first", "state reversed")


def updated(leaves: Sequence[Any], batch: Any) -> list[Any]:
    """The next value of each leaf, with a factor for its place; and last the metrics, which depend on all leaves."""
    after = [leaf * np.uint32(FACTOR + 2 * place) + batch for place, leaf in enumerate(leaves)]
    return [*after, sum(leaf * np.uint32(3 + 2 * place) for place, leaf in enumerate(leaves)) ^ batch]


def program(order: str, sharding: Any, *, donates: bool = True) -> Callable[..., list[Any]]:
    """A compiled update that donates its leaves, like a trainer's; it gathers sharded leaves and shards its results."""

    def step(leaves: list[Any], batch: Any) -> list[Any]:
        if isinstance(sharding, NamedSharding):
            everywhere = NamedSharding(sharding.mesh, PartitionSpec())
            leaves = [lax.with_sharding_constraint(leaf, everywhere) for leaf in leaves]
        outputs = updated(leaves, batch)
        return [outputs[number] for number in ORDERS[order]]

    return jax.jit(step, donate_argnums=0 if donates else (), out_shardings=sharding)


def looped(leaves: list[Any], batches: Any) -> Any:
    """All updates in one `lax.scan`: the last leaves, and the metrics of each update, stacked."""

    def step(carry: list[Any], batch: Any) -> tuple[list[Any], Any]:
        *carry, metrics = updated(carry, batch)
        return carry, metrics

    return lax.scan(step, leaves, batches)


def expected(leaves: list[Array], batches: list[Array], sharding: Any) -> tuple[list[Array], list[Array]]:
    """The last leaves and all metrics: from NumPy modulo 2^32; on several devices from a program without donation."""
    now, step, metrics = leaves, updated, []
    if isinstance(sharding, NamedSharding):
        step = program("state first", sharding, donates=False)
        now, batches = jax.device_put((leaves, batches), sharding)
    for batch in batches:
        *now, last = step(now, batch)
        metrics.append(np.asarray(last))
    return [np.asarray(leaf) for leaf in now], metrics


@law("copies.donated")
def test_donated(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Compares donating programs, in each order of outputs and as a loop, with NumPy or with undonated programs."""
    shape, taken = (2 * len(devices), 1031), 0
    more, n = check.at("standard"), len(devices)
    places: dict[str, Any] = {str(one): SingleDeviceSharding(one) for one in (devices if more else devices[:1])}
    for some in [some for some in sorted({2, n} if more else {n}) if 1 < some <= n]:
        places[f"{some} devices"] = NamedSharding(mesh_of(devices[:some]), PartitionSpec("data"))
    for where, sharding in places.items():
        leaves, batches = ([words(rng, shape) for _ in range(count)] for count in (LEAVES, STEPS))
        one = isinstance(sharding, SingleDeviceSharding)
        want, metrics = expected(leaves, batches, sharding)
        for order in ORDERS if more or not one else EXTREMES:
            step, now = program(order, sharding), jax.device_put(leaves, sharding)
            for number, batch in enumerate(batches):
                # A copy, since a CPU device may share the host array, and a program that wrote to it would change both.
                before, placed = now, jax.device_put(batch.copy(), sharding)
                outputs = dict(zip(ORDERS[order], step(before, placed), strict=True))
                *now, got_metrics = (outputs[number] for number in range(LEAVES + 1))
                what = f"{where}, {order}, update {number}"
                check.equal(f"{what}: what it says beside the state", np.asarray(got_metrics), metrics[number])
                check.equal(f"{what}: its batch, which it must not write to", np.asarray(placed), batch)
                taken += sum(leaf.is_deleted() for leaf in before)
            for place, (got, leaf) in enumerate(zip(now, want, strict=True)):
                check.equal(f"{where}, {order}, leaf {place} after {STEPS} updates", np.asarray(got), leaf)
        stacked = jnp.stack([jax.device_put(batch, sharding) for batch in batches])
        now, got_metrics = jax.jit(looped, donate_argnums=0)(jax.device_put(leaves, sharding), stacked)
        if not one:
            want, metrics = jax.jit(looped)(jax.device_put(leaves, sharding), stacked)
        for place, (got, leaf) in enumerate(zip(now, want, strict=True)):
            check.equal(f"{where}, a loop's leaf {place}", np.asarray(got), np.asarray(leaf))
        check.equal(f"{where}, what a loop's rounds say", np.asarray(got_metrics), np.asarray(metrics))
    check.facts["arguments_taken_over"] = taken
    # At level quick on as many devices as there are.
    for where, sharding in list(places.items())[0 if more else -1 :]:
        _many_leaves(check, rng, where, sharding)


def _many_leaves(check: Check, rng: np.random.Generator, where: str, sharding: Any) -> None:
    """Compare a donated state of float32 leaves, as many as a small model's, after each of several updates."""
    want = rng.integers(-99, 100, (MANY, 3, 7)).astype(np.float32)
    step = jax.jit(lambda leaves: [3 * leaf + place for place, leaf in enumerate(leaves)], donate_argnums=0)
    everywhere = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding
    now = jax.device_put(list(want), everywhere)
    for number in range(STEPS):
        now = step(now)
        # Small whole numbers, so that float32 rounds nothing.
        want = 3 * want + np.arange(MANY, dtype=np.float32)[:, None, None]
        check.equal(f"{where}, {MANY} leaves after update {number}", np.stack([np.asarray(leaf) for leaf in now]), want)


@law("copies.kept_programs")
def test_kept_programs(check: Check, rng: np.random.Generator, devices: list[Any], tmp_path: Path) -> None:
    """Compares programs from JAX's cache on disk with the freshly compiled ones."""
    numbers = rng.standard_normal((4 * len(devices), 67)).astype(np.float32)
    rows = NamedSharding(mesh_of(devices), PartitionSpec("data"))
    constants = [float(c) for c in rng.choice(1000, 3, replace=False) + 2]
    for where, sharding in ((str(devices[0]), SingleDeviceSharding(devices[0])), ("all devices", rows)):
        placed = jax.device_put(numbers, sharding)
        with compilation.kept_in(tmp_path) as hits:
            # All programs are stored before one is looked up, so that a cache that confuses them returns a wrong one.
            fresh = [_run(constant, placed) for constant in constants]
            keeps, why = bool(hits) or any(tmp_path.iterdir()), f"JAX keeps no programs of {devices[0].platform}"
            check.need(keeps, f"does not apply: {why}", NotRunReason.NOT_APPLICABLE)
            check.same(f"{where}: programs taken from an empty cache", len(hits), 0)
            again = [_run(constant, placed) for constant in constants]
            check.same(f"{where}: programs found again, of {len(constants)}", len(hits), len(constants))
        for constant, one, other in zip(constants, fresh, again, strict=True):
            if sharding is not rows:  # rung 2 checks programs on several devices
                want = numbers.view(np.uint32) * np.uint32(constant)
                check.equal(f"{where}, compiled: words times {constant:g}", one[0], want)
            for what, got, want in zip(("words", "tanh"), other, one, strict=True):
                check.equal(f"{where}, kept: {what} for {constant:g}, as it was compiled", got, want)


def _run(constant: float, numbers: Any) -> list[Array]:
    """Run a program that contains `constant`. Its function is new each time, so that JAX looks in its cache on disk."""

    def kept(x: Any) -> Any:
        words = lax.bitcast_convert_type(x, np.uint32) * np.uint32(constant)
        return words, jnp.tanh(x * np.float32(1 / constant)) + jnp.sum(x, axis=0)

    return [np.asarray(leaf) for leaf in jax.jit(kept)(numbers)]
