"""The laws of random numbers fail for streams that are not the definition's."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
from kit import run_law
from sftref.conformance.core.check import LawBroken
from sftref.conformance.core.settings import Settings
from sftref.conformance.laws.machine import test_5_random as rung

pytestmark = pytest.mark.jax

Fault = Callable[[pytest.MonkeyPatch], None]


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
    """A partitioner that lets every shard count from 0."""
    right = jax.random.bits

    def repeated(key: jax.Array, shape: tuple[int, ...], dtype: object) -> jax.Array:
        return jax.numpy.tile(right(key, (1, *shape[1:]), dtype), (shape[0], 1))

    patch.setattr(jax.random, "bits", repeated)


FAULTS: list[tuple[str, Fault]] = [
    ("random.threefry", half_the_rounds),
    ("random.keys", another_derivation),
    ("random.bernoulli", another_rate),
    ("random.statistics", another_rate),
    ("random.statistics", one_mask_for_all),
    ("random.devices", bits_by_shard),
    ("random.sharding", bits_by_shard),
]


@pytest.mark.parametrize(("law", "fault"), FAULTS)
def test_a_fault_is_seen(law: str, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    with pytest.raises(LawBroken):
        run_law(law, Settings(level="quick", seed=1))


def test_another_counting_of_bits_is_seen() -> None:
    with jax.threefry_partitionable(False), pytest.raises(LawBroken, match="jax_threefry_partitionable"):
        run_law("random.keys")
