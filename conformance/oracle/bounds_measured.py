"""Case, parameters, batches -> results of the oracle, and bounds: how far rounding may take a right trainer from them.

This distance depends on the values: the same rounding moves one gradient by 1e-7, another by 1e-4. So it is measured
on the oracle, by Monte Carlo arithmetic (Parker, 1997) with the probabilistic rounding model (Higham and Mary, 2019).
In that model each rounding multiplies by 1 + delta, with delta uniform in [-u, u] and so of root mean square
u / sqrt(3), and a sum of n terms gathers about sqrt(n) of them. By backward error analysis, the roundings of a product
act like a perturbation of its factors. Therefore

    noise = root mean square, over DRAWS draws, of the change of the float64 result when every parameter is multiplied
            by 1 + u sqrt(n / 3) e,   e normal,   n the longest product's length, and every probability of the
            loss and the logarithm of its sum by 1 + u e: three roundings, of exp, of the sum and of the quotient

The bound is FACTOR = 2 x 2 x 2 times the noise: 2 because right results differ by their order of summation, 2 for what
the model leaves out (roundings of activations in the backward pass, and of exp, erf and tanh), and 2 because few draws
may be small by chance. Probabilities are perturbed separately because the gradient has p - 1 at the label: near p = 1,
parameters hardly move p - 1, but the rounding of p does. (Without that, in one of 400 repetitions, at p - 1 = -0.0033,
a gradient erred by 2.7e-8 where 2.68e-8 was allowed.) The loss of such a row is the logarithm minus the logit, which
are nearly equal: parameters move both alike, but each is rounded by itself. For a float64 trainer the noise is the
same, in units of its u.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..adapter import Case, HostBatch
from ..core.comparison import Bound
from .bounds_derived import UNIT
from .model import evaluate, mean_loss, value_and_gradient
from .tape import Array, Params, Rounding, unrounded
from .updates import OracleTrainer, learning_rate

DRAWS = 4
# What torch.nn.utils.clip_grad_norm_ adds to the norm before it divides; a trainer may do the same.
CLIPPED = 1e-6
CLIPPED_TOO = f", or {CLIPPED:g} more in the norm that clips"
FACTOR = 8.0


@dataclass(frozen=True)
class Reference:
    """The right value of each leaf, and the bound of its l2 error, both by the leaf's name."""

    want: Params
    bounds: dict[str, Bound]


def jittered(params: Params, size: float, draw: int) -> tuple[Params, Rounding]:
    """The parameters, each perturbed by a relative `size`, and a function that perturbs values of the loss."""
    rng = np.random.default_rng((draw, 0x5EED))
    moved = {name: p * (1.0 + size * rng.standard_normal(p.shape)) for name, p in params.items()}
    # The loss is computed in float32 even if products are bfloat16.
    return moved, lambda p: p * (1.0 + UNIT["float32"] * rng.standard_normal(p.shape))


def reference(case: Case, params: Params, compute: Callable[[Params, Rounding], Mapping[str, Array]]) -> Reference:
    """The result of `compute(parameters, rounding in the loss)`, and bounds from its change under perturbations.

    The noise of a leaf is at least the round-off of its own size, and at least a tenth of the noise of an average leaf
    with as many elements, since few elements and few draws may be small by chance. A gradient that is exactly zero
    (see `zero_gradients`) does not change with the parameters, and gets the noise of the average leaf.
    """
    # A perturbation of 1e-15 would be lost in the oracle's own rounding. For float64 a larger one is scaled down later.
    u, shrink = UNIT[case.precision], 1.0
    if case.precision == "float64":
        u, shrink = UNIT["float32"], UNIT["float64"] / UNIT["float32"]
    # bfloat16 products accumulate in float32: they round each operand once, and the result.
    n = 3 if case.precision == "bfloat16" else max(case.intermediate_size, case.hidden_size)
    size = u * math.sqrt(n / 3)
    want = {name: np.asarray(leaf, np.float64) for name, leaf in compute(params, unrounded).items()}
    squares = dict.fromkeys(want, 0.0)
    for draw in range(DRAWS):
        moved = compute(*jittered(params, size, draw))
        for name, leaf in want.items():
            squares[name] += float(((moved[name] - leaf) ** 2).sum()) / DRAWS
    total, count = sum(squares.values()), sum(leaf.size for leaf in want.values())
    zero = zero_gradients(case)
    bounds = {}
    for name, leaf in want.items():
        floor = total * leaf.size / count * (1.0 if name in zero else 0.01)
        noise = shrink * math.sqrt(squares[name] + floor + (u * float(np.linalg.norm(leaf))) ** 2)
        why = f"{FACTOR:g} x the change under roundings of {shrink * size:.1e} in each parameter"
        bounds[name] = Bound(FACTOR * noise, noise, why)
    return Reference(want, bounds)


