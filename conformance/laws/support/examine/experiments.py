"""A trainer and one of its wrong runs -> the same run with everything observed, and runs that leave one thing out.

They separate causes that give the same first numbers: more results of the same run; the run on one device, or without
dropout, padding or accumulation; a gradient without Adam; the network with one part of it switched off.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ....adapter import NEVER_FIXED, Case, HostBatch, shapes
from ....oracle.cases import NO_DROPOUT
from ....oracle.draws import rows_of, with_weights
from ....oracle.updates import learning_rate
from ....oracle.variants.located import Located, Pair, located, pairs, restored, whole
from ....oracle.variants.replay import Call, Log, bounds, seen
from ....oracle.variants.search import Several
from ..compilation import precision
from .made import called, made
from .parts import alone, gradient, irregular, parts

# Updates of an observed run: at least two with a learning rate above 0, and at most MOST.
MOVING, MOST = 2, 6
# A learning rate is wrong if it errs by this part of the largest one: far more than it is rounded.
RATE = 1e-5
# A variant that passes is evidence if it divides the largest margin by at least this, as in `trainer_checks`.
DECISIVE = 100.0
RESTART = ("save", "start", "restore")


def _simple(log: Log) -> list[tuple[str, HostBatch | None]]:
    """The calls of a run, without those that save and restore."""
    return [(call.method, call.batch) for call in log.calls if call.method not in RESTART]


def observed(trainer: Any, log: Log) -> Log | None:
    """The run, with gradients, parameters, moments and logits around each update; None if there is no such run."""
    if any(call.method in RESTART for call in log.calls):
        return restarted(trainer, log)
    batches = [batch for method, batch in _simple(log) if method == "step" and batch is not None]
    batches = batches or [batch for _, batch in _simple(log) if batch is not None][:1]
    if not batches:
        return None
    moving = sum(learning_rate(log.case, t) > 0 for t in range(len(batches)))
    # If the learning rate is wrong, the run goes on after the warm-up: many schedules begin alike.
    rates = [call.result.learning_rate for call in log.calls if call.method == "step"]
    wrong = any(abs(rate - learning_rate(log.case, t)) > RATE * log.case.learning_rate for t, rate in enumerate(rates))
    least = log.case.warmup_steps + MOVING if wrong else 0
    while len(batches) < MOST and (moving < MOVING or len(batches) < least):
        moving += learning_rate(log.case, len(batches)) > 0
        batches.append(batches[-1])
    calls: list[tuple[str, HostBatch | None]] = [("evaluate", batches[0])]
    for batch in batches[:MOST]:
        calls += [("gradients", batch)] if "gradients" in trainer.capabilities else []
        calls += [("step", batch), ("params", None)]
        calls += [("moments", None)] if "moments" in trainer.capabilities else []
        calls += [("evaluate", batch)]
    return made(trainer, log, calls)


def restarted(trainer: Any, log: Log) -> Log | None:
    """The updates of a run up to its save, a restart and the update after it, with everything observed around it.

    None if the run does not restore what it saved, or makes no update before.
    """
    methods = [call.method for call in log.calls]
    if "restore" not in methods or "step" not in methods[: methods.index("save")]:
        return None
    before = [(call.method, call.batch) for call in log.calls[: methods.index("save")] if call.method == "step"]
    state = [("params", None), *([("moments", None)] if "moments" in trainer.capabilities else [])]
    batch = next(
        (call.batch for call in log.calls[methods.index("restore") :] if call.batch is not None), before[-1][1]
    )
    seen = [("gradients", batch)] if "gradients" in trainer.capabilities else []
    after = [*state, ("evaluate", batch), *seen, ("step", batch), *state, ("step", batch), *state]
    run, half = made(trainer, log, [*before, *state]), {name: leaf * 0.5 for name, leaf in log.params.items()}
    with tempfile.TemporaryDirectory() as folder, precision(log.case):
        trainer.save(Path(folder))
        trainer.start(log.case, half, log.n)
        trainer.restore(Path(folder))
        run.calls += [Call("save"), Call("start", None, half), Call("restore")]
        run.calls += called(trainer, after)
    return run


# Runs that leave one thing out.


def without(log: Log) -> Iterator[tuple[str, str, Log]]:
    """Triples: an id of `judge/places.toml`, what is left out, and the run without it, still to be made."""
    case, calls = log.case, log.calls
    batches = [call.batch for call in calls if call.batch is not None]

    def other(change: Callable[[HostBatch], HostBatch] = lambda batch: batch, **fields: Any) -> Log:
        changed = [call._replace(batch=None if call.batch is None else change(call.batch)) for call in calls]
        return Log(dataclasses.replace(case, **fields), log.params, log.n, changed)

    if case.regression:
        yield "labels", "with whole labels", other(lambda one: one._replace(labels=np.round(one.labels)))
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
    if (apart := random_run(trainer, run, compared)) is not None:
        return apart
    plain, batch = None, None
    if "gradients" not in trainer.capabilities and not any(call.method in RESTART for call in run.calls):
        plain, batch = gradient(trainer, run) or (None, None)
    place = located(run, compared, plain, batch, _parts_of(trainer, run))
    if place is None:
        return None
    if place.place in ("forward", "evaluation") and (words := random_evaluation(trainer, run)):
        return Located("random-evaluation", (words, *place.words))
    if place.place == "forward":
        for name, what, other in without(run):
            # The network of one example a row, or of one device, is right.
            if name in ("packing", "reduction") and whole(pairs(made(trainer, other, _simple(other)))) <= 1:
                return Located(name, (f"right {what}", *place.words))
        rough = irregular(trainer, run, "evaluate")
        known = (*place.words, *((rough,) if rough else alone(run, until)), *parts(trainer, run))
        return Located("rounding" if rough else "forward", known)
    if (
        place.place in ("backward", "loss", "first-update", "training-network")
        and "gradients" in trainer.capabilities
        and (rough := irregular(trainer, run, "gradients"))
    ):
        place = Located("rounding-of-gradient", (rough, *place.words))
    if any(call.method in RESTART for call in run.calls):
        if whole(pairs(made(trainer, run, _simple(run)))) > 1:
            return place
        states = restored(run if run is not log else restarted(trainer, log) or log)
        return Located("restart", (*place.words, *states))
    shown = any(pair.bad for pair in compared if pair.got.kind in ("loss", "rate", "distance"))
    if shown and _unobserved_is_right(trainer, run):
        return Located("observation", place.words)
    right, setting = list[str](), ""
    for name, what, other in without(run):
        if time.thread_time() > until:
            break
        left = whole(pairs(made(trainer, other, _simple(other))))
        # Just within the bounds after just without proves nothing.
        if left <= 1 and left * DECISIVE <= margin:
            right.append(what)
            setting = setting or name
    settings = [f"right {', '.join(right)}"] if right else []
    return Located(place.with_setting(setting), (*place.words, *settings))


def _parts_of(trainer: Any, run: Log) -> str:
    """Whether only micro-batches, or only devices, can be what rows are lost with: the run is wrong without the other.

    One way to deal rows to micro-batches gives each device whole micro-batches.
    """
    if run.case.accumulate == 1 or run.n == 1 or any(call.method in RESTART for call in run.calls):
        return ""
    wrong = {
        name: whole(pairs(made(trainer, other, _simple(other)))) > 1
        for name, _, other in without(run)
        if name in ("accumulation", "reduction")
    }
    if wrong["accumulation"] == wrong["reduction"]:
        return ""
    return "micro-batch" if wrong["reduction"] else "device"


def random_run(trainer: Any, run: Log, compared: list[Pair]) -> Located | None:
    """The place, if the updates of a run, made twice more, give different results; None if they do not."""
    if any(call.method in RESTART for call in run.calls):
        return None
    # Each comes after the same run, so that what an earlier run leaves is in both.
    calls = [(method, batch) for method, batch in _simple(run) if method != "evaluate"]
    one, other = (seen(made(trainer, run, calls)) for _ in range(2))
    limits = {(pair.got.kind, pair.got.updates): pair.limits for pair in compared}
    for first, second in zip(one, other, strict=True):
        apart = Pair(second, first, limits[first.kind, first.updates])
        if apart.margin > 1:
            words = (
                f"two runs with the same seed, parameters and batches differ in the {first.what} by {apart.margin:.3g} "
                "times the bound"
            )
            # What an earlier run leaves in the optimizer shows in the update, and not before it.
            early = first.updates == 0 and first.kind in ("loss", "gradient")
            return Located("random-run" if early else "left-over", (words,))
    return None


def random_evaluation(trainer: Any, run: Log) -> str:
    """A sentence, if evaluating one batch twice gives two results; empty if not."""
    batch = next((call.batch for call in run.calls if call.method == "evaluate" and call.batch is not None), None)
    if batch is None:
        return ""
    before = [(call.method, call.batch) for call in run.calls if call.method == "step"]
    twice = made(trainer, Log(run.case, run.params, run.n), [*before, ("evaluate", batch), ("evaluate", batch)])
    one, other = (call.result[batch.weights > 0] for call in twice.calls[-2:])
    if np.array_equal(one, other, equal_nan=True):
        return ""
    return (
        f"the logits of one batch, evaluated twice in a row, differ by up to {np.abs(one - other).max():.2g}, "
        f"and are up to {np.abs(one).max():.2g} large"
    )


def confirmed(trainer: Any, log: Log, found: tuple[Several, ...]) -> tuple[Several, ...]:
    """Those of the explanations of a run that also explain it without micro-batches, and on one device."""
    for name, _, other in without(log) if found else ():
        if name in ("accumulation", "reduction"):
            run = made(trainer, other, _simple(other))
            found = tuple(several for several in found if _gives(several, run))
    return found


def _gives(several: Several, run: Log) -> bool:
    """Whether variants give the results of a run, with or without those that need what this run has not."""
    mine, acting = seen(run), tuple(one for one in several if one.differs(run.case, run.n))
    return any(
        all(
            Pair(got, want, limits).margin <= 1 for got, (want, limits) in zip(mine, bounds(variants, run), strict=True)
        )
        for variants in {several, acting}
    )


def as_earlier(earlier: Iterable[Case], log: Log) -> Located | None:
    """Whether the results of a run are right for the constants of an earlier case, of a model of the same shape."""
    for case in earlier:
        names = [f.name for f in dataclasses.fields(case) if getattr(case, f.name) != getattr(log.case, f.name)]
        if not set(names) - {"seed"} or shapes(case) != shapes(log.case) or case.regression != log.case.regression:
            continue
        other = dataclasses.replace(case, **{name: getattr(log.case, name) for name in NEVER_FIXED if name != "seed"})
        if whole(pairs(Log(other, log.params, log.n, log.calls))) <= 1:
            words = ", ".join(f"{name} = {getattr(case, name)}" for name in names if name != "seed")
            return Located("earlier-constants", (f"all results are right for {words}, of an earlier run",))
    return None


def _unobserved_is_right(trainer: Any, run: Log) -> bool:
    """Whether the updates of a run are right without the calls that only read its state."""
    steps = [(method, batch) for method, batch in _simple(run) if method == "step"]
    return (
        bool(steps) and whole(pairs(made(trainer, Log(run.case, run.params, run.n), [*steps, ("params", None)]))) <= 1
    )
