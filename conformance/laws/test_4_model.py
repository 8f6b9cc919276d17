"""Rung 4, for a trainer: its gradient is the derivative of its own loss."""

from __future__ import annotations

import numpy as np
import pytest

from ..adapter import TrainerUnderTest
from ..check import Bound, Check
from ..reference import FACTOR, loss_reference
from ..strategies import for_all, generators
from ..subjects import claims, drawn

# Length of a step along the gradient, in units of the parameters' norm: long against the rounding of the loss, short
# against its curvature.
STEP = 2.0**-9


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

        rise = (loss(size) - loss(-size)) / (2 * size)
        # What central differences themselves miss, on the oracle at a length h and at h / 2: an error of c h^2 gives
        # 3/4 of itself between the two.
        exact = [(loss(h, oracle=True) - loss(-h, oracle=True)) / (2 * h) for h in (size, size / 2)]
        curve = abs(exact[0] - exact[1]) * 4 / 3
        rounding = loss_reference(case, params, batch).bounds["loss"].noise / size
        noise = curve + rounding
        bound = Bound(
            (2 * curve + FACTOR * rounding) / slope,
            noise / slope,
            f"curvature {curve / slope:.1e} and rounding of the loss {rounding / slope:.1e}, step {size:.2g}",
        )
        check.close("slope along the gradient", np.array([rise]), np.array([slope]), bound)

    for_all(check, holds, rng=generators())
