"""A run -> the same run with one setting left out, or with other values: still to be made."""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from ....adapter import Case, HostBatch
from ....oracle.cases import NO_DROPOUT
from ....oracle.draws import rows_of, with_weights
from ....oracle.variants.replay import Log
from .made import Calls, simple

Change = Callable[[HostBatch], HostBatch]
# Relative noise of the parameters of a run with other values: more than any rounding, less than what changes a network.
NOISE = 0.1
# Constants -> what they are multiplied by in a run with other values; no result is one of a library's defaults.
OTHERS = {
    "b1": 0.93, "b2": 0.97, "eps": 3.0, "clip_norm": 0.7, "weight_decay": 1.3, "learning_rate": 0.8,
    "layer_norm_eps": 2.0,
}  # fmt: skip
CLASSES = 3
# (warm-up, total) of other schedules, and how many updates are made under them: also past the end.
SCHEDULES, PAST = ((2, 7), (0, 5), (3, 11)), 1


class Simpler(NamedTuple):
    """A run without one setting."""

    place: str  # id of `judge/places.toml`, if the run is right
    what: str  # what is left out, in words
    log: Log  # case, parameters, devices and calls

    @property
    def calls(self) -> Calls:
        """The calls to be made."""
        return simple(self.log)


def changed(log: Log, change: Change = lambda batch: batch, n: int = 0, **fields: Any) -> Log:
    """The run with other batches, on n devices if that is given, and with other fields of its case."""
    calls = [call._replace(batch=None if call.batch is None else change(call.batch)) for call in log.calls]
    return Log(dataclasses.replace(log.case, **fields), log.params, n or log.n, calls)


def without(log: Log) -> Iterator[Simpler]:
    """The run without each of its settings that a simpler run has not."""
    case = log.case
    batches = [call.batch for call in log.calls if call.batch is not None]

    def some(holds: Callable[[HostBatch], Any]) -> bool:
        return any(map(holds, batches))

    if case.regression:
        yield Simpler("labels", "with whole labels", changed(log, _of_whole_labels))
        yield Simpler("regression", f"with {CLASSES} classes", _of_classes(log))
    if some(lambda one: (_legal(one).input_ids != one.input_ids).any()):
        yield Simpler("padding-content", "with padding of id, type and label 0", changed(log, _legal))
    parts = log.n * case.accumulate
    if some(lambda one: len(one.weights) % parts):
        words = "with rows that divide evenly among devices and micro-batches"
        yield Simpler("uneven-rows", words, changed(log, lambda one: _even(one, parts)))
    if case.accumulate > 1:
        yield Simpler(
            "accumulation", "without micro-batches", changed(log, lambda one: _as_uneven(one, log), accumulate=1)
        )
    if case.pack:
        yield Simpler("packing", "without packing", changed(log, pack=False))
    if case.dropout:
        yield Simpler("dropout", "without dropout", changed(log, **NO_DROPOUT))
    if case.precision != "float32":
        yield Simpler("precision", "in float32", changed(log, precision="float32"))
    if log.n > 1:
        yield Simpler("reduction", "on one device", changed(log, n=1))
    if some(lambda one: len(np.unique(one.weights[one.weights > 0])) > 1):
        yield Simpler("weights", "with equal weights", changed(log, _of_equal_weight))
    if some(lambda one: not one.weights.all()):
        yield Simpler("padding-rows", "without padding rows", changed(log, _all_count))
    if some(lambda one: not one.attention_mask.all()):
        yield Simpler("padding", "without padding tokens", changed(log, _full))


def other_values(log: Log, fixed: Collection[str] = ()) -> Log:
    """The run from other parameters, with the labels of other rows, and other constants if they are not `fixed`."""
    case = log.case
    constants = {
        name: getattr(case, name) * by
        for name, by in OTHERS.items()
        if name not in fixed and getattr(case, name) is not None
    }
    rng = np.random.default_rng(1)
    params = {
        name: (leaf * (1 + NOISE * rng.standard_normal(leaf.shape))).astype(np.float32).astype(np.float64)
        for name, leaf in log.params.items()
    }
    return dataclasses.replace(changed(log, _of_other_rows, **constants), params=params)


