"""Variants of dropout, and of the loss of one example."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ...adapter import Case, HostBatch
from ..masks import Factors, Masks, Words
from ..model import Array
from ..sharded import ShardedTrainer
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


@wrong("labels-cast-to-int", "losses")
def _whole(right: Wrong, _: ShardedTrainer, logits: Array, batch: HostBatch) -> Losses:
    return right(logits, batch._replace(labels=batch.labels.astype(np.int32)))
