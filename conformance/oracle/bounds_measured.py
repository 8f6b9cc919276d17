"""Case, parameters, batches -> what the oracle computes, and how far rounding may take a correct trainer from it.

How far that is depends on the numbers: the same rounding moves one gradient by 1e-7 and another by 1e-4. So the bound
is measured on the oracle itself, in the manner of Monte Carlo arithmetic (Parker, 1997) and of the probabilistic
rounding model (Higham and Mary, 2019): each rounding multiplies by 1 + delta with delta uniform in [-u, u], of root
mean square u / sqrt(3), and a sum of n terms gathers about sqrt(n) of them. By backward error analysis those of a
product are as good as a perturbation of the factors, so

    noise = root mean square, over DRAWS draws, of the change of the float64 result when every parameter is multiplied
            by 1 + u sqrt(n / 3) e,   e normal,   n the longest product's length, and every probability of the
            loss by 1 + u e: three roundings, of exp, of the sum and of the quotient

and the bound is FACTOR times it: two for a result that is itself an order of summation away from another correct
one, two for what the model leaves out (roundings of activations in the backward pass and of exp, erf and tanh), and
two for the chance that few draws come out small. The probabilities are rounded by themselves since 1 is taken from the
label's: near 1 the parameters move p - 1 by ever less, and p's own rounding stays. (One repetition in 400 met it: at
p - 1 = -0.0033 the gradient was off by 2.7e-8, and 2.68e-8 was allowed.) A float64 trainer is held to the same noise
in its own u.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..adapter import Case, HostBatch, StepResult
from ..core.comparison import Bound
from .model import Array, Params, Rounding, evaluate, mean_loss, unrounded, value_and_gradient
from .updates import OracleTrainer

DRAWS = 4
FACTOR = 8.0
# Unit round-off: half the distance from 1 to the next number.
ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53, "bfloat16": 2.0**-8}


@dataclass(frozen=True)
class Reference:
    """What a trainer must give, by name, and the bound of each leaf's l2 error."""

    want: Params
    bounds: dict[str, Bound]


def roundings(case: Case) -> float:
    """The relative size of a parameter's perturbation: u sqrt(n / 3)."""
    # bfloat16 products accumulate in float32: one rounding of each operand and of the result.
    n = 3 if case.precision == "bfloat16" else max(case.intermediate_size, case.hidden_size)
    # float64 is linear in u here, and a perturbation of 1e-15 would drown in the oracle's own rounding.
    u = ROUNDOFF["float32" if case.precision == "float64" else case.precision]
    return u * math.sqrt(n / 3)


def jittered(case: Case, params: Params, draw: int) -> tuple[Params, Rounding]:
    """The parameters as rounding might have left them, and what it might do to the loss's probabilities."""
    rng = np.random.default_rng((draw, 0x5EED))
    moved = {name: p * (1.0 + roundings(case) * rng.standard_normal(p.shape)) for name, p in params.items()}
    # A loss is computed in float32 where the products are of bfloat16.
    return moved, lambda p: p * (1.0 + ROUNDOFF["float32"] * rng.standard_normal(p.shape))


def reference(case: Case, params: Params, compute: Callable[[Params, Rounding], Mapping[str, Array]]) -> Reference:
    """`compute` of the parameters and of a rounding of probabilities, and bounds from how it moves under rounding.

    A leaf's noise is at least the round-off of its own size, and a tenth of what an average leaf of as many elements
    has: few elements and few draws can come out small by chance. A gradient that is zero but for rounding (see
    `zero_gradients`) does not move with the parameters; it gets the average whole.
    """
    want = {name: np.asarray(leaf, np.float64) for name, leaf in compute(params, unrounded).items()}
    squares = dict.fromkeys(want, 0.0)
    for draw in range(DRAWS):
        moved = compute(*jittered(case, params, draw))
        for name, leaf in want.items():
            squares[name] += float(((moved[name] - leaf) ** 2).sum()) / DRAWS
    total, count = sum(squares.values()), sum(leaf.size for leaf in want.values())
    zero = zero_gradients(case)
    u = ROUNDOFF["float32" if case.precision == "float64" else case.precision]
    shrink = ROUNDOFF["float64"] / ROUNDOFF["float32"] if case.precision == "float64" else 1.0
    bounds = {}
    for name, leaf in want.items():
        floor = total * leaf.size / count * (1.0 if name in zero else 0.01)
        noise = shrink * math.sqrt(squares[name] + floor + (u * float(np.linalg.norm(leaf))) ** 2)
        why = f"{FACTOR:g} x the change under roundings of {shrink * roundings(case):.1e} in each parameter"
        bounds[name] = Bound(FACTOR * noise, noise, why)
    return Reference(want, bounds)


def gradient_reference(case: Case, params: Params, batch: HostBatch, step: int = 0) -> Reference:
    """The gradient of the mean loss."""
    return reference(case, params, lambda p, rounding: value_and_gradient(case, p, batch, step, rounding).gradients)


def loss_reference(case: Case, params: Params, batch: HostBatch, step: int = 0) -> Reference:
    """The mean loss, under the name `loss`."""
    return reference(case, params, lambda p, _: {"loss": np.array(mean_loss(case, p, batch, step))})


def logits_reference(case: Case, params: Params, batch: HostBatch) -> Reference:
    """The logits of the rows that count, under the name `logits`."""
    real = batch.weights > 0
    return reference(case, params, lambda p, _: {"logits": evaluate(case, p, batch)[real]})


@dataclass(frozen=True)
class Walk:
    """Updates of the oracle: their results, how far each leaf went, and Adam's moments at the end."""

    results: list[StepResult]
    params: Params
    distance: Reference
    first: Reference
    second: Reference


def walk(case: Case, params: Params, batches: Sequence[HostBatch]) -> Walk:
    """One update for each batch. Storing parameters in float32 rounds them at each step, which joins the noise."""
    runs: list[tuple[OracleTrainer, list[StepResult]]] = []

    def run(start: Params, rounding: Rounding) -> dict[str, Array]:
        trainer = OracleTrainer.start(case, start, rounding)
        results = [trainer.step(batch) for batch in batches]
        runs.append((trainer, results))
        return {name: trainer.params[name] - start[name] for name in start}

    distance = reference(case, params, run)
    true, results = runs[0]
    u = ROUNDOFF["float64" if case.precision == "float64" else "float32"]
    bounds = {}
    for name, bound in distance.bounds.items():
        stored = u * math.sqrt(len(batches)) * float(np.linalg.norm(params[name]))
        noise = math.hypot(bound.noise, stored)
        bounds[name] = Bound(FACTOR * noise, noise, f"{bound.why} and {len(batches)} roundings of what is stored")
    moments = iter(runs)
    first = reference(case, params, lambda *_: next(moments)[0].first)
    moments = iter(runs)
    second = reference(case, params, lambda *_: next(moments)[0].second)
    return Walk(results, true.params, Reference(distance.want, bounds), first, second)


def zero_gradients(case: Case) -> list[str]:
    """Leaves whose gradient is exactly zero in exact arithmetic: a key's bias moves all scores of a query alike.

    What is computed for them is rounding noise, which Adam turns into steps of full size: no parameter after an update
    can be compared there.
    """
    return [f"bert.encoder.layer.{layer}.attention.self.key.bias" for layer in range(case.num_hidden_layers)]


def without(tree: Mapping[str, npt.NDArray[np.generic]], names: Sequence[str]) -> dict[str, npt.NDArray[np.generic]]:
    """A tree less some leaves."""
    return {name: leaf for name, leaf in tree.items() if name not in names}
