"""A trainer and one of its wrong runs -> the same run with everything observed, and where it parts from the oracle's.

Runs that leave one thing out separate causes that give the same first numbers: the run on one device, or without
dropout, padding or accumulation; a gradient without Adam; the network with one part of it switched off.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ....oracle.cases import NO_DROPOUT
from ....oracle.updates import learning_rate
from ....oracle.variants.located import Located, located, pairs, whole
from ....oracle.variants.measure import batch_after, measured, restored
from ....oracle.variants.replay import Call, Log
from ..compilation import precision
from .made import Calls, Until, called, made, margin_of, restarts, simple
from .parts import alone, gradient, irregular, parts
from .repeats import DECISIVE, changing, random_evaluation, random_run, unobserved_is_right
from .sharper import (
    counts_of_devices,
    course,
    differing_replicas,
    first_wrong,
    late,
    left_over,
    narrow_parameters,
    sharper,
)
from .simpler import changed, without

# Updates of an observed run: at least two with a learning rate above 0, and at most MOST.
MOVING, MOST = 2, 6
# A learning rate is wrong if it errs by this part of the largest one: far more than it is rounded.
RATE = 1e-5
# Places of wrong logits.
EVALUATED = ("forward", "logits", "evaluation-network", "row-order", "evaluation")
# Places of wrong gradients that can be those of fewer bits.
ROUGH = ("backward", "loss", "first-update", "training-network")
# Settings without which a forward pass can be right as a whole.
OF_THE_NETWORK = ("padding-content", "packing", "reduction", "uneven-rows", "precision", "padding-rows", "padding")
# Settings that are left out first.
FIRST = ("reduction", "dropout", "accumulation", "packing", "precision", "regression")


def observed(trainer: Any, log: Log) -> Log | None:
    """The run, with gradients, parameters, moments and logits around each update; None if there is no such run."""
    if restarts(log):
        return restarted(trainer, log)
    batches = [batch for method, batch in simple(log) if method == "step" and batch is not None]
    batches = batches or [batch for _, batch in simple(log) if batch is not None][:1]
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
    calls: Calls = [("evaluate", batches[0])]
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
    state: Calls = [("params", None), *([("moments", None)] if "moments" in trainer.capabilities else [])]
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


def examined(trainer: Any, log: Log, run: Log, until: Until) -> Located | None:
    """Where a wrong run of the trainer parts from the oracle's, and what runs that leave something out show.

    `run` is the same run with everything observed, or `log` itself.
    """
    compared = pairs(run)
    margin = whole(compared)
    if margin <= 1 or run is log:
        # The run of the failure, once more: what is right now was wrong because of what came before it.
        again = None if restarts(log) else margin_of(trainer, log)
        if again is not None and again <= 1:
            return Located("history", ())
        # A longer run than was observed: what is wrong in it begins later.
        many = sum(call.method == "step" for call in log.calls) > MOST and not restarts(log)
        run = (late(trainer, log) if many else None) or log
        compared = pairs(run)
        margin = whole(compared)
    if (apart := random_run(trainer, run, compared)) is not None:
        return apart
    if (narrow := narrow_parameters(run, compared)) is not None:
        return narrow
    plain, batch = None, None
    if "gradients" not in trainer.capabilities and not restarts(run):
        plain, batch = gradient(trainer, run) or (None, None)
    place = located(run, compared, plain, batch, _parts_of(trainer, run))
    if place is None:
        return None
    if restarts(run) and (left := margin_of(trainer, run)) is not None and left <= 1:
        states = restored(run if run is not log else restarted(trainer, log) or log)
        return Located("restart", (*place.words, *states))
    if place.place in EVALUATED:
        return _evaluated(trainer, run, place, margin, until)
    if place.place in ROUGH and "gradients" in trainer.capabilities and (rough := irregular(trainer, run, "gradients")):
        place = Located("rounding-of-gradient", (rough, *place.words))
    if restarts(run):
        return place
    if unobserved_is_right(trainer, run):
        which = changing(trainer, run)
        return Located("observation", (*([which] if which else []), *place.words))
    place = sharper(place, run, compared)
    settings, words = _settings(trainer, run, margin, until, first_wrong(compared))
    words += course(compared)
    first = next(pair for pair in compared if pair.bad)
    words += [word for word in measured(run, first.got, first.want, first.limits) if word not in place.words]
    if place.place == "elements" and "reduction" in settings:
        words.append(left_over(run))
    if place.place.startswith("device") and (replicas := differing_replicas(trainer, run)):
        words.append(replicas)
        place = Located("device" if "different" in replicas else place.place, place.words)
    return Located(place.with_setting(_setting(settings)), (*place.words, *words))


def _setting(settings: list[str]) -> str:
    """The setting that says most, of those without each of which a run is right; empty if there is none."""
    if settings[:1] == ["dropout"] and "reduction" in settings:
        return "device-dropout"
    return settings[0] if settings else ""


def _evaluated(trainer: Any, run: Log, place: Located, margin: float, until: Until) -> Located:
    """About wrong logits: whether they are random, right in some setting, or those of fewer bits."""
    if sentence := random_evaluation(trainer, run):
        return Located("random-evaluation", (sentence, *place.words))
    if place.place == "evaluation":
        wrong = next((pair for pair in pairs(run) if pair.got.kind == "logits" and pair.bad), None)
        batch = wrong and batch_after(run, "evaluate", wrong.got.updates)
        left = margin_of(trainer, run, [("evaluate", batch)]) if batch is not None else None
        if left is None or left <= 1:
            same = () if left is None else ("before any update, the logits of the same batch are right",)
            return Located("evaluation", (*same, *place.words))
        place = Located("evaluation-network", ("the logits of this batch are wrong before any update too",))
    settings, words = _settings(trainer, run, margin, until)
    if place.place != "forward":
        more = parts(trainer, run) if place.place == "evaluation-network" else ()
        return Located(place.place, (*place.words, *words, *more))
    own = [name for name in settings if name in OF_THE_NETWORK]
    rough = "" if own else irregular(trainer, run, "evaluate")
    known = (*place.words, *words, *((rough,) if rough else alone(run, until)), *parts(trainer, run))
    return Located("rounding" if rough else own[0] if own else "forward", known)


def _settings(trainer: Any, run: Log, margin: float, until: Until, first: int = 0) -> tuple[list[str], list[str]]:
    """The settings without each of which the run is right, by far, and a sentence about them.

    What the batches of the first updates have is no cause, if the first wrong update is number `first`.
    """
    right: dict[str, str] = {}
    every = [] if restarts(run) else [one for one in without(run) if not _had(run, one.log, first)]
    # Those that say most are made first: the time can end before the last one.
    for simpler in sorted(every, key=lambda one: one.place not in FIRST):
        if until.over:
            break
        left = margin_of(trainer, simpler.log)
        # Just within the bounds after just without proves nothing.
        if left is not None and left <= 1 and left * DECISIVE <= margin:
            right[simpler.place] = simpler.what
    right = {one.place: right[one.place] for one in every if one.place in right}
    if "reduction" in right and run.n > 2:
        right["reduction"] = counts_of_devices(trainer, run, until).removeprefix("right ")
    words = [f"right {what}" for what in right.values()]
    return [*right], [*words, *(_rates(trainer, run) if [*right] == ["dropout"] else ())]


def _had(run: Log, other: Log, updates: int) -> bool:
    """Whether batches of the run's first updates have what another run, of other batches alone, leaves out."""
    steps = [(a.batch, b.batch) for a, b in zip(run.calls, other.calls, strict=True) if a.method == "step"][:updates]
    same = all(np.array_equal(x, y) for a, b in steps if a and b for x, y in zip(a, b, strict=True))
    return not same and (run.case, run.n) == (other.case, other.n)


