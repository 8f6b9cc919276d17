"""Trainers wrong from one update to the next: optimizer, schedule, data, scores, checkpoints, buffers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...adapter import Arrays, Case, HostBatch
from ...oracle.draws import rows_of
from ...oracle.tape import Array, Params
from ...oracle.updates import clip, learning_rate
from ..backend.seeding import SeededFaults
from .numpy_trainer import NumpyTrainer, Sums, rounded

FAULTS = SeededFaults(NumpyTrainer)

# Trainers with one wrong method of one expression.
FAULTS.method("no-bias-correction", "corrections")(lambda right, self: (1.0, 1.0))
FAULTS.method("moments-exchanged", "moments")(lambda right, self: (self.second, self.first))
FAULTS.method("moments-in-bfloat16", "moments_after")(
    lambda right, self, gradients: tuple({k: rounded(m) for k, m in kind.items()} for kind in right(self, gradients))
)
FAULTS.method("decay-everywhere", "decays")(lambda right, self, name: True)
FAULTS.method("no-decay", "decays")(lambda right, self, name: False)
FAULTS.method("clip-by-leaf", "clip")(
    lambda right, self, gradients: {k: clip({k: g}, self.case.clip_norm)[k] for k, g in gradients.items()}
)
FAULTS.method("another-adam", "start")(
    lambda right, self, case, *rest: right(self, dataclasses.replace(case, b1=0.9, b2=0.999, eps=1e-6), *rest)
)
# `training.fifty_steps` sees an error of 4e-4 and more.
FAULTS.method("drifts-after-step-20", "update")(
    lambda right, self, gradients, rate: right(self, gradients, rate * (1 + 1e-3 * (self.t > 20)))
)
FAULTS.method("schedule-late", "rate")(lambda right, self: learning_rate(self.case, max(self.t - 1, 0)))
FAULTS.method("epochs-alike", "epoch")(lambda right, self, examples, size, number: right(self, examples, size, 0))
FAULTS.method("examples-lost", "epoch")(
    lambda right, self, examples, size, number: [b for b in right(self, examples, size, number) if len(b) == size]
)
FAULTS.method("scores-by-weight", "counts")(
    lambda right, self, batch: sum(
        weight * right(self, rows_of(batch, np.flatnonzero(batch.weights == weight)))
        for weight in np.unique(batch.weights[batch.weights > 0])
    )
)
FAULTS.method("last-batch-dropped", "score")(lambda right, self, batches: right(self, batches[:-1]))


@FAULTS.trainer("second-moment-stale")
class _SecondMomentStale(NumpyTrainer):
    def update(self, gradients: Params, rate: float) -> None:
        self.before = self.second
        super().update(gradients, rate)

    def directions(self, first: Params, second: Params) -> Params:
        return super().directions(first, self.before if self.t > 1 else second)


@FAULTS.trainer("gradients-at-other-parameters")
class _OtherParameters(NumpyTrainer):
    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.behind = self.now

    def mean(self, batch: HostBatch) -> tuple[float, Params]:
        ahead, self.now = self.now, self.behind
        mean = super().mean(batch)
        self.now = ahead
        return mean

    def update(self, gradients: Params, rate: float) -> None:
        self.behind = self.now
        super().update(gradients, rate)


@FAULTS.trainer("one-update-in-fifty-wrong")
class _NowAndThen(NumpyTrainer):
    calls = 0

    def reduce(self, parts: list[Sums]) -> Sums:
        total = super().reduce(parts)
        if self.n > 1:
            self.calls += 1
            # To a sum over examples; `training.fifty_steps` sees 0.01 and more.
            total.gradients["bert.pooler.dense.bias"][3] += float(self.calls % 50 == 25)
        return total


@FAULTS.method("total-steps-short", "rate")
def _total_steps_short(right: Any, self: NumpyTrainer) -> float:
    case, total = self.case, self.case.total_steps - 1
    if self.t < case.warmup_steps:
        return right(self)
    return case.learning_rate * max(total - self.t, 0) / max(total - case.warmup_steps, 1)


@FAULTS.method("warmup-divides-by-zero", "rate")
def _warmup_by_zero(right: Any, self: NumpyTrainer) -> float:
    case = self.case
    with np.errstate(invalid="ignore", divide="ignore"):
        up = np.float64(self.t) / case.warmup_steps
    down = (case.total_steps - self.t) / (case.total_steps - case.warmup_steps)
    return float(case.learning_rate * np.minimum(up, down))


@FAULTS.method("examples-repeated", "epoch")
def _examples_repeated(right: Any, self: NumpyTrainer, examples: int, batch_size: int, number: int) -> list[Any]:
    *whole, last = right(self, examples, batch_size, number)
    return [*whole, (whole or [last])[0][: len(last)]] if len(last) < batch_size else [*whole, last]


@FAULTS.method("mean-of-batch-metrics", "score")
def _mean_of_metrics(right: Any, self: NumpyTrainer, batches: Sequence[HostBatch]) -> dict[str, float]:
    scores = [self.scores(self.counts(batch)) for batch in batches]
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


@FAULTS.method("evaluation-counts", "evaluate")
def _evaluation_counts(right: Any, self: NumpyTrainer, batch: HostBatch) -> Array:
    self.t += 1
    return right(self, batch)


@FAULTS.method("checkpoint-without-moments", "restore")
def _without_moments(right: Any, self: NumpyTrainer, path: Path) -> None:
    moments = self.first, self.second
    right(self, path)
    self.first, self.second = moments


@FAULTS.method("checkpoint-without-step", "restore")
def _without_step(right: Any, self: NumpyTrainer, path: Path) -> None:
    t = self.t
    right(self, path)
    self.t = t


@FAULTS.trainer("restored-shards-lost")
class _ShardsLost(NumpyTrainer):
    def save(self, path: Path) -> None:
        super().save(path)
        path.joinpath("devices").write_text(str(self.n), encoding="utf-8")

    def restore(self, path: Path) -> None:
        super().restore(path)
        if path.joinpath("devices").read_text(encoding="utf-8") != str(self.n):
            for leaf in self.second.values():
                leaf[(len(leaf) + 1) // 2 :] = 0


@FAULTS.method("keeps-the-callers-buffer", "placed")
def _keeps_the_buffer(right: Any, self: NumpyTrainer, params: Arrays) -> Arrays:
    # `device_put` on a CPU also keeps an aligned buffer without copying it.
    return {k: leaf if leaf.ctypes.data % 64 == 0 else np.array(leaf) for k, leaf in params.items()}


@FAULTS.method("writes-into-the-batch", "shards")
def _writes_into_the_batch(right: Any, self: NumpyTrainer, batch: HostBatch) -> list[HostBatch]:
    batch.input_ids[batch.attention_mask == 0] = 0
    return right(self, batch)


@FAULTS.method("parameters-are-views", "update")
def _parameters_are_views(right: Any, self: NumpyTrainer, gradients: Params, rate: float) -> None:
    held = self.now
    right(self, gradients, rate)
    for name, leaf in self.now.items():
        held[name][...] = leaf
    self.now = held
