"""Rung 4, for a trainer: its gradient is the derivative of its own loss."""

from __future__ import annotations

import numpy as np
import pytest

from ..adapter import TrainerUnderTest
from ..check import Check
from ..comparison import Bound
from ..reference import FACTOR, loss_reference
from ..strategies import for_all, generators
from ..subjects import claims, drawn

# Length of a step along the gradient, in units of the parameters' norm: long against the rounding of the loss, short
# against its curvature.
STEP = 2.0**-8


@pytest.mark.law("autodiff.model")
def test_model(check: Check, subject: TrainerUnderTest) -> None:
    """The loss falls along the gradient as fast as the gradient says: central differences, no oracle of gradients."""
    claims(check, subject, "gradients")

    def holds(rng: np.random.Generator) -> None:
        case, params, batch = drawn(subject, rng)
        subject.start(case, params, 1)
        gradient = {name: np.asarray(leaf, np.float64) for name, leaf in subject.gradients(batch).items()}
        slope = np.sqrt(sum(float((leaf**2).sum()) for leaf in gradient.values()))
        size = STEP * np.sqrt(sum(float((leaf**2).sum()) for leaf in params.values()))

        def loss(length: float, *, oracle: bool = False) -> float:
            moved = {
                name: (leaf + length * gradient[name] / slope).astype(np.float32).astype(np.float64)
                for name, leaf in params.items()
            }
            if oracle:
                return float(loss_reference(case, moved, batch).want["loss"])
            subject.start(case, moved, 1)
            return subject.step(batch).loss

        def rise(length: float, *, oracle: bool = False) -> float:
            # Richardson: the error of h^2 cancels between h and h / 2, and leaves one of h^4.
            whole, half = ((loss(h, oracle=oracle) - loss(-h, oracle=oracle)) / (2 * h) for h in (length, length / 2))
            return (4 * half - whole) / 3

        # What is left of the curvature, on the oracle: an error of c h^4 gives 15/16 of itself between h and h / 2.
        curve = abs(rise(size, oracle=True) - rise(size / 2, oracle=True)) * 16 / 15
        # Four rounded losses over 2 h, with weights 4/3 at half of it and 1/3: sqrt(2 (8/3)^2 + 2 (1/3)^2) / 2 = 1.9.
        rounding = 1.9 * loss_reference(case, params, batch).bounds["loss"].noise / size
        noise = (curve + rounding) / slope
        why = f"curvature {curve / slope:.1e} and rounding of the loss {rounding / slope:.1e}, step {size:.2g}"
        bound = Bound(FACTOR * noise, noise, why)
        check.close("slope along the gradient", np.array([rise(size)]), np.array([slope]), bound, control=np.zeros(1))

    for_all(check, holds, rng=generators())