def _rates(trainer: Any, run: Log) -> Iterator[str]:
    """With which of the rates of dropout alone a run is wrong, and with which it is right."""
    rates = {name: getattr(run.case, name) for name in NO_DROPOUT if getattr(run.case, name)}
    margins = {name: margin_of(trainer, changed(run, **NO_DROPOUT | {name: rate})) for name, rate in rates.items()}
    wrong = [name for name, margin in margins.items() if margin is not None and margin > 1]
    right = [name for name, margin in margins.items() if margin is not None and margin <= 1]
    if len(rates) > 1 and wrong:
        yield f"wrong with {' or '.join(wrong)} alone" + (f", right with {' or '.join(right)} alone" if right else "")


def _parts_of(trainer: Any, run: Log) -> str:
    """Whether only micro-batches, or only devices, can be what rows are lost with: the run is wrong without the other.

    One way to deal rows to micro-batches gives each device whole micro-batches.
    """
    if run.case.accumulate == 1 or run.n == 1 or restarts(run):
        return ""
    wrong = {
        one.place: (margin_of(trainer, one.log) or 0.0) > 1
        for one in without(run)
        if one.place in ("accumulation", "reduction")
    }
    if wrong["accumulation"] == wrong["reduction"]:
        return ""
    return "micro-batch" if wrong["reduction"] else "device"
