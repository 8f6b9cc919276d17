"""The oracle as a data-parallel trainer: shards and micro-batches are added up as a trainer on N devices does.

Each thing that a real trainer can get wrong is a method, so that a wrong trainer is a subclass with one other method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ..adapter import Arrays, Case, HostBatch, StepResult
from .draws import rows_of
from .masks import Masks
from .model import Network, example_losses
from .tape import Array, Params, Tape
from .updates import clip, decays, learning_rate


class Sums(NamedTuple):
    """Sums over examples, added up over devices and micro-batches before the one division."""

    weight: float
    loss: float
    gradients: Params

    def scaled(self, by: float) -> Sums:
        """All three, multiplied by a number."""
        return Sums(self.weight * by, self.loss * by, {name: leaf * by for name, leaf in self.gradients.items()})

    def mean(self) -> Sums:
        """The sums divided by their weight; unchanged if that is 0."""
        return self.scaled(1 / self.weight) if self.weight else self


def added(parts: Sequence[Sums]) -> Sums:
    """The total of several sums."""
    leaves = {name: np.asarray(sum(part.gradients[name] for part in parts)) for name in parts[0].gradients}
    return Sums(sum(part.weight for part in parts), sum(part.loss for part in parts), leaves)


def rounded(values: npt.NDArray[Any], kind: Any = ml_dtypes.bfloat16) -> Array:
    """Values [...] rounded to a narrower type, and returned in float64."""
    return values.astype(kind).astype(np.float64)


class ShardedTrainer:
    """The oracle on n devices; `TrainerUnderTest` documents the methods of the adapter interface."""

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        """Begin a run at step 0 from a copy of the parameters."""
        self.case, self.n, self.t = case, n_devices, 0
        self.notes: dict[str, Any] = {}  # what a variant keeps from call to call
        self.now = self.placed(params)
        self.first: Params = {name: np.zeros(leaf.shape) for name, leaf in self.now.items()}
        self.second: Params = {name: np.zeros(leaf.shape) for name, leaf in self.now.items()}

    def placed(self, params: Arrays) -> Params:
        """The parameters on the devices: a copy."""
        return {name: np.array(leaf, np.float64) for name, leaf in params.items()}

    def step(self, batch: HostBatch) -> StepResult:
        """One update; the loss is that before it."""
        loss, gradients = self.mean(batch)
        rate = self.rate()
        self.t += 1
        self.update(self.clip(gradients), rate)
        return StepResult(loss, rate)

    # From a batch to its gradient.

    def mean(self, batch: HostBatch) -> tuple[float, Params]:
        """The weighted mean loss and its gradient: sums over devices, then over micro-batches, then one division."""
        return self.divide([self.reduce([self.sums(part) for part in parts]) for parts in self.micro_batches(batch)])

    def micro_batches(self, batch: HostBatch) -> list[list[HostBatch]]:
        """For each micro-batch, the part of each device."""
        shards, many = self.shards(batch), self.case.accumulate
        return [[rows_of(s, np.arange(len(s.weights)) % many == k) for s in shards] for k in range(many)]

    def shards(self, batch: HostBatch) -> list[HostBatch]:
        """The rows of each device, in order: consecutive blocks; devices without rows are left out."""
        rows, share = np.arange(len(batch.weights)), self.share(len(batch.weights))
        parts = [rows[d * share : (d + 1) * share] for d in range(self.n)]
        return [rows_of(batch, part) for part in parts if len(part)]

    def share(self, rows: int) -> int:
        """The number of rows of each device except the last ones, which get fewer."""
        return -(-rows // self.n)

    def sums(self, batch: HostBatch) -> Sums:
        """The sums over one device's part of a micro-batch."""
        weights = batch.weights.astype(np.float64)
        if not weights.any():
            return Sums(0.0, 0.0, {name: np.zeros(leaf.shape) for name, leaf in self.now.items()})
        network = self.network(batch, self.masks(self.t))
        logits, back = self.forward(network)
        losses, slopes = self.losses(logits, batch._replace(labels=np.where(weights > 0, batch.labels, 0)))
        back(weights[:, None] * slopes)
        return Sums(float(weights.sum()), float((weights * losses).sum()), network.tape.gradients)

    def masks(self, step: int) -> Masks | None:
        """The dropout masks of an update."""
        return Masks(self.case.seed, step) if self.case.dropout else None

    def network(self, batch: HostBatch, masks: Masks | None) -> Network:
        """The model, ready for a batch."""
        network = Network(self.case, {}, batch, masks)
        network.tape = self.tape(self.now)
        return network

    def tape(self, params: Arrays) -> Tape:
        """The operators."""
        return Tape(params)

    def forward(self, network: Network) -> tuple[Array, Callable[[Array], None]]:
        """Logits [B, C] and the backward pass."""
        return network.logits()

    def losses(self, logits: Array, batch: HostBatch) -> tuple[Array, Array]:
        """The loss of each example [B] and its derivative by the logits [B, C]."""
        return example_losses(self.case, logits, batch.labels)

    def reduce(self, parts: list[Sums]) -> Sums:
        """The sums over all devices."""
        return added(parts)

    def divide(self, totals: list[Sums]) -> tuple[float, Params]:
        """The mean loss and its gradient, from the sums of each micro-batch."""
        whole = added(totals).mean()
        return whole.loss, whole.gradients

    # From a gradient to new parameters.

    def rate(self) -> float:
        """The learning rate of the next update."""
        return learning_rate(self.case, self.t)

    def clip(self, gradients: Params) -> Params:
        """The gradients, scaled to the case's limit of their norm."""
        return clip(gradients, self.case.clip_norm)

    def update(self, gradients: Params, rate: float) -> None:
        """One update of AdamW; arrays returned earlier do not change."""
        self.first, self.second = self.moments_after(gradients)
        toward, decay = self.directions(self.first, self.second), self.case.weight_decay
        self.now = {k: p - rate * (toward[k] + decay * p * self.decays(k)) for k, p in self.now.items()}

    def moments_after(self, gradients: Params) -> tuple[Params, Params]:
        """The running means of the gradient and of its square, after this update."""
        b1, b2 = self.case.b1, self.case.b2
        first = {name: b1 * self.first[name] + (1 - b1) * g for name, g in gradients.items()}
        return first, {name: b2 * self.second[name] + (1 - b2) * g * g for name, g in gradients.items()}

    def directions(self, first: Params, second: Params) -> Params:
        """Adam's step for a learning rate of 1, without decay."""
        one, two = self.corrections()
        return {name: m / one / (np.sqrt(second[name] / two) + self.case.eps) for name, m in first.items()}

    def corrections(self) -> tuple[float, float]:
        """The bias corrections: the numbers that divide the two moments."""
        return 1 - self.case.b1**self.t, 1 - self.case.b2**self.t

    def decays(self, name: str) -> bool:
        """Whether a parameter decays."""
        return decays(name)

    def evaluate(self, batch: HostBatch) -> Array:
        """Logits [B, C] without dropout."""
        return self.forward(self.network(batch, None))[0]

    def gradients(self, batch: HostBatch) -> Arrays:
        """The gradient of the mean loss, before clipping."""
        return self.mean(batch)[1]

    def params(self) -> Arrays:
        """The current parameters."""
        return self.now

    def restored(self, state: dict[str, Any]) -> None:
        """Continue from a saved state: all attributes of a trainer."""
        vars(self).update(state)

    def moments(self) -> tuple[Arrays, Arrays]:
        """Adam's two moments."""
        return self.first, self.second
