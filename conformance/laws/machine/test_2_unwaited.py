"""Rung 2: steps with a collective that nobody waits for, as a training loop that reads its loss now and then has."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from ...core.check import Check, Known
from ...core.meshes import Array
from ..support.unwaited import FEW, FIX, PRIME, STEPS, UPSTREAM, can_hang, hung, trajectory


def wanted(first: Array, steps: int) -> Array:
    """What `trajectory` gives, in int64."""
    x = first.astype(np.int64)
    for _ in range(steps):
        x = (x.sum(axis=0) + 3 * x) % PRIME
    return x.astype(first.dtype)


@pytest.mark.law("collectives.unwaited")
def test_unwaited(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Exact in the end, where every number of every step counts; where that is known to hang, few are in flight.

    And there a process of its own takes them without waiting.
    """
    check.need(len(devices) >= 2, f"needs 2 devices, found {len(devices)}")
    careful = can_hang(devices[0].platform, jax.__version__)
    first = rng.integers(0, PRIME, (len(devices), 1024)).astype(np.int32)
    got = trajectory(devices, first, FEW if careful else None)
    check.equal(f"after {STEPS} steps", got, wanted(first, STEPS), control=wanted(first, STEPS - 1))
    if not careful:
        return
    found = hung(len(devices))
    check.facts["unwaited"] = found or "ended"
    if found:
        raise Known(
            f"known of JAX before 0.12 on simulated devices ({UPSTREAM}): {STEPS} steps that nobody waits for gave "
            f"{found} on {len(devices)} devices; {FIX}"
        )
