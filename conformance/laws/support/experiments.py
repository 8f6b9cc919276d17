"""A trainer and one of its wrong runs -> the same run with everything observed, and runs that leave one thing out.

They separate causes that give the same first numbers: more results of the same run; the run on one device, or without
dropout, padding or accumulation; a gradient without Adam; the network with one part of it switched off.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...adapter import HostBatch, StepResult, fixed_of
from ...core.comparison import Bound, distance
from ...oracle.bounds_derived import UNIT
from ...oracle.bounds_measured import FACTOR, gradient_reference, logits_reference
from ...oracle.cases import NO_DROPOUT
from ...oracle.draws import rows_of, with_weights
from ...oracle.model import Params
from ...oracle.updates import learning_rate
from ...oracle.variants.located import PARTICULAR, Located, Pair, located, pairs, restored, whole
from ...oracle.variants.replay import Call, Log, Seen
from .compilation import precision

# Updates of an observed run: at least two with a learning rate above 0, and at most MOST.
MOVING, MOST = 2, 6
# Constants under which the first update shows the gradient: p - g / (|g| + 1), without history, decay and clipping.
PLAIN: dict[str, Any] = {
    "learning_rate": 1.0, "warmup_steps": 0, "total_steps": 10**6, "weight_decay": 0.0, "clip_norm": None,
    "b1": 0.0, "b2": 0.0, "eps": 1.0, "accumulate": 1,
}  # fmt: skip
# A variant that passes is evidence if it divides the largest margin by at least this, as in `trainer_checks`.
DECISIVE = 100.0
RESTART = ("save", "start", "restore")


def copied(result: Any) -> Any:
    """A copy in float64 of what a method returned."""
    if isinstance(result, StepResult) or hasattr(result, "_fields"):
        return StepResult(float(result.loss), float(result.learning_rate))
    if isinstance(result, tuple):
        return tuple(copied(one) for one in result)
    if hasattr(result, "items"):
        return {name: np.array(leaf, np.float64) for name, leaf in result.items()}
    return None if result is None else np.array(result, np.float64)


def copied_batch(batch: HostBatch) -> HostBatch:
    """A copy of a batch: a trainer may write into its own."""
    return HostBatch(*(np.array(leaf) for leaf in batch))


def made(trainer: Any, log: Log, calls: list[tuple[str, HostBatch | None]]) -> Log:
    """The run of these calls from the start of `log`."""
    run = Log(log.case, log.params, log.n)
    with precision(log.case):
        trainer.start(log.case, {name: np.array(leaf) for name, leaf in log.params.items()}, log.n)
        for method, batch in calls:
            result = getattr(trainer, method)(*(() if batch is None else (copied_batch(batch),)))
            run.calls.append(Call(method, batch, copied(result)))
    return run


def _simple(log: Log) -> list[tuple[str, HostBatch | None]]:
    """The calls of a run, without those that save and restore."""
    return [(call.method, call.batch) for call in log.calls if call.method not in RESTART]


def observed(trainer: Any, log: Log) -> Log | None:
    """The run, with gradients, parameters, moments and logits around each update; None for a run with a restart."""
    if any(call.method in RESTART for call in log.calls):
        return None
    batches = [batch for method, batch in _simple(log) if method == "step" and batch is not None]
    batches = batches or [batch for _, batch in _simple(log) if batch is not None][:1]
    if not batches:
        return None
    moving = sum(learning_rate(log.case, t) > 0 for t in range(len(batches)))
    while len(batches) < MOST and moving < MOVING:
        moving += learning_rate(log.case, len(batches)) > 0
        batches.append(batches[-1])
    calls: list[tuple[str, HostBatch | None]] = [("evaluate", batches[0])]
    for batch in batches[:MOST]:
        calls += [("gradients", batch)] if "gradients" in trainer.capabilities else []
        calls += [("step", batch), ("params", None)]
        calls += [("moments", None)] if "moments" in trainer.capabilities else []
        calls += [("evaluate", batch)]
    return made(trainer, log, calls)


def restarted(trainer: Any, log: Log) -> Log:
    """The updates of a run up to its save, and a restart, with parameters and moments before and after it."""
    methods = [call.method for call in log.calls]
    steps = [(call.method, call.batch) for call in log.calls[: methods.index("save")] if call.method == "step"]
    shown = [("params", None), *([("moments", None)] if "moments" in trainer.capabilities else [])]
    run = made(trainer, log, [*steps, *shown])
    with tempfile.TemporaryDirectory() as folder, precision(log.case):
        trainer.save(Path(folder))
        trainer.start(log.case, {name: leaf * 0.5 for name, leaf in log.params.items()}, log.n)
        trainer.restore(Path(folder))
        after = [Call(method, None, copied(getattr(trainer, method)())) for method, _ in shown]
    run.calls += [Call("save"), Call("restore"), *after]
    return run


# Runs that leave one thing out.


def without(log: Log) -> Iterator[tuple[str, str, Log]]:
    """Triples: an id of `judge/places.toml`, what is left out, and the run without it, still to be made."""
    case, calls = log.case, log.calls
    batches = [call.batch for call in calls if call.batch is not None]

    def other(change: Callable[[HostBatch], HostBatch] = lambda batch: batch, **fields: Any) -> Log:
        changed = [call._replace(batch=None if call.batch is None else change(call.batch)) for call in calls]
        return Log(dataclasses.replace(case, **fields), log.params, log.n, changed)

    if case.accumulate > 1:
        yield "accumulation", "without micro-batches", other(accumulate=1)
    if case.pack:
        yield "packing", "without packing", other(pack=False)
    if case.dropout:
        yield "dropout", "without dropout", other(**NO_DROPOUT)
    if case.precision != "float32":
        yield "precision", "in float32", other(precision="float32")
    if log.n > 1:
        yield "reduction", "on one device", Log(case, log.params, 1, calls)
    if any(len(np.unique(batch.weights[batch.weights > 0])) > 1 for batch in batches):
        yield (
            "weights",
            "with equal weights",
            other(lambda one: with_weights(one, (one.weights > 0).astype(np.float32))),
        )
    if any(not batch.weights.all() for batch in batches):
        yield "padding-rows", "without padding rows", other(_all_count)
    if any(not batch.attention_mask.all() for batch in batches):
        yield "padding", "without padding tokens", other(_full)


def _all_count(batch: HostBatch) -> HostBatch:
    """Rows of weight 0 get that of a real one, and its tokens."""
    real = int(np.flatnonzero(batch.weights > 0)[0])
    index = np.where(batch.weights > 0, np.arange(len(batch.weights)), real)
    return rows_of(batch, index)._replace(example_ids=batch.example_ids)


def _full(batch: HostBatch) -> HostBatch:
    """All tokens of a row are real; those of padding have id and type 0."""
    pad = batch.attention_mask == 0
    return batch._replace(
        input_ids=np.where(pad, 0, batch.input_ids),
        token_type_ids=np.where(pad, 0, batch.token_type_ids),
        attention_mask=np.ones_like(batch.attention_mask),
    )


# A gradient without Adam, and a network with a part switched off.


def gradient(trainer: Any, log: Log) -> tuple[Pair, HostBatch] | None:
    """The gradient of the fullest batch, from an update with the constants of PLAIN; None if the trainer fixes one."""
    fixed = fixed_of(trainer)
    if any(fixed.get(name, value) != value for name, value in PLAIN.items()):
        return None
    batches = [call.batch for call in log.calls if call.method == "step" and call.batch is not None]
    if not batches:
        return None
    batch = max(batches, key=lambda one: int((one.weights > 0).sum()))
    case = dataclasses.replace(log.case, **PLAIN)
    run = made(trainer, Log(case, log.params, log.n), [("step", batch), ("params", None)])
    moved = {name: log.params[name] - leaf for name, leaf in run.calls[-1].result.items()}
    if any((np.abs(leaf) >= 1).any() for leaf in moved.values()):
        return None
    got = {name: leaf / (1 - np.abs(leaf)) for name, leaf in moved.items()}
    reference = gradient_reference(case, log.params, batch)
    limits = {}
    for name, bound in reference.bounds.items():
        # Of the stored parameter and of the step, magnified by the slope of g in terms of the step.
        error = UNIT["float32"] * (np.abs(log.params[name]) + 1) / (1 - np.abs(moved[name])) ** 2
        noise = float(np.hypot(bound.noise, np.linalg.norm(error)))
        limits[name] = Bound(FACTOR * noise, noise, f"{bound.why}, and the rounding of an update")
    pair = Pair(Seen("gradient", 0, got, log.params), Seen("gradient", 0, reference.want, log.params), limits)
    return pair, batch


def _zero(params: Params, *ends: str) -> Params:
    return params | {name: leaf * 0 for name, leaf in params.items() if name.endswith(ends)}


def _alike(params: Params, end: str) -> Params:
    return params | {name: leaf * 0 + leaf[:1] for name, leaf in params.items() if name.endswith(end)}


# What is switched off -> parameters without it. In order: the first that makes the logits right is the smallest part.
PARTS: dict[str, Callable[[Params], Params]] = {
    "token types (all types have one embedding)": lambda p: _alike(p, "token_type_embeddings.weight"),
    "positions (all positions have one embedding)": lambda p: _alike(p, "position_embeddings.weight"),
    "attention scores (queries are zero, so attention is uniform)": lambda p: _zero(p, "query.weight", "query.bias"),
    "attention (the weight of its output is zero)": lambda p: _zero(p, "attention.output.dense.weight"),
    "the feed-forward layers (their output weight is zero)": lambda p: p | {
        name: leaf * 0
        for name, leaf in p.items()
        if name.endswith(".output.dense.weight") and "attention" not in name
    },
    "attention and feed-forward layers": lambda p: _zero(p, ".output.dense.weight"),
    "all that comes before the pooler (its weight is zero)": lambda p: _zero(p, "pooler.dense.weight"),
}  # fmt: skip


def switched_off(trainer: Any, log: Log) -> Iterator[tuple[str, bool]]:
    """Pairs: a part of the network, and whether the logits of an evaluation are right without it."""
    batch = next(call.batch for call in log.calls if call.method == "evaluate" and call.batch is not None)
    for part, change in PARTS.items():
        params = change(log.params)
        run = made(trainer, Log(log.case, params, log.n), [("evaluate", batch)])
        want = logits_reference(log.case, params, batch)
        got = run.calls[0].result[batch.weights > 0]
        yield part, distance(got, want.want["logits"], 1.0) <= want.bounds["logits"].value


def examined(trainer: Any, log: Log, run: Log, until: float) -> Located | None:
    """Where a wrong run of the trainer parts from the oracle's, and what runs that leave something out show.

    `run` is the same run with everything observed, or `log` itself.
    """
    compared = pairs(run)
    margin = whole(compared)
    if margin <= 1 or run is log:
        # The run of the failure, once more: what is right now was wrong because of what came before it.
        if (
            not any(call.method in RESTART for call in log.calls)
            and whole(pairs(made(trainer, log, _simple(log)))) <= 1
        ):
            return Located("history", ())
        run, compared = log, pairs(log)
        margin = whole(compared)
    plain, batch = None, None
    if "gradients" not in trainer.capabilities and not any(call.method in RESTART for call in run.calls):
        plain, batch = gradient(trainer, run) or (None, None)
    place = located(run, compared, plain, batch)
    if place is None:
        return None
    if place.place == "forward":
        return Located("forward", (*place.words, *_parts(trainer, run)))
    if any(call.method in RESTART for call in run.calls):
        if whole(pairs(made(trainer, run, _simple(run)))) > 1:
            return place
        return Located("restart", (*place.words, *restored(restarted(trainer, run))))
    if place.place not in PARTICULAR and _unobserved_is_right(trainer, run):
        return Located("observation", place.words)
    right, apart = list[str](), ""
    for name, what, other in without(run):
        if time.thread_time() > until:
            break
        left = whole(pairs(made(trainer, other, _simple(other))))
        # Just within the bounds after just without proves nothing.
        if left <= 1 and left * DECISIVE <= margin:
            right.append(what)
            apart = apart or name
    words = [f"right {', '.join(right)}"] if right else []
    return Located(place.with_setting(apart), (*place.words, *words))


def _unobserved_is_right(trainer: Any, run: Log) -> bool:
    """Whether the updates of a run are right without the calls that only read its state."""
    steps = [(method, batch) for method, batch in _simple(run) if method == "step"]
    return (
        bool(steps) and whole(pairs(made(trainer, Log(run.case, run.params, run.n), [*steps, ("params", None)]))) <= 1
    )


def _parts(trainer: Any, log: Log) -> Iterator[str]:
    """In which part of the network a wrong forward pass is."""
    found = dict(switched_off(trainer, log))
    *parts, all_before = found
    right = [part for part in parts if found[part]]
    if right:
        yield f"the logits are right without {right[0]}"
    else:
        rest = (
            "the embeddings or a LayerNorm" if found[all_before] else "the pooler, the classifier or the order of rows"
        )
        yield f"they stay wrong without attention and feed-forward layers, so {rest} can be wrong"
