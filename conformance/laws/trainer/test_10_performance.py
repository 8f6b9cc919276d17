"""Rung 10: updates must not recompile, and must free their memory. No clock is needed to see either."""

import collections
import dataclasses
import math
from typing import Any

import jax
import numpy as np

from ...adapter import Case, TrainerUnderTest
from ...core.check import Check, Vacuous
from ...oracle.cases import B, main_case, start_params
from ...oracle.draws import MOST, batch_of, seeded_case
from ..support.compilation import compiled, held
from ..support.running import law

# Updates before each count of arrays: a trainer that frees arrays one or two updates late has equally many each time.
UPDATES = 3


def small(subject: TrainerUnderTest, rng: np.random.Generator) -> Case:
    """The case with the smallest model; the classifier has dropout if it is claimed, so that updates use the seed."""
    rate = main_case(subject.capabilities).classifier_dropout
    return seeded_case(subject, rng, small=True, classifier_dropout=rate)


@law("performance.compilations", claims=("jax",))
def test_compilations(check: Check, subject: TrainerUnderTest, n: int, rng: np.random.Generator) -> None:
    """Lists the programs that later updates, evaluations and gradients compile; there must be none."""
    case = small(subject, rng)

    def start(seed: int) -> None:
        subject.start(dataclasses.replace(case, seed=seed), start_params(case, rng), n)

    def use(real: int = B) -> None:
        subject.step(batch_of(case, rng, real=real))
        subject.evaluate(batch_of(case, rng, real=real))
        if "gradients" in subject.capabilities:
            subject.gradients(batch_of(case, rng, real=real))

    with compiled() as control:
        jax.jit(lambda x: x + 1)(np.float32(0))
    if not control:
        raise Vacuous(f"{check.law.id}: JAX {jax.__version__} does not report the programs that it compiles")
    # Programs that an earlier law compiled would hide that the second update needs another program than the first.
    jax.clear_caches()
    with compiled() as first:
        start(case.seed)
        use()
    check.facts["programs"] = len(first)
    for what in ("the second update and evaluation", "later ones"):
        with compiled() as names:
            use()
        check.same(f"compiled by {what}", names, [])
    with compiled() as names:
        use(real=5)
        use(real=1)
    check.same("compiled for a last batch that is not full", names, [])
    with compiled() as names:
        start((case.seed + 1) % MOST)
        use()
        use()
    check.same("compiled by a run of another seed", names, [])


@law("performance.memory", claims=("jax",))
def test_memory(check: Check, subject: TrainerUnderTest, n: int, rng: np.random.Generator) -> None:
    """Compares the number and the bytes of arrays on the devices after three and after six updates."""
    case = small(subject, rng)
    params = start_params(case, rng)
    subject.start(case, params, n)
    before, after = [used(check, subject, case, rng) for _ in range(2)]
    numbers = sum(math.prod(shape) * count for (shape, _, _), count in before.items())
    least = sum(leaf.size for leaf in params.values())
    why = "a trainer that claims `jax` keeps at least the parameters there"
    check.at_least("numbers on the devices", numbers, least, why)
    more = ", ".join(f"{count} more {dtype}{list(shape)}" for (shape, dtype, _), count in (after - before).items())
    what = f"arrays on the devices and their bytes after {2 * UPDATES} updates{more and f', {more}'}"
    totals = [(one.total(), sum(size * count for (_, _, size), count in one.items())) for one in (after, before)]
    check.same(what, *totals)


def used(check: Check, subject: TrainerUnderTest, case: Case, rng: np.random.Generator) -> collections.Counter[Any]:
    """Take more updates, then count the arrays on the devices; Vacuous if an array put there is not counted."""
    for _ in range(UPDATES):
        batch = batch_of(case, rng)
        subject.step(batch)
        subject.evaluate(batch)
    before = held()
    control = jax.device_put(np.float32(1))
    if held() == before:
        raise Vacuous(f"{check.law.id}: JAX {jax.__version__} does not report an array that is on a device")
    del control
    return before
