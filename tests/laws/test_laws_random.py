"""The laws of random numbers break for streams that are not the definition's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from sftref.conformance.core.check import Check, LawBroken
from sftref.conformance.core.law import laws
from sftref.conformance.laws.machine import test_5_random as rung

pytestmark = pytest.mark.jax

Plant = Callable[[pytest.MonkeyPatch], None]


def asked(law: str, function: Callable[..., None], *args: Any) -> Check:
    check = Check(laws()[law], "quick", 1)
    function(check, *args)
    check.finish()
    return check


def half_the_rounds(patch: pytest.MonkeyPatch) -> None:
    right = rung.jax_random.threefry_2x32
    patch.setattr(rung.jax_random, "threefry_2x32", lambda key, count: right(key, count + np.uint32(1)))


def another_derivation(patch: pytest.MonkeyPatch) -> None:
    right = jax.random.fold_in
    patch.setattr(jax.random, "fold_in", lambda key, data: right(key, data + 1))


def another_rate(patch: pytest.MonkeyPatch) -> None:
    right = jax.random.bernoulli
    patch.setattr(jax.random, "bernoulli", lambda key, rate, shape: right(key, rate + 0.02, shape))


def one_mask_for_all(patch: pytest.MonkeyPatch) -> None:
    right = jax.random.bernoulli
    patch.setattr(jax.random, "bernoulli", lambda key, rate, shape: right(rung.key_of(3), rate, shape))


def bits_by_shard(patch: pytest.MonkeyPatch) -> None:
    """What a partitioner does that lets every shard count from 0."""
    right = jax.random.bits

    def repeated(key: jax.Array, shape: tuple[int, ...], dtype: object) -> jax.Array:
        return jax.numpy.tile(right(key, (1, *shape[1:]), dtype), (shape[0], 1))

    patch.setattr(jax.random, "bits", repeated)


FAULTS: list[tuple[str, Callable[..., None], Plant, bool]] = [
    ("random.threefry", rung.test_threefry, half_the_rounds, False),
    ("random.keys", rung.test_keys, another_derivation, False),
    ("random.bernoulli", rung.test_bernoulli, another_rate, False),
    ("random.statistics", rung.test_statistics, another_rate, False),
    ("random.statistics", rung.test_statistics, one_mask_for_all, False),
    ("random.devices", rung.test_devices, bits_by_shard, True),
    ("random.sharding", rung.test_sharding, bits_by_shard, True),
]


@pytest.mark.parametrize(("law", "function", "plant", "on_devices"), FAULTS)
def test_a_fault_is_seen(
    law: str, function: Callable[..., None], plant: Plant, on_devices: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(LawBroken):
        asked(law, function, *([jax.devices()] if on_devices else []))


def test_another_counting_of_bits_is_seen() -> None:
    with jax.threefry_partitionable(False), pytest.raises(LawBroken, match="jax_threefry_partitionable"):
        asked("random.keys", rung.test_keys)
