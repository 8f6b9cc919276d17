"""Rung 4, for a trainer: its gradient is the derivative of its own loss."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from ..adapter import TrainerUnderTest
from ..check import Check
from ..comparison import Bound
from ..oracle import Params, mean_loss
from ..reference import FACTOR, loss_reference
from ..strategies import for_all, generators
from ..subjects import claims, drawn

# Lengths of a step along the gradient, in units of the parameters' norm. A long one meets the curvature of the loss, a
# short one its rounding; which is best depends on the values drawn, and is found on the oracle.
STEPS = (2.0**-6, 2.0**-8, 2.0**-10, 2.0**-12)


@pytest.mark.law("autodiff.model")
def test_model(check: Check, subject: TrainerUnderTest) -> None:
    """The loss falls along the gradient as fast as the gradient says: central differences, no oracle of gradients."""
    claims(check, subject, "gradients")

    def holds(rng: np.random.Generator) -> None:
        case, params, batch = drawn(subject, rng)
        subject.start(case, params, 1)
        gradient = {name: np.asarray(leaf, np.float64) for name, leaf in subject.gradients(batch).items()}
        slope = np.sqrt(sum(float((leaf**2).sum()) for leaf in gradient.values()))
        norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in params.values()))

        def moved(length: float) -> Params:
            return {
                name: (leaf + length * gradient[name] / slope).astype(np.float32).astype(np.float64)
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
            return float((curve + rounded / length) / slope)

        noises = {length: noise(length) for length in (step * norm for step in STEPS)}
        best = min(noises, key=lambda length: noises[length])
        fallen = rise(loss, best)
        # A trainer whose loss is another function than the oracle's, through its masks for instance, has its own curve.
        own = abs(fallen - rise(loss, best / 2)) * 16 / 15 / slope
        why = f"curvature and rounding of the loss over a step of {best:.2g}, the best of {len(STEPS)}"
        bound = Bound(FACTOR * max(noises[best], own), noises[best], why)
        check.close("slope along the gradient", np.array([fallen]), np.array([slope]), bound, control=np.zeros(1))

    for_all(check, holds, rng=generators())


def rise(loss: Callable[[float], float], length: float) -> float:
    """The derivative of `loss` at 0: Richardson's, whose error of h^2 cancels between h and h / 2, and leaves h^4."""
    whole, half = ((loss(h) - loss(-h)) / (2 * h) for h in (length, length / 2))
    return (4 * half - whole) / 3
