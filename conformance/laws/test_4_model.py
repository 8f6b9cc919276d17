"""Rung 4, for a trainer: its gradient is the derivative of its own loss."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from ..adapter import TrainerUnderTest
from ..check import Check
from ..comparison import Bound
from ..oracle import Params, mean_loss, value_and_gradient
from ..reference import FACTOR, loss_reference
from ..strategies import for_all, generators
from ..subjects import claims, drawn

# Lengths of a step along the gradient, in units of the parameters' norm. A long one meets the curvature of the loss, a
# short one its rounding; which is best depends on the values drawn, and is found on the oracle.
STEPS = (2.0**-6, 2.0**-8, 2.0**-10, 2.0**-12)


@pytest.mark.law("autodiff.model")
def test_model(check: Check, subject: TrainerUnderTest) -> None:
    """The loss changes along a direction as fast as the gradient says: central differences of the trainer's own loss.

    The direction lies between the trainer's gradient and the oracle's. Along the trainer's own alone nothing would be
    seen of a part that is missing: what is left is still its own projection.
    """
    claims(check, subject, "gradients")

    def holds(rng: np.random.Generator) -> None:
        case, params, batch = drawn(subject, rng)
        subject.start(case, params, 1)
        gradient = {name: np.asarray(leaf, np.float64) for name, leaf in subject.gradients(batch).items()}
        size, norm = length_of(gradient), length_of(params)
        right = value_and_gradient(case, params, batch).gradients
        middle = {name: gradient[name] / size + leaf / length_of(right) for name, leaf in right.items()}
        toward = {name: leaf / length_of(middle) for name, leaf in middle.items()}
        slope = sum(float((gradient[name] * leaf).sum()) for name, leaf in toward.items())

        def moved(length: float) -> Params:
            return {
                name: (leaf + length * toward[name]).astype(np.float32).astype(np.float64)
                for name, leaf in params.items()
            }

        @functools.cache
        def loss(length: float) -> float:
            subject.start(case, moved(length), 1)
            return subject.step(batch).loss

        @functools.cache
        def true_loss(length: float) -> float:
            return mean_loss(case, moved(length), batch)

        # Four rounded losses over 2 h, with weights 4/3 at half of it and 1/3: sqrt(2 (8/3)^2 + 2 (1/3)^2) / 2 = 1.9.
        rounded = 1.9 * loss_reference(case, params, batch).bounds["loss"].noise

        def noise(length: float) -> float:
            # An error of c h^4 gives 15/16 of itself between h and h / 2.
            curve = abs(rise(true_loss, length) - rise(true_loss, length / 2)) * 16 / 15
            return float((curve + rounded / length) / size)

        noises = {length: noise(length) for length in (step * norm for step in STEPS)}
        best = min(noises, key=lambda length: noises[length])
        fallen = rise(loss, best)
        # A trainer whose loss is another function than the oracle's, through its masks for instance, has its own curve.
        own = abs(fallen - rise(loss, best / 2)) * 16 / 15 / size
        why = f"curvature and rounding of the loss over a step of {best:.2g}, the best of {len(STEPS)}"
        bound = Bound(FACTOR * max(noises[best], own), noises[best], why)
        what = "slope between the gradient and the oracle's"
        check.close(what, np.array([fallen]), np.array([slope]), bound, scale=size, control=np.zeros(1))

    for_all(check, holds, rng=generators())


def length_of(leaves: Params) -> float:
    """The l2 norm of all leaves together."""
    return float(np.sqrt(sum(float((leaf**2).sum()) for leaf in leaves.values())))


def rise(loss: Callable[[float], float], length: float) -> float:
    """The derivative of `loss` at 0: Richardson's, whose error of h^2 cancels between h and h / 2, and leaves h^4."""
    whole, half = ((loss(h) - loss(-h)) / (2 * h) for h in (length, length / 2))
    return (4 * half - whole) / 3
