"""Variants between a batch and its gradient: weights, rows, sums over devices and micro-batches, scale."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ...adapter import Case, HostBatch, StepResult
from ..draws import rows_of
from ..sharded import ShardedTrainer, Sums, added
from ..tape import Params
from ..updates import clip
from .table import Wrong, noting, wrong

Mean = tuple[float, Params]


def times(leaves: Params, by: float) -> Params:
    """Every leaf, multiplied by a number."""
    return {name: leaf * by for name, leaf in leaves.items()}


def of_batch(entry: str, change: Callable[..., HostBatch]) -> None:
    """The rows are changed before they are sharded."""

    @wrong(entry, "shards")
    def _shards(right: Wrong, _: ShardedTrainer, batch: HostBatch, **value: Any) -> list[HostBatch]:
        return right(change(batch, **value))


def of_shards(entry: str, change: Callable[[list[HostBatch]], list[HostBatch]]) -> None:
    """The rows are changed after they are sharded."""

    @wrong(entry, "shards")
    def _shards(right: Wrong, _: ShardedTrainer, batch: HostBatch) -> list[HostBatch]:
        return change(right(batch))


def _without(batch: HostBatch, row: int) -> HostBatch:
    """Without one of the rows of weight above 0."""
    weights = batch.weights.copy()
    weights[np.flatnonzero(weights)[row]] = 0
    return batch._replace(weights=weights)


def _shifted(batch: HostBatch, *, value: int) -> HostBatch:
    return batch._replace(labels=np.roll(batch.labels, value))


# Weights and rows.


def with_padding(case: Case, batch: HostBatch) -> HostBatch:
    """The batch, whose rows of padding count once."""
    # Padding may have ids and labels out of range.
    return batch._replace(
        input_ids=batch.input_ids % case.vocab_size,
        token_type_ids=batch.token_type_ids % case.type_vocab_size,
        labels=batch.labels if case.regression else batch.labels % case.num_labels,
        weights=np.where(batch.weights > 0, batch.weights, 1).astype(np.float32),
    )


@wrong("padding-counts", "shards")
def _padding_counts(right: Wrong, self: ShardedTrainer, batch: HostBatch) -> list[HostBatch]:
    return right(with_padding(self.case, batch))


of_batch("weights-ignored", lambda batch: batch._replace(weights=(batch.weights > 0).astype(np.float32)))
of_batch("weights-squared", lambda batch: batch._replace(weights=batch.weights**2))
of_batch("label-0-ignored", lambda batch: batch._replace(weights=batch.weights * (batch.labels != 0)))
of_batch("labels-shifted", _shifted)
of_batch("last-row-lost", functools.partial(_without, row=-1))
of_batch("first-row-lost", functools.partial(_without, row=0))
of_shards("first-device-left-out", lambda shards: shards[1:])
of_shards("last-device-left-out", lambda shards: shards[:-1])


@wrong("labels-shifted-in-shards", "shards")
def _shifted_in_shards(right: Wrong, _: ShardedTrainer, batch: HostBatch, *, value: int) -> list[HostBatch]:
    return [_shifted(shard, value=value) for shard in right(batch)]


@wrong("remainder-dropped", "share")
def _whole_share(_: Wrong, self: ShardedTrainer, rows: int) -> int:
    return rows // self.n


@wrong("divided-by-rows", "sums")
def _by_rows(right: Wrong, _: ShardedTrainer, batch: HostBatch) -> Sums:
    return right(batch)._replace(weight=float(len(batch.weights)))


@wrong("divided-by-real-rows", "sums")
def _by_real_rows(right: Wrong, _: ShardedTrainer, batch: HostBatch) -> Sums:
    return right(batch)._replace(weight=float((batch.weights > 0).sum()))


@wrong("batch-before", "step")
def _behind(right: Wrong, self: ShardedTrainer, batch: HostBatch) -> StepResult:
    used, self.notes["behind"] = self.notes.get("behind", batch), batch
    return right(used)


@wrong("first-batch-repeated", "step")
def _repeated(right: Wrong, self: ShardedTrainer, batch: HostBatch) -> StepResult:
    return right(self.notes.setdefault("repeated", batch))


# Scale. A factor acts on loss and gradient of the whole batch.


def scaled(entry: str, loss: Callable[..., float], gradient: Callable[..., float]) -> None:
    """Both are functions of the trainer, the batch and the variant's value."""

    @wrong(entry, "mean")
    def _mean(right: Wrong, self: ShardedTrainer, batch: HostBatch, **value: Any) -> Mean:
        one, leaves = right(batch)
        by, factor = loss(self, batch, **value), gradient(self, batch, **value)
        return one * by, times(leaves, factor)


