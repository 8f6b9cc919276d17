"""Rung 2: hundreds of steps with a collective, without waiting for any, as in a loop that rarely reads its loss.

On simulated devices, JAX before 0.12 may hang. XLA's pool has as many threads as there are cores, and each device of
each step takes a thread while it waits for the other devices. When later steps have taken all threads, none is left
for the devices that an earlier step waits for. Under such a JAX the steps run in a child process.
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
# The most steps in flight where more of them can hang; ten completed there in every trial.
FEW = 10
# Limits in seconds: for all steps (0.2 s on two cores, 0.5 ms a step), and for a new process to start and take them.
SECONDS = 20.0
STARTING = 120.0
# So small that the sum of all devices' numbers, plus three times one of them, stays far below 2^31.
PRIME = 65_521
FIXED = (0, 12)
FIX = f"wait at least for every {FEW}th step, as sftref's own loop does, or set NPROC=32 before JAX starts"
# XLA's name for the point where devices wait for each other; some releases abort there after a while.
RENDEZVOUS = "rendezvous"
UPSTREAM = "https://github.com/PyAutoLabs/PyAutoFit/issues/1530, https://github.com/pytorch/xla/pull/3898"


def can_hang(platform: str, version: str) -> bool:
    """Whether devices of this platform are simulated by threads that can run out, under this version of JAX."""
    return platform == "cpu" and release(version) < FIXED


def trajectory(devices: list[Any], first: Array, waits: int | None) -> Array:
    """x, int32 [N, n], after `STEPS` steps x <- (sum of all x + 3 x) mod `PRIME`, waiting every `waits` steps or never.

    A wrong number in any step gives a wrong number at the end, because the step is invertible: 3 and 3 + N are not 0
    modulo the prime.
    """
    mesh = mesh_of(devices)
    rows = PartitionSpec("data")
    step = jax.jit(shard_map(lambda x: (lax.psum(x, "data") + 3 * x) % PRIME, mesh, rows, rows))
    x = jax.device_put(first, NamedSharding(mesh, rows))
    for number in range(STEPS):
        x = step(x)
        # The first step compiles.
        if number == 0 or (waits and number % waits == 0):
            x.block_until_ready()
    return np.asarray(x)


class Steps:
    """The steps on simulated devices, run in a child process."""

    def __init__(self, devices: int) -> None:
        start_jax(Settings(platform="cpu", devices=devices))
        self.devices = jax.devices()[:devices]

    def take(self, waits: int | None) -> None:
        """Take all steps; see `trajectory`."""
        trajectory(self.devices, np.ones((len(self.devices), 1024), np.int32), waits)


# Cached: a fault that is seeded in this process does not reach the child process, so its answer stays the same.
@functools.cache
def hung(devices: int) -> str | None:
    """Run the steps in a child process on `devices` simulated devices: how they hung, or None if they completed.

    Raises:
        RuntimeError: the process failed in another way, or failed even when each step was waited for.
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
    """The result of `trajectory` after `steps` steps, computed by NumPy in int64."""
    x = first.astype(np.int64)
    for _ in range(steps):
        x = (x.sum(axis=0) + 3 * x) % PRIME
    return x.astype(first.dtype)


@law("collectives.unwaited", devices=2)
def test_unwaited(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Compares the result of many steps, which depends on every number of every step.

    Where unwaited steps are known to hang, few of them are in flight here, and a child process runs all unwaited.
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
            f"known bug of JAX before 0.12 on simulated devices ({UPSTREAM}): {STEPS} steps without waiting gave "
            f"{failure} on {len(devices)} devices; {FIX}"
        )
