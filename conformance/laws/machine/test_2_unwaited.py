"""Rung 2: steps with a collective that are not waited for, as in a training loop that rarely reads its loss."""

from typing import Any

import jax
import numpy as np
import pytest

from ...core.check import Check, Known
from ...machine.meshes import Array
from ..support.running import need_devices
from ..support.unwaited import FEW, FIX, PRIME, STEPS, UPSTREAM, can_hang, hung, trajectory


def expected(first: Array, steps: int) -> Array:
    """The result of `trajectory`, in int64."""
    x = first.astype(np.int64)
    for _ in range(steps):
        x = (x.sum(axis=0) + 3 * x) % PRIME
    return x.astype(first.dtype)


@pytest.mark.law("collectives.unwaited")
def test_unwaited(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Compares the end of many steps, which depends on every number of every step.

    Where that is known to hang, few steps are in flight here, and a child process runs them without waiting.
    """
    need_devices(check, devices)
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
