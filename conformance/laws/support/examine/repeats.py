"""A wrong run of a trainer -> whether it has other results when made again, or without calls that only read."""

from typing import Any

import numpy as np

from ....core.comparison import distance
from ....oracle.bounds_measured import logits_reference
from ....oracle.cases import NO_DROPOUT
from ....oracle.variants.located import Located, Pair, pairs, whole
from ....oracle.variants.replay import Log, seen
from .made import attempted, margin_of, restarts, simple
from .simpler import changed

# A run that passes is evidence if it divides the largest margin by at least this, as in `trainer_checks`.
DECISIVE = 100.0


def random_run(trainer: Any, run: Log, compared: list[Pair]) -> Located | None:
    """The place, if the updates of a run, made twice more, give different results; None if they do not."""
    if restarts(run) or (words := _apart(trainer, run, compared)) is None:
        return None
    place, sentence = words
    if place == "random-run" and run.case.dropout:
        other = changed(run, **NO_DROPOUT)
        made = attempted(trainer, other)
        if made is not None and _apart(trainer, other, pairs(made)) is None:
            return Located("random-dropout", (sentence, "without dropout they are alike"))
        return Located(place, (sentence, "without dropout too"))
    return Located(place, (sentence,))


def _apart(trainer: Any, run: Log, compared: list[Pair]) -> tuple[str, str] | None:
    """Where the updates of a run, made twice, differ first: a place and a sentence."""
    # Each comes after the same run, so that what an earlier run leaves is in both.
    calls = [(method, batch) for method, batch in simple(run) if method != "evaluate"]
    first_run, second_run = (attempted(trainer, run, calls) for _ in range(2))
    if first_run is None or second_run is None:
        return None
    limits = {(pair.got.kind, pair.got.updates): pair.limits for pair in compared}
    for first, second in zip(seen(first_run), seen(second_run), strict=True):
        # What follows from NaN has no bounds.
        if not all(np.isfinite(leaf).all() for leaf in (*first.value.values(), *first.start.values())):
            return None
        apart = Pair(second, first, limits[first.kind, first.updates])
        if apart.margin > 1:
            words = (
                f"two runs with the same seed, parameters and batches differ in the {first.what} by {apart.margin:.3g} "
                "times the bound"
            )
            # What an earlier run leaves in the optimizer shows in the update, and not before it.
            early = first.updates == 0 and first.kind in ("loss", "gradient")
            return "random-run" if early else "left-over", words
    return None


def random_evaluation(trainer: Any, run: Log) -> str:
    """A sentence, if evaluating one batch twice gives results that differ beyond rounding; empty if not."""
    batch = next((call.batch for call in run.calls if call.method == "evaluate" and call.batch is not None), None)
    if batch is None:
        return ""
    twice = attempted(trainer, run, [("evaluate", batch), ("evaluate", batch)])
    if twice is None:
        return ""
    one, other = (call.result[batch.weights > 0] for call in twice.calls)
    bound = logits_reference(run.case, run.params, batch).bounds["logits"].value
    if distance(one, other, 1.0) <= bound:
        return ""
    return (
        f"the logits of one batch, evaluated twice in a row, differ by up to {np.abs(one - other).max():.2g}, "
        f"and are up to {np.abs(one).max():.2g} large"
    )


def unobserved_is_right(trainer: Any, run: Log) -> bool:
    """Whether a run is right, by far, without the calls that only read its state, and wrong with them.

    Only what both runs show is compared: losses, rates, and the parameters at the end.
    """
    shown = [call for call in run.calls if call.method == "step"]
    last = max((place for place, call in enumerate(run.calls) if call.method == "step"), default=0)
    shown += [call for call in run.calls[last + 1 :] if call.method == "params"][-1:]
    margin = whole(pairs(Log(run.case, run.params, run.n, shown)))
    if margin <= 1:
        return False
    left = margin_of(trainer, run, [(call.method, call.batch) for call in shown])
    return left is not None and left <= 1 and left * DECISIVE <= margin


def changing(trainer: Any, run: Log) -> str:
    """With which calls alone, beside its updates, a run is wrong that is right without any of them, in words."""
    calls = simple(run)
    methods = [method for method in dict.fromkeys(method for method, _ in calls) if method != "step"]
    margins = {
        method: margin_of(trainer, run, [(name, batch) for name, batch in calls if name in ("step", method)])
        for method in methods
    }
    wrong = [f"`{method}`" for method, margin in margins.items() if margin is not None and margin > 1]
    right = [f"`{method}`" for method, margin in margins.items() if margin is not None and margin <= 1]
    if not wrong or not right:
        return ""
    return f"right if {', '.join(right)} is called alone beside the updates, and wrong if {' or '.join(wrong)} is"
