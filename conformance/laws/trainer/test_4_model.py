"""Rung 4, for a trainer: its gradient is the derivative of its own loss."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from ...adapter import TrainerUnderTest
from ...core.check import Check
from ...core.comparison import Bound
from ...oracle.bounds_measured import FACTOR, loss_reference
from ...oracle.draws import draw_case
from ...oracle.model import mean_loss, value_and_gradient
from ...oracle.tape import Params
from ...oracle.updates import norm_of
from ..support.running import law, losses_of

Loss = Callable[[float], float]  # length of a step -> the loss after it
# Lengths of a step along the gradient, in units of the parameters' norm. A long step errs by the loss's curvature, a
# short one by the loss's rounding. The best length depends on the drawn values; the oracle finds it.
STEPS = tuple(2.0**-k for k in range(6, 18, 2))
# The largest change of a trainer's own slope, in units of its gradient, from one step length to half of it: FACTOR
# times as much must be at most half of the slope.
SMOOTH = 0.5 / FACTOR


@law("autodiff.model", draws=True, claims=("gradients",))
def test_model(check: Check, subject: TrainerUnderTest, rng: np.random.Generator) -> None:
    """Compares the slope that the gradient gives with central differences of the trainer's own loss.

    The direction is halfway between the trainer's gradient and the oracle's. Along the trainer's own gradient, a
    missing part would not be seen: gradient and differences would both give the norm of the other parts.
    """
    case, params, batch = draw_case(subject, rng)
    subject.start(case, params, 1)
    gradient = {name: np.asarray(leaf, np.float64) for name, leaf in subject.gradients(batch).items()}
    size, norm = norm_of(gradient), norm_of(params)
    right = value_and_gradient(case, params, batch).gradients
    middle = {name: gradient[name] / size + leaf / norm_of(right) for name, leaf in right.items()}
    toward = {name: leaf / norm_of(middle) for name, leaf in middle.items()}
    slope, true_slope = (
        sum(float((leaves[name] * leaf).sum()) for name, leaf in toward.items()) for leaves in (gradient, right)
    )

    def moved(length: float) -> Params:
        ends = {name: leaf + length * toward[name] for name, leaf in params.items()}
        return {name: leaf.astype(np.float32).astype(np.float64) for name, leaf in ends.items()}

    loss = functools.cache(lambda length: losses_of(subject, case, moved(length), [batch], 1)[0])
    true_loss = functools.cache(lambda length: mean_loss(case, moved(length), batch))
    # Four rounded losses over 2 h, with weights 8/3 at +-h / 2 and 1/3 at +-h: sqrt(2 (8/3)^2 + 2 (1/3)^2) / 2 = 1.9.
    rounded = 1.9 * loss_reference(case, params, batch).bounds["loss"].noise
    best, noise = best_step(true_loss, true_slope, rounded, [step * norm for step in STEPS])
    measured = derivative(loss, best)
    # A loss that differs from the oracle's, for example by its masks, has its own curvature.
    own = abs(measured - derivative(loss, best / 2)) * 16 / 15 / size
    # Else the bound of the slope would allow a gradient of zero.
    smooth = Bound(SMOOTH, noise / size, "a smooth loss gives nearly the same slope over a step and over half of it")
    check.at_most(f"change of the loss's own slope from a step of {best:.2g} to half of it", own, smooth)
    why = f"curvature and rounding of the loss over a step of {best:.2g}, the best of {len(STEPS)}"
    bound = Bound(FACTOR * max(noise / size, own), noise / size, why)
    what = "slope between the gradient and the oracle's"
    check.close(what, np.array([measured]), np.array([slope]), bound, scale=size, control=np.zeros(1))


def best_step(loss: Loss, slope: float, rounded: float, lengths: Sequence[float]) -> tuple[float, float]:
    """The step length that gives the most exact derivative of `loss` at 0, and the error of that derivative.

    The error from curvature is the difference from the known slope, for the step and for half of it. It is not enough
    to compare two steps with each other: both may be far too long and agree by chance. This once chose a step of 0.99,
    over which the slope was 1.9 instead of 12, and failed a right gradient.

    `slope` is the derivative of `loss` at 0; `rounded` is the rounding error of a derivative over a step of length 1.
    """

    def noise(length: float) -> float:
        return max(abs(derivative(loss, h) - slope) for h in (length, length / 2)) + rounded / length

    return min(((length, noise(length)) for length in lengths), key=lambda pair: pair[1])


def derivative(loss: Loss, length: float) -> float:
    """Derivative of `loss` at 0 by Richardson's extrapolation, whose error is of order h^4."""
    whole, half = ((loss(h) - loss(-h)) / (2 * h) for h in (length, length / 2))
    return (4 * half - whole) / 3