def gradient_reference(case: Case, params: Params, batch: HostBatch, step: int = 0) -> Reference:
    """The gradient of the mean loss, and its bounds."""
    return reference(case, params, lambda p, rounding: value_and_gradient(case, p, batch, step, rounding).gradients)


def loss_reference(case: Case, params: Params, batch: HostBatch, step: int = 0) -> Reference:
    """The mean loss, under the name `loss`, and its bound."""
    return reference(case, params, lambda p, rounding: {"loss": np.array(mean_loss(case, p, batch, step, rounding))})


def logits_reference(case: Case, params: Params, batch: HostBatch) -> Reference:
    """The logits of the rows with weight above 0, under the name `logits`, and their bound."""
    real = batch.weights > 0
    return reference(case, params, lambda p, _: {"logits": evaluate(case, p, batch)[real]})


@dataclass(frozen=True)
class Walk:
    """Updates of the oracle: the change of each leaf, and Adam's moments at the end."""

    distance: Reference
    first: Reference
    second: Reference


def walk(case: Case, params: Params, batches: Sequence[HostBatch]) -> Walk:
    """Run one update of the oracle for each batch; the noise includes the rounding of the stored parameters."""
    trainers: list[OracleTrainer] = []
    gradients: list[list[Params]] = [[] for _ in batches]

    def run(start: Params, rounding: Rounding, scale: float = 1.0) -> dict[str, Array]:
        trainer = OracleTrainer.start(case, start)
        trainer.scale = scale
        for batch, seen in zip(batches, gradients, strict=True):
            seen.append(value_and_gradient(case, trainer.params, batch, trainer.step_number, rounding).gradients)
            trainer.apply(seen[-1])
        trainers.append(trainer)
        return {name: trainer.params[name] - start[name] for name in start}

    distance, swing = reference(case, params, run), Swing(case, params)
    scaled = run(params, unrounded, 1.0 + corrections(case))
    for seen in gradients:
        swing.apply(seen[:-1], seen[-1])
    widened = swing.widened(distance, trainers[0].params)
    runs, again = iter(trainers), iter(trainers)
    first = reference(case, params, lambda *_: next(runs).first)
    second = reference(case, params, lambda *_: next(again).second)
    return Walk(stored(case, params, widened, len(batches), scaled), first, second)


class Swing:
    """How far updates can go if each element of the gradients errs by FACTOR times its own noise, up or down.

    Where a moment is nearly 0, Adam with a small epsilon makes an update of nearly full size of it, whose sign may be
    that of a rounding. Only few elements are such, so the root mean square of few draws may have none of them. Signs
    differ at random from update to update, so that noise of many updates adds up as independent noise does.
    """

    def __init__(self, case: Case, params: Params) -> None:
        self.case = case
        self.ends = [OracleTrainer.start(case, params) for _ in range(2)]
        self.rng = np.random.default_rng(0x51695)

    def apply(self, gradients: Sequence[Params], scaled: Params | None = None) -> None:
        """One update by the exact gradient, the first one, and its noise, from those under perturbations.

        `scaled` is the gradient after updates with an error of Adam's corrections, which has one direction.
        """
        exact, *moved = gradients
        far = FACTOR * (UNIT["float64"] / UNIT["float32"] if self.case.precision == "float64" else 1.0)
        noise = {name: far * np.sqrt(np.mean([(m[name] - g) ** 2 for m in moved], axis=0)) for name, g in exact.items()}
        if scaled is not None:
            noise = {name: size + np.abs(scaled[name] - exact[name]) for name, size in noise.items()}
        moves = {name: self.rng.choice((-1.0, 1.0), size.shape) * size for name, size in noise.items()}
        for end, sign in zip(self.ends, (-1.0, 1.0), strict=True):
            end.apply({name: g + sign * moves[name] for name, g in exact.items()})

    def widened(self, distance: Reference, params: Params) -> Reference:
        """The bounds of a distance whose exact end is `params`, at least as large as both ends are far from it."""
        bounds = {}
        for name, bound in distance.bounds.items():
            most = np.max([np.abs(end.params[name] - params[name]) for end in self.ends], axis=0)
            noise = max(bound.noise, float(np.linalg.norm(most)) / FACTOR)
            bounds[name] = Bound(FACTOR * noise, noise, bound.why)
        return Reference(distance.want, bounds)


@dataclass(frozen=True)
class Update:
    """One update of the oracle, from a trainer's own parameters: its results, and their bounds."""

    loss: Reference  # under the name `loss`
    distance: Reference
    first: Reference
    second: Reference


