"""Rung 2: hundreds of steps with a collective that are not waited for, as in a loop that rarely reads its loss.

On simulated devices JAX before 0.12 completes them only by luck: XLA's pool has as many threads as there are cores,
each device of each step takes one to wait for the other devices, and when later steps hold all of them none is left for
the devices that are waited for. There they run in a process of their own.
"""

import functools
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from ...core.check import Check, Known
from ...core.settings import Settings, start_jax
from ...machine.meshes import Array, mesh_of, shard_map
from ...machine.versions import release
from ...workers.channel import NoAnswer, Worker
from ..support.running import law

STEPS = 300
# So many are in flight at most where more can hang; ten completed there whenever they were tried.
FEW = 10
# One step is 0.5 ms on two cores, all of them 0.2 s.
SECONDS = 20.0
STARTING = 120.0
# Sums of so many numbers below it, three times one more, stay far below 2^31.
PRIME = 65_521
FIXED = (0, 12)
FIX = f"wait for every {FEW}th step at the least, as sftref's own loop does, or set NPROC=32 before JAX starts"
# XLA's name for the place where devices wait for each other; some releases give up there after a while.
RENDEZVOUS = "rendezvous"
UPSTREAM = "https://github.com/PyAutoLabs/PyAutoFit/issues/1530, https://github.com/pytorch/xla/pull/3898"


def can_hang(platform: str, version: str) -> bool:
    """Whether devices of this platform are simulated by threads that can run out, under this version of JAX."""
    return platform == "cpu" and release(version) < FIXED


def trajectory(devices: list[Any], first: Array, waits: int | None) -> Array:
    """Take `STEPS` steps x <- (sum of all x + 3 x) mod `PRIME`, int32 [N, n], and wait every `waits` of them or never.

    A wrong number in any step gives a wrong number at the end: modulo a prime the step can be undone, as 3 and 3 + N
    are not 0 there.
    """
    mesh = mesh_of(devices)
    rows = PartitionSpec("data")
    step = jax.jit(shard_map(lambda x: (lax.psum(x, "data") + 3 * x) % PRIME, mesh, rows, rows))
    x = jax.device_put(first, NamedSharding(mesh, rows))
    for number in range(STEPS):
        x = step(x)
        # The first one compiles.
        if number == 0 or (waits and number % waits == 0):
            x.block_until_ready()
    return np.asarray(x)


class Steps:
    """The steps on simulated devices, in a process of their own."""

    def __init__(self, devices: int) -> None:
        start_jax(Settings(platform="cpu", devices=devices))
        self.devices = jax.devices()[:devices]

    def take(self, waits: int | None) -> None:
        """Take all steps; see `trajectory`."""
        trajectory(self.devices, np.ones((len(self.devices), 1024), np.int32), waits)


# No fault that is seeded in this process reaches that one, so one answer serves all who call.
@functools.cache
def hung(devices: int) -> str | None:
    """How the steps hung in a process of their own with so many simulated devices; None if they completed.

    Raises:
        RuntimeError: the process failed in another way, or with the same steps waited for.
    """
    with Worker(f"{__name__}:Steps", devices) as worker:
        answer = worker.ask("take", 1, seconds=STARTING)
        if isinstance(answer, NoAnswer):
            raise RuntimeError(f"{STEPS} steps, each waited for, on {devices} simulated devices: {answer.how}")
        answer = worker.ask("take", None, seconds=SECONDS)
        if not isinstance(answer, NoAnswer):
            return None
        if answer.silent or (answer.code is not None and any(RENDEZVOUS in line for line in worker.output)):
            return answer.how
        raise RuntimeError(f"{STEPS} steps on {devices} simulated devices: {answer.how}")


def expected(first: Array, steps: int) -> Array:
    """The result of `trajectory`, in int64."""
    x = first.astype(np.int64)
    for _ in range(steps):
        x = (x.sum(axis=0) + 3 * x) % PRIME
    return x.astype(first.dtype)


@law("collectives.unwaited", devices=2)
def test_unwaited(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Compares the end of many steps, which depends on every number of every step.

    Where that is known to hang, few steps are in flight here, and a child process runs them without waiting.
    """
    careful = can_hang(devices[0].platform, jax.__version__)
    first = rng.integers(0, PRIME, (len(devices), 1024)).astype(np.int32)
    got = trajectory(devices, first, FEW if careful else None)
    check.equal(f"after {STEPS} steps", got, expected(first, STEPS), control=expected(first, STEPS - 1))
    if not careful:
        return
    failure = hung(len(devices))
    check.facts["unwaited"] = failure or "ended"
    if failure:
        raise Known(
            f"known of JAX before 0.12 on simulated devices ({UPSTREAM}): {STEPS} steps that are not waited for gave "
            f"{failure} on {len(devices)} devices; {FIX}"
        )
