"""Variants of dropout, and of the loss of one example."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ...adapter import Case, HostBatch
from ..masks import SITES_PER_LAYER, Factors, Masks, Words
from ..sharded import ShardedTrainer
from ..tape import Array, Params, softmax
from ..updates import decays
from .table import Wrong, wrong

Losses = tuple[Array, Array]


@wrong("no-dropout", "masks")
def _no_masks(*_: Any) -> None:
    return None


@wrong("one-mask-for-all-steps", "masks")
def _first_masks(right: Wrong, _: ShardedTrainer, __: int) -> Any:
    return right(0)


@wrong("masks-of-another-step", "masks")
def _other_masks(right: Wrong, _: ShardedTrainer, step: int, *, value: int) -> Any:
    return right(max(step + value, 0))


@wrong("high-word-of-seed-lost", "masks")
def _low_word(_: Wrong, self: ShardedTrainer, step: int) -> Any:
    return Masks(self.case.seed & 0xFFFFFFFF, step)


@wrong("masks-by-row", "step")
@wrong("masks-by-row", "gradients")
def _by_row(right: Wrong, _: ShardedTrainer, batch: HostBatch) -> Any:
    return right(batch._replace(example_ids=np.arange(len(batch.weights), dtype=np.uint32)))


@wrong("masks-by-row-of-the-shard", "shards")
def _by_row_of_shard(right: Wrong, _: ShardedTrainer, batch: HostBatch) -> list[HostBatch]:
    return [one._replace(example_ids=np.arange(len(one.weights), dtype=np.uint32)) for one in right(batch)]


def _other_rates(entry: str, rates: Callable[[Case], dict[str, Any]]) -> None:
    @wrong(entry, "start")
    def _start(right: Wrong, _: ShardedTrainer, case: Case, *rest: Any) -> None:
        right(dataclasses.replace(case, **rates(case)), *rest)


_other_rates("hidden-rate-for-the-classifier", lambda case: {"classifier_dropout": case.hidden_dropout})
_other_rates(
    "rates-exchanged",
    lambda case: {"hidden_dropout": case.attention_dropout, "attention_dropout": case.hidden_dropout},
)


class _Kept(Masks):
    """Masks whose factors are 0 and 1."""

    def factors(self, rate: float, site: int, counter: tuple[Words, Words], axis: int) -> Factors:
        """As those of `Masks`, without the division."""
        return (super().factors(rate, site, counter, axis) > 0).astype(float)


@wrong("dropout-not-rescaled", "masks")
def _kept(_: Wrong, self: ShardedTrainer, step: int) -> Any:
    return _Kept(self.case.seed, step)


class _OfLayer0(Masks):
    """Masks of which each layer has those of the first one."""

    def factors(self, rate: float, site: int, counter: tuple[Words, Words], axis: int) -> Factors:
        """As those of `Masks`, for the same purpose in layer 0."""
        return super().factors(rate, site % SITES_PER_LAYER, counter, axis)


class _Complement(Masks):
    """Masks whose rate is the probability of being kept."""

    def factors(self, rate: float, site: int, counter: tuple[Words, Words], axis: int) -> Factors:
        """As those of `Masks`, for the rate 1 - rate."""
        return super().factors(1 - rate, site, counter, axis)


for _entry, _kind in (("masks-of-layer-0", _OfLayer0), ("rates-complemented", _Complement)):

    @wrong(_entry, "masks")
    def _other(_: Wrong, self: ShardedTrainer, step: int, *, kind: type[Masks] = _kind) -> Any:
        return kind(self.case.seed, step)


@wrong("seed-ignored", "masks")
def _of_seed(_: Wrong, __: ShardedTrainer, step: int, *, value: str) -> Any:
    return Masks(int(value), step)


@wrong("dropout-in-evaluation", "evaluate")
def _evaluated_with_masks(_: Wrong, self: ShardedTrainer, batch: HostBatch) -> Array:
    return self.forward(self.network(batch, self.masks(self.t)))[0]


# The loss of one example: -> losses [B] and their derivative by the logits [B, C].


@wrong("label-smoothing", "losses")
def _smoothed(right: Wrong, self: ShardedTrainer, logits: Array, batch: HostBatch, *, value: float) -> Losses:
    """(1 - a) CE(label) + a mean over classes CE(class); Szegedy et al. (2016)."""
    losses, slopes = right(logits, batch)
    classes = range(self.case.num_labels)
    others = [right(logits, batch._replace(labels=np.full_like(batch.labels, label))) for label in classes]
    mean = [sum(one[part] for one in others) / len(others) for part in (0, 1)]
    return (1 - value) * losses + value * mean[0], (1 - value) * slopes + value * mean[1]


@wrong("loss-by-sigmoid", "losses")
def _by_sigmoid(_: Wrong, self: ShardedTrainer, logits: Array, batch: HostBatch, *, value: str) -> Losses:
    """Sum or mean over classes of log(1 + exp(x)) - y x, y 1 at the label."""
    hot = np.eye(self.case.num_labels)[batch.labels.astype(int)]
    share = 1.0 if value == "summed over" else 1 / self.case.num_labels
    return share * (np.logaddexp(0, logits) - hot * logits).sum(axis=1), share * (1 / (1 + np.exp(-logits)) - hot)


@wrong("half-squared-error", "losses")
def _half(right: Wrong, _: ShardedTrainer, logits: Array, batch: HostBatch) -> Losses:
    losses, slopes = right(logits, batch)
    return losses / 2, slopes / 2


@wrong("absolute-error", "losses")
def _absolute(right: Wrong, _: ShardedTrainer, logits: Array, batch: HostBatch) -> Losses:
    losses, slopes = right(logits, batch)
    return np.sqrt(losses), np.sign(slopes)


def _of_labels(entry: str, change: Callable[..., Array]) -> None:
    """The labels are changed: (labels, case) -> labels."""

    @wrong(entry, "losses")
    def _losses(right: Wrong, self: ShardedTrainer, logits: Array, batch: HostBatch, **value: Any) -> Losses:
        return right(logits, batch._replace(labels=change(batch.labels, self.case, **value)))


def _whole(labels: Array, _: Case, *, value: str) -> Array:
    return labels.astype(np.int32) if value == "cut off" else np.round(labels)


def _mapped(labels: Array, case: Case, *, value: str) -> Array:
    most, whole = case.num_labels - 1, labels.astype(int)
    if value in ("next", "last"):
        return (whole + (1 if value == "next" else most)) % case.num_labels
    one, other = (min(int(number), most) for number in value.split(" and "))
    return np.where(whole == one, other, np.where(whole == other, one, whole))


_of_labels("labels-cast-to-int", _whole)
_of_labels("labels-exchanged", _mapped)
_of_labels("labels-replaced", lambda labels, _, value: labels * 0 + int(value))
_of_labels("labels-above-1-are-1", lambda labels, _: np.minimum(labels, 1))
_of_labels("labels-scaled", lambda labels, _, value: labels * value)


@wrong("softmax-twice", "losses")
def _twice(right: Wrong, _: ShardedTrainer, logits: Array, batch: HostBatch) -> Losses:
    p, back = softmax(logits)
    losses, slopes = right(p, batch)
    return losses, back(slopes)


@wrong("softmax-left-out", "losses")
def _no_softmax(_: Wrong, self: ShardedTrainer, logits: Array, batch: HostBatch) -> Losses:
    hot = np.eye(self.case.num_labels)[batch.labels.astype(int)]
    return -(hot * logits).sum(axis=1), -hot


@wrong("focal-loss", "losses")
def _focal(right: Wrong, _: ShardedTrainer, logits: Array, batch: HostBatch, *, value: float) -> Losses:
    """(1 - p)^gamma times the loss -log p; Lin et al. (2017)."""
    losses, slopes = right(logits, batch)
    p = np.exp(-losses)
    share = (1 - p) ** value
    return share * losses, (share + value * (1 - p) ** (value - 1) * p * losses)[:, None] * slopes


@wrong("logits-scaled-in-the-loss", "losses")
def _tempered(right: Wrong, _: ShardedTrainer, logits: Array, batch: HostBatch, *, value: float) -> Losses:
    losses, slopes = right(value * logits, batch)
    return losses, value * slopes


@wrong("z-loss", "losses")
def _z_loss(right: Wrong, _: ShardedTrainer, logits: Array, batch: HostBatch, *, value: float) -> Losses:
    """The loss and value * log(sum(exp(logits)))^2."""
    losses, slopes = right(logits, batch)
    top = logits.max(axis=1)
    log_z = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return losses + value * log_z**2, slopes + 2 * value * log_z[:, None] * softmax(logits)[0]


@wrong("smooth-absolute-error", "losses")
def _smooth(_: Wrong, __: ShardedTrainer, logits: Array, batch: HostBatch) -> Losses:
    """e^2 / 2 for errors below 1, |e| - 1/2 above; Huber (1964), `SmoothL1Loss` of PyTorch."""
    error = logits - batch.labels.astype(float)[:, None]
    near = np.abs(error) < 1
    return np.where(near, error**2 / 2, np.abs(error) - 0.5)[:, 0], np.where(near, error, np.sign(error))


@wrong("errors-of-all-pairs", "sums")
def _broadcast(right: Wrong, self: ShardedTrainer, batch: HostBatch) -> Any:
    self.notes["real"] = batch.weights > 0
    return right(batch)


@wrong("errors-of-all-pairs", "losses")
def _all_pairs(_: Wrong, self: ShardedTrainer, logits: Array, batch: HostBatch) -> Losses:
    """Outputs [B, 1] minus labels [B] is [B, B]: each output is compared with the labels of all rows of its device."""
    error = logits - batch.labels[self.notes["real"]].astype(float)
    return (error**2).mean(axis=1), 2 * error.mean(axis=1, keepdims=True)


# A term w / 2 p^2 in the loss, of the leaves that decay or of all.


@wrong("squares-in-the-loss", "mean")
def _squares(right: Wrong, self: ShardedTrainer, batch: HostBatch, *, value: str) -> tuple[float, Params]:
    loss, gradients = right(batch)
    leaves = [name for name in gradients if "all leaves" in value or decays(name)]
    more = self.case.weight_decay * sum(float((self.now[name] ** 2).sum()) for name in leaves) / 2
    add = {name: gradients[name] + self.case.weight_decay * self.now[name] for name in leaves}
    return loss + more, gradients | add


@wrong("squares-in-the-loss", "decays")
def _besides(right: Wrong, _: ShardedTrainer, name: str, *, value: str) -> bool:
    return "besides" in value and bool(right(name))
