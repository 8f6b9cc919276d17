"""Rung 10: what is wrong with an update whose results are right: it compiles anew, or its memory is never given back.

Neither needs a clock nor an earlier run to compare with.
"""

from __future__ import annotations

import collections
import dataclasses
import gc
import math
from typing import Any

import jax
import numpy as np
import pytest

from ...adapter import Case, TrainerUnderTest
from ...core.check import Check, Vacuous
from ...oracle.cases import B, main_case, start_params
from ...oracle.draws import batch_of
from ..support.compilation import heard
from ..support.trainer_checks import MOST, claims, usable_devices

# Updates between two looks: one that is late by an update or two keeps no more after the second.
UPDATES = 3


def small(subject: TrainerUnderTest, rng: np.random.Generator) -> Case:
    """The smallest model. With one mask where dropout is claimed: a seed is then part of what the update needs."""
    rate = main_case(subject.capabilities).classifier_dropout
    case = main_case(subject.capabilities, seed=int(rng.integers(MOST)), small=True)
    return dataclasses.replace(case, classifier_dropout=rate)


@pytest.mark.law("performance.compilations")
def test_compilations(check: Check, subject: TrainerUnderTest, devices: list[Any], rng: np.random.Generator) -> None:
    """After the first update, evaluation and gradient no later one compiles anything."""
    claims(check, subject, "jax")
    n, case = usable_devices(subject, devices), small(subject, rng)

    def start(seed: int) -> None:
        subject.start(dataclasses.replace(case, seed=seed), start_params(case, rng), n)

    def use(real: int = B) -> None:
        subject.step(batch_of(case, rng, real=real))
        subject.evaluate(batch_of(case, rng, real=real))
        if "gradients" in subject.capabilities:
            subject.gradients(batch_of(case, rng, real=real))

    with heard() as control:
        jax.jit(lambda x: x + 1)(np.float32(0))
    if not control:
        raise Vacuous(f"{check.law.id}: JAX {jax.__version__} does not tell of a program that it compiles")
    # What an earlier law compiled would hide that the first update has one program and the second another.
    jax.clear_caches()
    with heard() as first:
        start(case.seed)
        use()
    check.facts["programs"] = len(first)
    for what in ("the second update and evaluation", "later ones"):
        with heard() as names:
            use()
        check.same(f"compiled by {what}", names, [])
    with heard() as names:
        use(real=5)
        use(real=1)
    check.same("compiled for a last batch that is not full", names, [])
    with heard() as names:
        start((case.seed + 1) % MOST)
        use()
        use()
    check.same("compiled by a run of another seed", names, [])


@pytest.mark.law("performance.memory")
def test_memory(check: Check, subject: TrainerUnderTest, devices: list[Any], rng: np.random.Generator) -> None:
    """Arrays on the devices and their bytes: as many after six updates and evaluations as after three."""
    claims(check, subject, "jax")
    n, case = usable_devices(subject, devices), small(subject, rng)
    params = start_params(case, rng)
    subject.start(case, params, n)
    before, after = [used(check, subject, case, rng) for _ in range(2)]
    numbers = sum(math.prod(shape) * count for (shape, _, _), count in before.items())
    least = sum(leaf.size for leaf in params.values())
    check.at_least("numbers on the devices", numbers, least, "who claims `jax` keeps at least the parameters there")
    more = ", ".join(f"{count} more {dtype}{list(shape)}" for (shape, dtype, _), count in (after - before).items())
    what = f"arrays on the devices and their bytes after {2 * UPDATES} updates{more and f', {more}'}"
    check.same(what, totals(after), totals(before))


def used(check: Check, subject: TrainerUnderTest, case: Case, rng: np.random.Generator) -> collections.Counter[Any]:
    """What is on the devices after some more updates and evaluations; a number that is put there is seen."""
    for _ in range(UPDATES):
        batch = batch_of(case, rng)
        subject.step(batch)
        subject.evaluate(batch)
    found = held()
    control = jax.device_put(np.float32(1))
    if held() == found:
        raise Vacuous(f"{check.law.id}: JAX {jax.__version__} does not tell of an array that is there")
    del control
    return found


def held() -> collections.Counter[Any]:
    """How many arrays of each (shape, dtype, bytes on all devices) there are."""
    gc.collect()
    # Not through `addressable_shards`, whose parts are arrays themselves and would be there from then on.
    return collections.Counter(
        (array.shape, str(array.dtype), math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
         * len(array.sharding.addressable_devices))
        for array in jax.live_arrays() if not array.is_deleted()
    )  # fmt: skip


def totals(arrays: collections.Counter[Any]) -> tuple[int, int]:
    """Number and bytes."""
    return arrays.total(), sum(size * count for (_, _, size), count in arrays.items())
