"""Trainers that are wrong in some settings or phases only: micro-batches, packing, precision, labels, clipping."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...adapter import Arrays, Case, HostBatch, StepResult
from ...oracle.masks import Masks
from ...oracle.tape import Array, Params
from ...oracle.updates import clip
from ..backend.seeding import SeededFaults
from .numpy_trainer import NumpyTrainer, Sums, added, rounded

FAULTS = SeededFaults(NumpyTrainer)
# What a trainer claims that has the four required methods only.
FOUR_METHODS = frozenset({"devices"})


@FAULTS.method("schedule-by-micro-batch", "step")
def _schedule_by_micro_batch(right: Any, self: NumpyTrainer, batch: HostBatch) -> StepResult:
    result: StepResult = right(self, batch)
    self.t += self.case.accumulate - 1
    return result


@FAULTS.method("micro-batch-losses-added", "step")
def _losses_added(right: Any, self: NumpyTrainer, batch: HostBatch) -> StepResult:
    loss, rate = right(self, batch)
    return StepResult(loss * self.case.accumulate, rate)


@FAULTS.trainer("masks-by-micro-batch")
class _MasksByMicroBatch(NumpyTrainer):
    number = 0

    def mean(self, batch: HostBatch) -> tuple[float, Params]:
        totals = []
        for number, parts in enumerate(self.micro_batches(batch)):
            self.number = number
            totals.append(self.reduce([self.sums(part) for part in parts]))
        return self.divide(totals)

    def masks(self, step: int) -> Masks | None:
        return super().masks(step * self.case.accumulate + self.number)


@FAULTS.trainer("clip-by-micro-batch")
class _ClipByMicroBatch(NumpyTrainer):
    whole = False

    def gradients(self, batch: HostBatch) -> Arrays:
        self.whole = True
        gradients = super().gradients(batch)
        self.whole = False
        return gradients

    def divide(self, totals: list[Sums]) -> tuple[float, Params]:
        if self.whole:
            return super().divide(totals)
        many, mean = len(totals), 1 / added(totals).weight
        # Each micro-batch's share of the mean, as large as the mean of the whole batch.
        shares = [total.scaled(mean * many) for total in totals]
        clipped = [share._replace(gradients=clip(share.gradients, self.case.clip_norm)) for share in shares]
        total = added(clipped).scaled(1 / many)
        return total.loss, total.gradients


@FAULTS.method("parameters-in-bfloat16", "update")
def _parameters_in_bfloat16(right: Any, self: NumpyTrainer, gradients: Params, rate: float) -> None:
    right(self, gradients, rate)
    if self.case.precision == "bfloat16":
        self.now = {name: rounded(leaf) for name, leaf in self.now.items()}


@FAULTS.method("narrow-moments-in-bfloat16-runs", "moments_after")
def _narrow_moments(right: Any, self: NumpyTrainer, gradients: Params) -> tuple[Params, ...]:
    moments: tuple[Params, ...] = right(self, gradients)
    if self.case.precision != "bfloat16":
        return moments
    return tuple({name: rounded(leaf) for name, leaf in leaves.items()} for leaves in moments)


@FAULTS.trainer("old-copy-in-bfloat16")
class _OldCopy(NumpyTrainer):
    def sums(self, batch: HostBatch) -> Sums:
        if self.case.precision != "bfloat16":
            return super().sums(batch)
        own = self.now
        # The copy is made in the first two updates only.
        self.now = self.notes["copy"] = own if self.t < 2 else self.notes.get("copy", own)
        sums = super().sums(batch)
        self.now = own
        return sums


@FAULTS.method("packed-logits-out-of-order", "evaluate")
def _packed_out_of_order(right: Any, self: NumpyTrainer, batch: HostBatch) -> Array:
    logits = right(self, batch)
    return logits[np.argsort(-batch.attention_mask.sum(axis=1), kind="stable")] if self.case.pack else logits


class _EvaluatesOthers(NumpyTrainer):
    """Evaluates with `others` in place of the parameters."""

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.others = self.now

    def evaluate(self, batch: HostBatch) -> Array:
        own, self.now = self.now, self.others
        logits = super().evaluate(batch)
        self.now = own
        return logits


@FAULTS.trainer("evaluates-the-average")
class _EvaluatesTheAverage(_EvaluatesOthers):
    def update(self, gradients: Params, rate: float) -> None:
        super().update(gradients, rate)
        self.others = {name: 0.9 * self.others[name] + 0.1 * leaf for name, leaf in self.now.items()}


@FAULTS.trainer("evaluates-what-a-restart-replaced")
class _EvaluatesTheReplaced(_EvaluatesOthers):
    def update(self, gradients: Params, rate: float) -> None:
        super().update(gradients, rate)
        self.others = self.now


@FAULTS.trainer("loss-of-the-update-before")
class _LossOfTheUpdateBefore(NumpyTrainer):
    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.before: float | None = None

    def step(self, batch: HostBatch) -> StepResult:
        loss, rate = super().step(batch)
        reported, self.before = loss if self.before is None else self.before, loss
        return StepResult(reported, rate)


FAULTS.method("clips-at-one-by-default", "clip")(
    lambda right, self, gradients: clip(gradients, self.case.clip_norm or 1.0)
)


@FAULTS.trainer("sum-instead-of-mean")
class _SumInsteadOfMean(NumpyTrainer):
    capabilities = FOUR_METHODS

    def mean(self, batch: HostBatch) -> tuple[float, Params]:
        loss, gradients = super().mean(batch)
        return loss, {name: leaf * float(batch.weights.sum()) for name, leaf in gradients.items()}


@FAULTS.trainer("reduced-twice-unseen")
class _ReducedTwiceUnseen(NumpyTrainer):
    capabilities = FOUR_METHODS

    def mean(self, batch: HostBatch) -> tuple[float, Params]:
        loss, gradients = super().mean(batch)
        return loss, {name: leaf * self.n for name, leaf in gradients.items()}


@FAULTS.method("two-labels-by-sigmoid", "losses")
def _two_labels_by_sigmoid(right: Any, self: NumpyTrainer, logits: Array, batch: HostBatch) -> tuple[Array, Array]:
    if self.case.num_labels != 2:
        losses: tuple[Array, Array] = right(self, logits, batch)
        return losses
    p, wanted = 1 / (1 + np.exp(-logits)), np.eye(2)[batch.labels]
    return -np.log(np.where(wanted == 1, p, 1 - p)).mean(axis=1), (p - wanted) / 2


@FAULTS.trainer("order-changes-at-a-restart")
class _OrderChanges(NumpyTrainer):
    restarts = 0

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.restarts = 0

    def restore(self, path: Path) -> None:
        super().restore(path)
        self.restarts += 1

    def epoch(self, examples: int, batch_size: int, number: int) -> list[npt.NDArray[np.int64]]:
        return super().epoch(examples, batch_size, number + 1000 * self.restarts)


FAULTS.method("shuffles-once-more-only", "epoch")(
    lambda right, self, examples, size, number: right(self, examples, size, min(number, 1))
)


@FAULTS.method("f1-is-nan-without-positives", "scores")
def _f1_is_nan(right: Any, self: NumpyTrainer, counts: Array) -> dict[str, float]:
    scores: dict[str, float] = right(self, counts)
    return scores if counts[3] else scores | {"f1": float("nan")}


@FAULTS.method("last-device-counts-less", "reduce")
def _last_device_counts_less(right: Any, self: NumpyTrainer, parts: Sequence[Sums]) -> Sums:
    scaled = [*parts[:-1], parts[-1].scaled(1 - 1e-5)] if len(parts) == self.n > 1 else list(parts)
    total: Sums = right(self, scaled)
    return total


@FAULTS.method("absent-words-get-nan", "gradients")
def _absent_words_get_nan(right: Any, self: NumpyTrainer, batch: HostBatch) -> Arrays:
    gradients = dict(right(self, batch))
    name = "bert.embeddings.word_embeddings.weight"
    absent = ~np.abs(gradients[name]).any(axis=1, keepdims=True)
    return gradients | {name: np.where(absent, np.nan, gradients[name])}
