"""Variants of a run: schedule, state that is carried from update to update, evaluation, precision of what is kept."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...adapter import Arrays, Case, HostBatch, StepResult
from ..sharded import ShardedTrainer, Sums, rounded
from ..tape import Array, Params, softmax
from ..updates import learning_rate
from .optimizer import among
from .table import Wrong, noting, wrong


def _rate(entry: str, of: Callable[..., float]) -> None:
    """The learning rate of update t is `of(case, t)`."""

    @wrong(entry, "rate")
    def _of_update(_: Wrong, self: ShardedTrainer, **value: Any) -> float:
        return of(self.case, self.t, **value)


def _shifted(case: Case, t: int, *, value: int) -> float:
    return learning_rate(case, max(t + value, 0))


def _cosine(case: Case, t: int) -> float:
    if t < case.warmup_steps:
        return learning_rate(case, t)
    share = min((t - case.warmup_steps) / max(case.total_steps - case.warmup_steps, 1), 1.0)
    return case.learning_rate * (1 + math.cos(math.pi * share)) / 2


def _by_zero(case: Case, t: int) -> float:
    with np.errstate(all="ignore"):
        up = np.float64(t) / case.warmup_steps
    down = (case.total_steps - t) / max(case.total_steps - case.warmup_steps, 1)
    return float(case.learning_rate * np.minimum(up, down))


def _without_subtraction(case: Case, t: int) -> float:
    down = case.learning_rate * max(case.total_steps - t, 0) / case.total_steps
    return learning_rate(case, t) if t < case.warmup_steps else down


def _from_one(case: Case, t: int) -> float:
    return case.learning_rate * (t + 1) / case.warmup_steps if t < case.warmup_steps else learning_rate(case, t)


def _left(case: Case, t: int) -> float:
    """The share of the time after the warm-up that is left at update t."""
    return max(case.total_steps - t, 0) / max(case.total_steps - case.warmup_steps, 1)


def _after_warmup(entry: str, of: Callable[..., float]) -> None:
    """After the warm-up the rate is the peak times `of(case, t)`."""

    def rate(case: Case, t: int, **value: Any) -> float:
        return learning_rate(case, t) if t < case.warmup_steps else case.learning_rate * of(case, t, **value)

    _rate(entry, rate)


def _all_steps(case: Case, t: int) -> float:
    return max(1 - (t - case.warmup_steps) / case.total_steps, 0.0)


_after_warmup("decay-takes-all-steps", _all_steps)
_after_warmup("schedule-ends-above-0", lambda case, t, value: value + (1 - value) * _left(case, t))
_after_warmup("polynomial", lambda case, t, value: _left(case, t) ** value)
_after_warmup("inverse-root", lambda case, t: math.sqrt(max(case.warmup_steps, 1) / max(t, 1)))
_rate("warmup-from-one", _from_one)
_rate("rate-scaled", lambda case, t, value: value * learning_rate(case, t))
_rate("schedule-stays", lambda case, _: learning_rate(case, 0))
_rate("schedule-shifted", _shifted)
_rate("schedule-by-micro-batch", lambda case, t, value: learning_rate(case, (t + value) * case.accumulate - value))
_rate("warmup-then-constant", lambda case, t: learning_rate(case, min(t, case.warmup_steps)))
_rate("constant-rate", lambda case, _: case.learning_rate)
_rate("warmup-not-subtracted", _without_subtraction)
_rate("cosine", _cosine)
_rate("warmup-divides-by-zero", _by_zero)


@wrong("applied-rate-shifted", "update")
def _applied(right: Wrong, self: ShardedTrainer, gradients: Params, _: float, *, value: int) -> None:
    # The number of the update has been advanced.
    right(gradients, _shifted(self.case, self.t - 1, value=value))


@wrong("applied-rate-constant", "update")
def _applied_peak(right: Wrong, self: ShardedTrainer, gradients: Params, _: float) -> None:
    right(gradients, self.case.learning_rate)


@wrong("applied-rate-scaled", "update")
def _applied_scaled(right: Wrong, self: ShardedTrainer, gradients: Params, rate: float, *, value: float) -> None:
    right(gradients, value * rate)


@wrong("rate-times-devices", "rate")
def _by_devices(right: Wrong, self: ShardedTrainer, *, value: str) -> float:
    return right() * (self.n if value == "the number of devices" else math.sqrt(self.n))


@wrong("schedule-by-device", "rate")
def _of_device(_: Wrong, self: ShardedTrainer) -> float:
    return learning_rate(self.case, self.t * self.n)


@wrong("reported-rate-shifted", "step")
def _reported(right: Wrong, self: ShardedTrainer, batch: HostBatch, *, value: int) -> StepResult:
    return right(batch)._replace(learning_rate=_shifted(self.case, self.t - 1, value=value))


# State.


wrong("stale-parameters", "step")(noting("stepping"))


@wrong("stale-parameters", "mean")
def _mean_at_stale(right: Wrong, self: ShardedTrainer, batch: HostBatch) -> Any:
    ahead = self.now
    if self.notes.get("stepping"):
        self.now = self.notes.get("stale", self.now)
    mean = right(batch)
    self.now = ahead
    if self.notes.get("stepping"):
        self.notes["stale"] = ahead
    return mean


def _loss(entry: str, of: Callable[[ShardedTrainer, list[float], HostBatch], float]) -> None:
    """The reported loss is `of(trainer, right losses so far, batch)`."""

    @wrong(entry, "step")
    def _step(right: Wrong, self: ShardedTrainer, batch: HostBatch) -> StepResult:
        result = right(batch)
        self.notes["losses_so_far"] = [*self.notes.get("losses_so_far", []), result.loss]
        return result._replace(loss=of(self, self.notes["losses_so_far"], batch))


@wrong("gradient-of-the-update-before", "clip")
def _late(right: Wrong, self: ShardedTrainer, gradients: Params, *, value: str) -> Params:
    first = gradients if value == "its own" else {name: leaf * 0 for name, leaf in gradients.items()}
    used, self.notes["late"] = self.notes.get("late", first), gradients
    return right(used)


@wrong("gradient-scaled-in-the-update", "clip")
def _scaled(right: Wrong, _: ShardedTrainer, gradients: Params, *, value: float) -> Params:
    return right({name: value * leaf for name, leaf in gradients.items()})


@wrong("gradients-added-up", "clip")
def _added_up(right: Wrong, self: ShardedTrainer, gradients: Params) -> Params:
    before = self.notes.get("added_up")
    now = gradients if before is None else {name: leaf + before[name] for name, leaf in gradients.items()}
    self.notes["added_up"] = now
    return right(now)


@wrong("two-updates", "step")
def _two(right: Wrong, self: ShardedTrainer, batch: HostBatch, *, value: str) -> StepResult:
    result = right(batch)
    if value == "two updates":
        right(batch)
    else:
        self.update(self.clip(self.mean(batch)[1]), result.learning_rate)
    return result


_loss("loss-of-the-update-before", lambda _, losses, __: losses[-2:][0])
_loss("loss-after-the-update", lambda self, _, batch: self.mean(batch)[0])
_loss("loss-averaged-over-updates", lambda _, losses, __: float(np.mean(losses)))


def _evaluates(entry: str, of: Callable[..., Params]) -> None:
    """Evaluation uses `of(what it used before, parameters before the update, parameters after it)`."""

    @wrong(entry, "update")
    def _update(right: Wrong, self: ShardedTrainer, gradients: Params, rate: float, **value: Any) -> None:
        before = self.now
        right(gradients, rate)
        self.notes["shown"] = of(self.notes.get("shown", before), before, self.now, **value)

    @wrong(entry, "evaluate")
    def _evaluate(right: Wrong, self: ShardedTrainer, batch: HostBatch, **_: Any) -> Array:
        now, self.now = self.now, self.notes.get("shown", self.now)
        logits = right(batch)
        self.now = now
        return logits


def _average(shown: Params, _: Params, now: Params, *, value: float) -> Params:
    return {name: value * leaf + (1 - value) * now[name] for name, leaf in shown.items()}


_evaluates("evaluates-an-average", _average)
_evaluates("evaluates-start", lambda shown, *_: shown)
_evaluates("evaluates-before", lambda _, before, __: before)


@wrong("evaluation-counts", "evaluate")
def _counts(right: Wrong, self: ShardedTrainer, batch: HostBatch) -> Array:
    self.t += 1
    return right(batch)


def _frozen(entry: str, learns: Callable[..., bool]) -> None:
    @wrong(entry, "mean")
    def _mean(right: Wrong, _: ShardedTrainer, batch: HostBatch, **value: Any) -> tuple[float, Params]:
        loss, gradients = right(batch)
        return loss, {name: leaf * learns(name, **value) for name, leaf in gradients.items()}


_frozen("only-the-head-learns", lambda name: among(name, "head"))
_frozen("frozen", lambda name, value: not among(name, value))


# Precision.


def _narrow(leaves: Params, value: str) -> Params:
    return {name: rounded(leaf, value) for name, leaf in leaves.items()}


@wrong("parameters-stored-in", "placed")
def _placed(right: Wrong, _: ShardedTrainer, params: Arrays, *, value: str) -> Params:
    return _narrow(right(params), value)


@wrong("parameters-stored-in", "update")
def _stored(right: Wrong, self: ShardedTrainer, gradients: Params, rate: float, *, value: str) -> None:
    right(gradients, rate)
    self.now = _narrow(self.now, value)


@wrong("moments-stored-in", "moments_after")
def _moments(right: Wrong, _: ShardedTrainer, gradients: Params, *, value: str) -> tuple[Params, ...]:
    return tuple(_narrow(kind, value) for kind in right(gradients))


@wrong("one-moment-stored-in-bfloat16", "moments_after")
def _one_moment(right: Wrong, _: ShardedTrainer, gradients: Params, *, value: str) -> tuple[Params, Params]:
    first, second = right(gradients)
    return (_narrow(first, "bfloat16"), second) if value == "first" else (first, _narrow(second, "bfloat16"))


@wrong("gradients-rounded-to", "mean")
def _rounded_mean(right: Wrong, _: ShardedTrainer, batch: HostBatch, *, value: str) -> tuple[float, Params]:
    loss, gradients = right(batch)
    return loss, _narrow(gradients, value)


@wrong("gradients-sent-in", "reduce")
def _sent(right: Wrong, _: ShardedTrainer, parts: list[Sums], *, value: str) -> Sums:
    return right([part._replace(gradients=_narrow(part.gradients, value)) for part in parts])


@wrong("loss-rounded-to", "step")
def _rounded_loss(right: Wrong, _: ShardedTrainer, batch: HostBatch, *, value: str) -> StepResult:
    result = right(batch)
    return result._replace(loss=float(rounded(np.array(result.loss), value)))


@wrong("evaluation-returns", "evaluate")
def _probabilities(right: Wrong, self: ShardedTrainer, batch: HostBatch, *, value: str) -> Array:
    p = softmax(right(batch))[0]
    return np.log(p) if value == "log-probabilities" else p


@wrong("logits-rounded-to", "evaluate")
def _rounded_logits(right: Wrong, _: ShardedTrainer, batch: HostBatch, *, value: str) -> Array:
    return rounded(right(batch), value)
