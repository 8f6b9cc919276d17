"""Rung 1: bytes arrive where they are sent."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from ..check import Check

# Elements of uint32: 4 B, odd sizes, a page, one element more.
SIZES = {"quick": (1, 3, 1023, 1025, 65_537), "standard": (262_144,), "full": (16_777_216,)}


@pytest.mark.law("copies.round_trip")
def test_round_trip(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Random words to every device and back."""
    for size in (size for level, sizes in SIZES.items() if check.at(level) for size in sizes):
        sent = rng.integers(0, 2**32, size, dtype=np.uint32)
        for device in devices:
            check.equal(f"{size} words through {device}", np.asarray(jax.device_put(sent, device)), sent)
