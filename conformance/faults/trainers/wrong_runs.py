"""Trainers wrong from one update to the next: optimizer, schedule, data, scores, checkpoints, buffers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...adapter import Arrays, Case, HostBatch
from ...oracle.model import Array, Params
from ...oracle.updates import clip, learning_rate
from ..backend.seeding import WrongTrainers
from .numpy_trainer import NumpyTrainer, Sums, rounded

wrong = WrongTrainers(NumpyTrainer, "numpy")

# Trainers with one wrong method of one expression.
wrong.method("no-bias-correction", "corrections", lambda right, self: (1.0, 1.0))
wrong.method("moments-exchanged", "moments", lambda right, self: (self.second, self.first))
wrong.method("decay-everywhere", "decays", lambda right, self, name: True)
wrong.method("no-decay", "decays", lambda right, self, name: False)
wrong.method("schedule-late", "rate", lambda right, self: learning_rate(self.case, max(self.t - 1, 0)))
wrong.method("epochs-alike", "epoch", lambda right, self, examples, size, number: right(self, examples, size, 0))
wrong.method("last-batch-dropped", "score", lambda right, self, batches: right(self, batches[:-1]))


# The optimizer.


@wrong("another-adam")
class _AnotherAdam(NumpyTrainer):
    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(dataclasses.replace(case, b1=0.9, b2=0.999, eps=1e-6), params, n_devices)


@wrong("clip-by-leaf")
class _ClipByLeaf(NumpyTrainer):
    def clip(self, gradients: Params) -> Params:
        return {name: clip({name: leaf}, self.case.clip_norm)[name] for name, leaf in gradients.items()}


@wrong("second-moment-stale")
class _SecondMomentStale(NumpyTrainer):
    def update(self, gradients: Params, rate: float) -> None:
        self.before = self.second
        super().update(gradients, rate)

    def directions(self, first: Params, second: Params) -> Params:
        return super().directions(first, self.before if self.t > 1 else second)


@wrong("moments-in-bfloat16")
class _MomentsInBfloat16(NumpyTrainer):
    def moments_after(self, gradients: Params) -> tuple[Params, Params]:
        first, second = super().moments_after(gradients)
        return {k: rounded(m) for k, m in first.items()}, {k: rounded(v) for k, v in second.items()}


@wrong("gradients-at-other-parameters")
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


@wrong("drifts-after-step-20")
class _Drifts(NumpyTrainer):
    # `training.fifty_steps` sees 4e-4 and more.
    off = 1e-3

    def update(self, gradients: Params, rate: float) -> None:
        super().update(gradients, rate * (1 + self.off) if self.t > 20 else rate)


@wrong("one-update-in-fifty-wrong")
class _NowAndThen(NumpyTrainer):
    calls = 0
    # Added to a sum over examples; `training.fifty_steps` sees 0.01 and more.
    garbage = 1.0

    def reduce(self, parts: list[Sums]) -> Sums:
        total = super().reduce(parts)
        if self.n > 1:
            self.calls += 1
            total.gradients["bert.pooler.dense.bias"][3] += self.garbage * (self.calls % 50 == 25)
        return total


# The schedule.


@wrong("total-steps-short")
class _TotalStepsShort(NumpyTrainer):
    def rate(self) -> float:
        case, total = self.case, self.case.total_steps - 1
        if self.t < case.warmup_steps:
            return super().rate()
        return case.learning_rate * max(total - self.t, 0) / max(total - case.warmup_steps, 1)


@wrong("warmup-divides-by-zero")
class _WarmupByZero(NumpyTrainer):
    def rate(self) -> float:
        case = self.case
        with np.errstate(invalid="ignore", divide="ignore"):
            up = np.float64(self.t) / case.warmup_steps
        down = (case.total_steps - self.t) / (case.total_steps - case.warmup_steps)
        return float(case.learning_rate * np.minimum(up, down))


# Data and scores.


@wrong("examples-lost")
class _ExamplesLost(NumpyTrainer):
    def epoch(self, examples: int, batch_size: int, number: int) -> list[Any]:
        return [batch for batch in super().epoch(examples, batch_size, number) if len(batch) == batch_size]


@wrong("examples-repeated")
class _ExamplesRepeated(NumpyTrainer):
    def epoch(self, examples: int, batch_size: int, number: int) -> list[Any]:
        *whole, last = super().epoch(examples, batch_size, number)
        return [*whole, (whole or [last])[0][: len(last)]] if len(last) < batch_size else [*whole, last]


@wrong("mean-of-batch-metrics")
class _MeanOfMetrics(NumpyTrainer):
    def score(self, batches: Sequence[HostBatch]) -> dict[str, float]:
        scores = [self.scores(self.counts(batch)) for batch in batches]
        return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


@wrong("evaluation-counts")
class _EvaluationCounts(NumpyTrainer):
    def evaluate(self, batch: HostBatch) -> Array:
        self.t += 1
        return super().evaluate(batch)


# Checkpoints.


@wrong("checkpoint-without-moments")
class _WithoutMoments(NumpyTrainer):
    def restore(self, path: Path) -> None:
        moments = self.first, self.second
        super().restore(path)
        self.first, self.second = moments


@wrong("checkpoint-without-step")
class _WithoutStep(NumpyTrainer):
    def restore(self, path: Path) -> None:
        t = self.t
        super().restore(path)
        self.t = t


@wrong("restored-shards-lost")
class _ShardsLost(NumpyTrainer):
    def save(self, path: Path) -> None:
        super().save(path)
        path.joinpath("devices").write_text(str(self.n), encoding="utf-8")

    def restore(self, path: Path) -> None:
        super().restore(path)
        if path.joinpath("devices").read_text(encoding="utf-8") != str(self.n):
            self.second = {name: first_half(leaf) for name, leaf in self.second.items()}


def first_half(leaf: Array) -> Array:
    """The leaf with zeros in the second half of its first axis."""
    rows = np.arange(len(leaf)).reshape(-1, *[1] * (leaf.ndim - 1))
    return np.where(2 * rows < len(leaf), leaf, 0)


# Buffers shared with the caller.


@wrong("keeps-the-callers-buffer")
class _KeepsTheBuffer(NumpyTrainer):
    def placed(self, params: Arrays) -> Params:
        # `device_put` on a CPU also keeps an aligned buffer without copying it.
        return {k: leaf if leaf.ctypes.data % 64 == 0 else np.array(leaf) for k, leaf in params.items()}


@wrong("writes-into-the-batch")
class _WritesIntoTheBatch(NumpyTrainer):
    def shards(self, batch: HostBatch) -> list[HostBatch]:
        batch.input_ids[batch.attention_mask == 0] = 0
        return super().shards(batch)


@wrong("parameters-are-views")
class _ParametersAreViews(NumpyTrainer):
    def update(self, gradients: Params, rate: float) -> None:
        held = self.now
        super().update(gradients, rate)
        for name, leaf in self.now.items():
            held[name][...] = leaf
        self.now = held