def _one(*_: Any, **__: Any) -> float:
    return 1.0


def _value(*_: Any, value: float) -> float:
    return value


def _weight(_: ShardedTrainer, batch: HostBatch) -> float:
    return float(batch.weights.sum(dtype=np.float64))


def _devices(self: ShardedTrainer, _: HostBatch) -> float:
    return float(self.n)


scaled("gradient-scaled", _one, _value)
scaled("loss-scaled", _value, _one)
scaled("loss-and-gradient-scaled", _value, _value)
scaled("gradient-not-divided", _one, _weight)
scaled("loss-not-divided", _weight, _one)
scaled("loss-and-gradient-not-divided", _weight, _weight)
scaled("gradient-times-devices", _one, _devices)
scaled("gradient-over-devices", _one, lambda self, _: 1.0 / self.n)
scaled("loss-times-devices", _devices, _one)


# Sums over devices and micro-batches.


def _means(parts: list[Sums], weight: Callable[[Sums], float]) -> list[Sums]:
    return [part.mean()._replace(weight=weight(part)) for part in parts]


def combined(entry: str, change: Callable[[ShardedTrainer, list[Sums]], list[Sums]], only: str = "") -> None:
    """The devices' sums are changed before they are added up; `only` is loss or gradient if the other is right."""

    @wrong(entry, "reduce")
    def _reduce(right: Wrong, self: ShardedTrainer, parts: list[Sums]) -> Sums:
        total, other = right(parts), right(change(self, parts))
        if not only:
            return other
        # As sums, so that the division by the right weight gives the other's mean.
        mean = other.mean()
        return total._replace(loss=mean.loss * total.weight) if only == "loss" else total._replace(
            gradients=times(mean.gradients, total.weight)
        )  # fmt: skip


def _first(_: ShardedTrainer, parts: list[Sums]) -> list[Sums]:
    return [next((part for part in parts if part.weight), parts[0])]


def _mean_of_means(_: ShardedTrainer, parts: list[Sums]) -> list[Sums]:
    return _means(parts, lambda part: float(part.weight > 0))


def _empty_counts(_: ShardedTrainer, parts: list[Sums]) -> list[Sums]:
    return [part._replace(weight=part.weight or 1.0) for part in parts]


