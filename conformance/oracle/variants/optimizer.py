"""Variants of the optimizer: constants, clipping, Adam, decay."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...adapter import Arrays, Case
from ..sharded import ShardedTrainer, Sums
from ..tape import Params
from ..updates import clip, decays, norm_of
from .table import Wrong, wrong

# What a text calls these leaves -> parts of their names.
LEAVES = {
    "embeddings": ("_embeddings.",), "word embeddings": ("word_embeddings.",), "biases": (".bias",),
    "LayerNorm parameters": ("LayerNorm.",), "leaves that do not decay": (".bias", "LayerNorm."),
    "head": ("classifier.", "pooler."),
}  # fmt: skip


def constants(entry: str, of: Callable[..., dict[str, Any]]) -> None:
    """Constants of the case are replaced by those of `of(case)`."""

    @wrong(entry, "start")
    def _start(right: Wrong, _: ShardedTrainer, case: Case, *rest: Any, **value: Any) -> None:
        right(dataclasses.replace(case, **of(case, **value)), *rest)


def among(name: str, kind: str) -> bool:
    """Whether a leaf is of a kind of `LEAVES`."""
    return any(part in name for part in LEAVES[kind])


# Clipping.

BY_DEFAULT = {"b1": 0.9, "b2": 0.999}
TOTALS: dict[str, Callable[[Case], int]] = {
    "longer by the warm-up": lambda case: case.total_steps + case.warmup_steps,
    "shorter by the warm-up": lambda case: max(case.total_steps - case.warmup_steps, case.warmup_steps + 1),
    "longer by a factor, the number of micro-batches": lambda case: case.total_steps * case.accumulate,
    "shorter by a factor, the number of micro-batches": lambda case: max(
        case.total_steps // case.accumulate, case.warmup_steps + 1
    ),
}
constants("not-clipped", lambda _: {"clip_norm": None})
constants("clipped-at", lambda _, value: {"clip_norm": value})
constants("adam-by-default", lambda _: BY_DEFAULT)
constants("adam-by-default-with-epsilon", lambda _, value: BY_DEFAULT | {"eps": value})
constants("adam-by-default-not-clipped", lambda _, value: BY_DEFAULT | {"eps": value, "clip_norm": None})
constants("constants-exchanged", lambda case: {"b1": case.b2, "b2": case.b1})
constants("epsilon-left-out", lambda _: {"eps": 0.0})
constants("total-steps-differ", lambda case, value: {"total_steps": TOTALS[value](case)})
constants("total-steps", lambda case, value: {"total_steps": max(case.total_steps + value, 1)})
constants("warmup-steps", lambda case, value: {"warmup_steps": max(case.warmup_steps + value, 0)})
constants("no-warmup", lambda _: {"warmup_steps": 0})


def _clipping(entry: str) -> Callable[[Callable[..., Params]], None]:
    """The decorated function clips to a limit: (gradients, limit) -> gradients; without a limit nothing is clipped."""

    def add(function: Callable[..., Params]) -> None:
        @wrong(entry, "clip")
        def _clip(_: Wrong, self: ShardedTrainer, gradients: Params, **value: Any) -> Params:
            most = self.case.clip_norm
            return gradients if most is None else function(gradients, most, **value)

    return add


def _by_norm(gradients: Params, most: float, norm: float) -> Params:
    # Gradients of zero, which another variant can give, are not divided by zero.
    return {name: leaf * min(1.0, most / (norm or most)) for name, leaf in gradients.items()}


@_clipping("clipped-by-leaf")
def _by_leaf(gradients: Params, most: float) -> Params:
    return {name: clip({name: leaf}, most)[name] for name, leaf in gradients.items()}


@_clipping("clipped-by-value")
def _by_value(gradients: Params, most: float) -> Params:
    return {name: leaf.clip(-most, most) for name, leaf in gradients.items()}


@_clipping("normalised")
def _normalised(gradients: Params, most: float) -> Params:
    return {name: leaf * (most / (norm_of(gradients) or most)) for name, leaf in gradients.items()}


@_clipping("norm-leaves-out")
def _norm_without(gradients: Params, most: float, *, value: str) -> Params:
    return _by_norm(gradients, most, norm_of({k: leaf for k, leaf in gradients.items() if not among(k, value)}))


@_clipping("another-norm")
def _another_norm(gradients: Params, most: float, *, value: str) -> Params:
    sizes = [np.abs(leaf) for leaf in gradients.values()]
    norms = {"largest magnitude": max(float(one.max()) for one in sizes), "sum": sum(float(one.sum()) for one in sizes)}
    return _by_norm(gradients, most, norms[value])


@_clipping("squared-norm")
def _squared_norm(gradients: Params, most: float) -> Params:
    return _by_norm(gradients, most, norm_of(gradients) ** 2)


@wrong("norm-of-each-device", "reduce")
def _own_factor(right: Wrong, self: ShardedTrainer, parts: list[Sums]) -> Sums:
    self.notes["own_norm"] = norm_of(parts[0].mean().gradients)
    return right(parts)


@wrong("norm-of-each-device", "clip")
def _by_own_norm(_: Wrong, self: ShardedTrainer, gradients: Params) -> Params:
    most = self.case.clip_norm
    return (
        gradients if most is None or not self.notes["own_norm"] else _by_norm(gradients, most, self.notes["own_norm"])
    )


# Adam.


@wrong("epsilon-in-the-root", "directions")
def _in_root(_: Wrong, self: ShardedTrainer, first: Params, second: Params) -> Params:
    one, two = self.corrections()
    return {name: m / one / np.sqrt(second[name] / two + self.case.eps) for name, m in first.items()}


@wrong("epsilon-before-correction", "directions")
def _before_correction(_: Wrong, self: ShardedTrainer, first: Params, second: Params) -> Params:
    one, two = self.corrections()
    return {name: m / one * math.sqrt(two) / (np.sqrt(second[name]) + self.case.eps) for name, m in first.items()}


def _corrections(entry: str, of: Callable[..., tuple[float, float]]) -> None:
    """The bias corrections are those of `of(trainer, right first, right second)`."""

    @wrong(entry, "corrections")
    def _wrong(right: Wrong, self: ShardedTrainer, **value: Any) -> tuple[float, float]:
        return of(self, *right(), **value)


def _at(self: ShardedTrainer, t: int) -> tuple[float, float]:
    return 1 - self.case.b1**t, 1 - self.case.b2**t


_corrections("no-bias-correction", lambda *_: (1.0, 1.0))
_corrections("first-moment-not-corrected", lambda _, __, two: (1.0, two))
_corrections("second-moment-not-corrected", lambda _, one, __: (one, 1.0))
_corrections("bias-correction-by-micro-batch", lambda self, *_: _at(self, self.t * self.case.accumulate))
_corrections("bias-correction-shifted", lambda self, *_, value: _at(self, self.t + value - 1))
_corrections("corrected-alike", lambda _, one, two, value: (one, one) if value == "b1" else (two, two))
_corrections("bias-correction-late", lambda self, *_: _at(self, max(self.t - 1, 1)))


@wrong("amsgrad", "directions")
def _largest_second(right: Wrong, self: ShardedTrainer, first: Params, second: Params) -> Params:
    """The largest second moment so far is used; Reddi et al. (2018), as `torch.optim.Adam(amsgrad=True)`."""
    before = self.notes.get("largest", second)
    self.notes["largest"] = {name: np.maximum(leaf, before[name]) for name, leaf in second.items()}
    return right(first, self.notes["largest"])


@wrong("step-clipped", "clip")
def _not_before(_: Wrong, __: ShardedTrainer, gradients: Params) -> Params:
    return gradients


@wrong("step-clipped", "directions")
def _step_clipped(right: Wrong, self: ShardedTrainer, *moments: Params) -> Params:
    return clip(right(*moments), self.case.clip_norm)


@wrong("second-moment-stale", "directions")
def _stale_second(right: Wrong, self: ShardedTrainer, first: Params, second: Params) -> Params:
    before = self.notes.get("second_before") or second
    self.notes["second_before"] = second
    return right(first, before)


@wrong("nesterov", "moments_after")
def _keep_gradients(right: Wrong, self: ShardedTrainer, gradients: Params) -> tuple[Params, Params]:
    self.notes["gradients_now"] = gradients
    return right(gradients)


@wrong("nesterov", "directions")
def _nesterov(_: Wrong, self: ShardedTrainer, first: Params, second: Params) -> Params:
    """As Keras and `optax.nadam`: b1 m / (1 - b1^(t + 1)) + (1 - b1) g / (1 - b1^t) in place of m / (1 - b1^t)."""
    b1, (one, two) = self.case.b1, self.corrections()
    later = 1 - b1 ** (self.t + 1)
    ahead = {name: b1 * m / later + (1 - b1) * self.notes["gradients_now"][name] / one for name, m in first.items()}
    return {name: m / (np.sqrt(second[name] / two) + self.case.eps) for name, m in ahead.items()}


@wrong("second-moment-of-the-unclipped", "clip")
def _keep_unclipped(right: Wrong, self: ShardedTrainer, gradients: Params) -> Params:
    self.notes["unclipped"] = gradients
    return right(gradients)


@wrong("second-moment-of-the-unclipped", "moments_after")
def _of_unclipped(right: Wrong, self: ShardedTrainer, gradients: Params) -> tuple[Params, Params]:
    return right(gradients)[0], right(self.notes["unclipped"])[1]


@wrong("sgd", "moments_after")
def _plain(right: Wrong, self: ShardedTrainer, gradients: Params) -> tuple[Params, Params]:
    self.notes["gradients_now"] = gradients
    return right(gradients)


@wrong("sgd", "directions")
def _gradient(_: Wrong, self: ShardedTrainer, *__: Params) -> Params:
    return self.notes["gradients_now"]


@wrong("moments-exchanged", "moments")
def _exchanged(_: Wrong, self: ShardedTrainer) -> tuple[Arrays, Arrays]:
    return self.second, self.first


@wrong("moments-reset", "moments_after")
def _reset(right: Wrong, self: ShardedTrainer, gradients: Params) -> tuple[Params, Params]:
    self.first, self.second = ({name: leaf * 0 for name, leaf in kind.items()} for kind in (self.first, self.second))
    return right(gradients)


# Decay.


def _decaying(entry: str, rule: Callable[[str], bool]) -> None:
    @wrong(entry, "decays")
    def _decays(_: Wrong, __: ShardedTrainer, name: str) -> bool:
        return rule(name)


_decaying("decay-everywhere", lambda _: True)
_decaying("no-decay", lambda _: False)
_decaying("decay-inverted", lambda name: not decays(name))
_decaying("decay-of-layer-norm", lambda name: not name.endswith(".bias"))
_decaying("decay-of-biases", lambda name: not name.endswith("LayerNorm.weight"))
_decaying("embeddings-do-not-decay", lambda name: decays(name) and "_embeddings." not in name)
_decaying("head-does-not-decay", lambda name: decays(name) and not name.startswith("classifier."))


@wrong("decay-by-micro-batch", "start")
def _decay_times(right: Wrong, _: ShardedTrainer, case: Case, *rest: Any) -> None:
    right(dataclasses.replace(case, weight_decay=case.weight_decay * case.accumulate), *rest)


def _with_decay(self: ShardedTrainer, gradients: Params) -> Params:
    return {k: g + self.case.weight_decay * self.now[k] * decays(k) for k, g in gradients.items()}


@wrong("decay-in-the-gradient", "decays")
def _elsewhere(*_: Any, value: str) -> bool:
    return False


@wrong("decay-in-the-gradient", "clip")
def _coupled(right: Wrong, self: ShardedTrainer, gradients: Params, *, value: str) -> Params:
    return right(_with_decay(self, gradients)) if value == "before" else _with_decay(self, right(gradients))


def _decay(entry: str, rest: Callable[[ShardedTrainer, Params, Params, float], Params]) -> None:
    """`rest` gets the parameters before the update and those of an update without decay, and decays them."""

    @wrong(entry, "decays")
    def _none(right: Wrong, self: ShardedTrainer, name: str) -> bool:
        return False

    @wrong(entry, "update")
    def _update(right: Wrong, self: ShardedTrainer, gradients: Params, rate: float) -> None:
        before = self.now
        right(gradients, rate)
        self.now = rest(self, before, self.now, rate)


def _decayed(before: Params, after: Params, factor: float) -> Params:
    return {k: p - factor * before[k] * decays(k) for k, p in after.items()}


def _towards(self: ShardedTrainer, before: Params, after: Params, rate: float) -> Params:
    start, by = self.notes.setdefault("began", before), rate * self.case.weight_decay
    return {k: p - by * (before[k] - start[k]) * decays(k) for k, p in after.items()}


_decay("decay-without-rate", lambda self, before, after, _: _decayed(before, after, self.case.weight_decay))
_decay(
    "decay-at-the-peak-rate",
    lambda self, before, after, _: _decayed(before, after, self.case.weight_decay * self.case.learning_rate),
)
_decay("decay-towards-the-start", _towards)
_decay("decay-after-the-step", lambda self, _, after, rate: _decayed(after, after, rate * self.case.weight_decay))