class Beside:
    """The oracle beside a run of a trainer: each update begins at the trainer's parameters, with the oracle's moments.

    So rounding moves only the moments apart, from update to update; their noise is that of runs in which the
    parameters of every update are perturbed. Bounds also allow a clipping that adds CLIPPED to the norm.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.runs = [OracleTrainer.start(case, {}) for _ in range(1 + DRAWS)]
        self.clipped = OracleTrainer.start(case, {})
        self.swing = Swing(case, {})

    def update(self, params: Params, batch: HostBatch) -> Update:
        """The oracle's update number 0, 1, ... from these parameters."""
        runs, rate = iter(self.runs), learning_rate(self.case, self.clipped.step_number)
        losses: list[float] = []
        seen: list[Params] = []

        def run(start: Params, rounding: Rounding) -> dict[str, Array]:
            trainer = next(runs)
            loss, gradients = value_and_gradient(self.case, start, batch, trainer.step_number, rounding)
            losses.append(loss)
            seen.append(gradients)
            for one, more in ((trainer, 0.0), *([(self.clipped, CLIPPED)] if trainer is self.runs[0] else [])):
                one.params = dict(start)
                one.apply(gradients, more)
            return {name: trainer.params[name] - start[name] for name in start}

        share = self.case.learning_rate / rate if rate else 0.0
        walked = reference(self.case, params, run)
        for end in self.swing.ends:
            end.params = dict(params)
        self.swing.apply(seen)
        walked = stored(self.case, params, self.swing.widened(walked, self.runs[0].params), 1, share=share)
        again, first, second = iter(losses), iter(self.runs), iter(self.runs)
        other = {name: self.clipped.params[name] - leaf for name, leaf in params.items()}
        return Update(
            reference(self.case, params, lambda *_: {"loss": np.array(next(again))}),
            _with_clipping(walked, other),
            _with_clipping(reference(self.case, params, lambda *_: next(first).first), self.clipped.first),
            _with_clipping(reference(self.case, params, lambda *_: next(second).second), self.clipped.second),
        )


def _with_clipping(right: Reference, other: Params) -> Reference:
    """The bounds, each larger by the distance to the leaf that the other clipping gives."""
    bounds = {}
    for name, bound in right.bounds.items():
        more = float(np.linalg.norm(other[name] - right.want[name]))
        bounds[name] = Bound(bound.value + more, bound.noise, f"{bound.why}{CLIPPED_TOO if more else ''}")
    return Reference(right.want, bounds)


def corrections(case: Case) -> float:
    """The most by which an update errs, relative to itself, because Adam's corrections 1 - b^t cancel.

    b and b^t are rounded, so b^t errs by up to (t + 1) u b^t, where 1 - b^t is at least t (1 - b) b^t. So an update
    errs by up to 2 u / (1 - b1) + u / (1 - b2) of itself, 6e-5 with b2 = 0.999. All its elements err equally.
    """
    u = UNIT["float64" if case.precision == "float64" else "float32"]
    return 2 * u / (1 - case.b1) + u / (1 - case.b2)


def stored(
    case: Case, params: Params, distance: Reference, updates: int, scaled: Params | None = None, share: float = 1.0
) -> Reference:
    """The bounds of a distance, with the rounding of the parameters that are stored after each update.

    The learning rate may be computed in float32 in every precision, with roundings of the largest rate, which is
    `share` times the rate of the updates. `scaled` is the distance if all updates have the error of `corrections`,
    which later gradients see too; None for one update.
    """
    u, rate = UNIT["float64" if case.precision == "float64" else "float32"], share * UNIT["float32"] / math.sqrt(3)
    error, bounds = corrections(case), {}
    for name, bound in distance.bounds.items():
        kept = u * math.sqrt(updates) * float(np.linalg.norm(params[name]))
        size = float(np.linalg.norm(distance.want[name]))
        noise = math.hypot(bound.noise, kept, rate * size)
        apart = error * size if scaled is None else float(np.linalg.norm(scaled[name] - distance.want[name]))
        why = f"{bound.why}, {updates} roundings of stored parameters and {error:.1e} of Adam's corrections"
        bounds[name] = Bound(FACTOR * noise + apart, noise, why)
    return Reference(distance.want, bounds)


def zero_gradients(case: Case) -> list[str]:
    """The leaves whose exact gradient is zero: biases of keys, because such a bias moves all scores of a query equally.

    In floating point their gradient is rounding noise, which Adam turns into steps of full size, so these parameters
    cannot be compared after an update.
    """
    return [f"bert.encoder.layer.{layer}.attention.self.key.bias" for layer in range(case.num_hidden_layers)]