combined("gradient-of-one-device", _first)
combined("half-of-the-devices", lambda self, parts: parts[: -(-self.n // 2)])
combined("mean-of-means", _mean_of_means)
combined("mean-of-all-means", lambda _, parts: _means(parts, lambda part: 1.0))
combined("sum-of-means", lambda _, parts: _means(parts, lambda part: 1.0 / len(parts)))
combined("empty-shard-counts", _empty_counts)
combined("loss-of-one-device", _first, "loss")
combined("loss-mean-of-means", _mean_of_means, "loss")
combined("gradient-mean-of-means", _mean_of_means, "gradient")


@wrong("mean-of-means-by-rows", "sums")
def _mean_by_rows(right: Wrong, _: ShardedTrainer, batch: HostBatch) -> Sums:
    return right(batch).mean().scaled(len(batch.weights))._replace(weight=float(len(batch.weights)))


def micro(entry: str, change: Callable[..., list[Sums]], only: str = "") -> None:
    """The micro-batches' sums are changed before they are added up; `only` is loss or gradient, as in `combined`."""

    @wrong(entry, "divide")
    def _divide(right: Wrong, _: ShardedTrainer, totals: list[Sums], **value: Any) -> Mean:
        other, exact = right(change(totals, **value)), right(totals)
        return exact[0] if only == "gradient" else other[0], exact[1] if only == "loss" else other[1]


def _micro_means(totals: list[Sums]) -> list[Sums]:
    return [total.mean() for total in totals]


def _micro_sum(totals: list[Sums]) -> list[Sums]:
    return [added([total.mean() for total in totals])._replace(weight=1.0)]


def _one_of(totals: list[Sums], *, value: str) -> list[Sums]:
    return totals[:1] if value == "first" else totals[-1:]


def _without_one(totals: list[Sums], *, value: str) -> list[Sums]:
    """The sums of one are zero, and its weight counts."""
    lost = 0 if value == "first" else len(totals) - 1
    return [one.scaled(0.0)._replace(weight=one.weight) if k == lost else one for k, one in enumerate(totals)]


micro("mean-of-micro-batches", _micro_means)
micro("micro-batch-lost", _without_one)
micro("gradient-of-micro-batch-lost", _without_one, "gradient")
micro("gradient-only-of-one-micro-batch", _one_of, "gradient")
micro("micro-batches-not-divided", _micro_sum)
micro("loss-of-micro-batches-added", _micro_sum, "loss")
micro("loss-mean-of-micro-batches", _micro_means, "loss")
micro("gradient-of-one-micro-batch", _one_of)
micro("loss-of-one-micro-batch", _one_of, "loss")


@wrong("update-by-micro-batch", "step")
def _updates(right: Wrong, self: ShardedTrainer, batch: HostBatch) -> StepResult:
    whole, many = self.case, self.case.accumulate
    self.case = dataclasses.replace(whole, accumulate=1)
    results = [right(rows_of(batch, np.arange(len(batch.weights)) % many == k)) for k in range(many)]
    self.case = whole
    return StepResult(float(np.mean([one.loss for one in results])), results[-1].learning_rate)


# Clipping before the parts are combined. `gradients()` returns what is not clipped.


def _in_step(entry: str) -> None:
    wrong(entry, "step")(noting("stepping"))

    @wrong(entry, "clip")
    def _unclipped(_: Wrong, __: ShardedTrainer, gradients: Params, **___: Any) -> Params:
        return gradients


_in_step("clipped-by-device")
_in_step("clipped-by-micro-batch")


def _clipped(self: ShardedTrainer, part: Sums, by: float) -> Params:
    """The part's sums times `by`, clipped, and as sums again."""
    return times(clip(times(part.gradients, by), self.case.clip_norm), 1 / by) if by else part.gradients


@wrong("clipped-by-device", "reduce")
def _clipped_by_device(right: Wrong, self: ShardedTrainer, parts: list[Sums], *, value: str) -> Sums:
    if not self.notes.get("stepping"):
        return right(parts)
    whole, many = sum(part.weight for part in parts), sum(part.weight > 0 for part in parts)
    scale = {"by weight": 0.0, "as a plain mean": 0.0, "as a sum": 1 / whole}[value]
    own = [_clipped(self, part, scale or (part.weight and 1 / part.weight)) for part in parts]
    if value == "as a plain mean":
        own = [times(g, whole / part.weight / many) if part.weight else g for g, part in zip(own, parts, strict=True)]
    return right([part._replace(gradients=g) for part, g in zip(parts, own, strict=True)])


@wrong("clipped-by-micro-batch", "divide")
def _clipped_by_micro_batch(right: Wrong, self: ShardedTrainer, totals: list[Sums], *, value: str) -> Mean:
    if not self.notes.get("stepping"):
        return right(totals)
    whole = sum(total.weight for total in totals)
    # What is clipped: a micro-batch's mean, its share of the whole mean, or that share times their number.
    by = {"mean": 0.0, "sum": 1 / whole, "share": len(totals) / whole}[value]
    own = [_clipped(self, total, by or 1 / (total.weight or 1)) for total in totals]
    return right([total._replace(gradients=g) for total, g in zip(totals, own, strict=True)])