def other_schedules(log: Log) -> Iterator[Log]:
    """Updates under other schedules, as long as these, with one batch of few rows."""
    batch = next(call.batch for call in log.calls if call.method == "step" and call.batch is not None)
    call = next(call for call in log.calls if call.method == "step")
    for warmup, total in SCHEDULES:
        case: Case = dataclasses.replace(log.case, warmup_steps=warmup, total_steps=total)
        yield Log(case, log.params, log.n, [call._replace(batch=batch)] * (total + PAST))


def _of_whole_labels(batch: HostBatch) -> HostBatch:
    return batch._replace(labels=np.round(batch.labels))


def _of_classes(log: Log) -> Log:
    """The run with a classifier and whole labels in place of a regression."""
    rng = np.random.default_rng(1)
    head = {name: leaf for name, leaf in log.params.items() if name.startswith("classifier")}
    head = {name: np.repeat(leaf, CLASSES, axis=0) * rng.uniform(-1, 1, (CLASSES,) + (1,) * (leaf.ndim - 1))
            for name, leaf in head.items()}  # fmt: skip
    params = log.params | {name: leaf.astype(np.float32).astype(np.float64) for name, leaf in head.items()}
    other = changed(log, _of_some_class, num_labels=CLASSES, regression=False)
    return dataclasses.replace(other, params=params)


def _of_some_class(batch: HostBatch) -> HostBatch:
    return batch._replace(labels=np.round(batch.labels).astype(np.int32) % CLASSES)


def _even(batch: HostBatch, parts: int) -> HostBatch:
    """As many rows as divide evenly into `parts`: the last ones are left out, or the first ones are there twice."""
    rows = len(batch.weights)
    even = rows // parts * parts or parts
    if even <= rows:
        kept = rows_of(batch, np.arange(even))
        return kept if kept.weights.any() else kept._replace(weights=np.ones_like(kept.weights))
    ids = np.arange(even).astype(batch.example_ids.dtype)
    return rows_of(batch, np.arange(even) % rows)._replace(example_ids=ids)


def _as_uneven(batch: HostBatch, log: Log) -> HostBatch:
    """The batch; a row less if it divides evenly among the devices, and not among their micro-batches.

    A run without micro-batches would else divide evenly too, and would not show what leaves the other one out.
    """
    rows = len(batch.weights)
    if rows % (log.n * log.case.accumulate) == 0 or rows % log.n or log.n == 1:
        return batch
    return rows_of(batch, np.delete(np.arange(rows), np.flatnonzero(batch.weights > 0)[0]))


def _of_equal_weight(batch: HostBatch) -> HostBatch:
    return with_weights(batch, (batch.weights > 0).astype(np.float32))


def _of_other_rows(batch: HostBatch) -> HostBatch:
    """Each row of weight above 0 gets the label of another one."""
    labels, real = batch.labels.copy(), batch.weights > 0
    labels[real] = np.roll(labels[real], 1)
    return batch._replace(labels=labels)


def _all_count(batch: HostBatch) -> HostBatch:
    """Rows of weight 0 get that of a real one, and its tokens."""
    real = int(np.flatnonzero(batch.weights > 0)[0])
    index = np.where(batch.weights > 0, np.arange(len(batch.weights)), real)
    return rows_of(batch, index)._replace(example_ids=batch.example_ids)


def _legal(batch: HostBatch) -> HostBatch:
    """Tokens and rows of padding have id, type and label 0."""
    unseen = (batch.attention_mask == 0) | (batch.weights == 0)[:, None]
    return batch._replace(
        input_ids=np.where(unseen, 0, batch.input_ids).astype(batch.input_ids.dtype),
        token_type_ids=np.where(unseen, 0, batch.token_type_ids).astype(batch.token_type_ids.dtype),
        labels=np.where(batch.weights == 0, 0, batch.labels).astype(batch.labels.dtype),
    )


def _full(batch: HostBatch) -> HostBatch:
    """All tokens of a row are real; those of padding have id and type 0."""
    pad = batch.attention_mask == 0
    return batch._replace(
        input_ids=np.where(pad, 0, batch.input_ids),
        token_type_ids=np.where(pad, 0, batch.token_type_ids),
        attention_mask=np.ones_like(batch.attention_mask),
    )
