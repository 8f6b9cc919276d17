"""A trainer's run beside the oracle's -> the earliest place at which they part, and what was measured there.

A place is an id of `judge/places.toml`, which has its layer, its cause in general words and its next step.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...adapter import HostBatch
from ...core.comparison import Bound, distance
from .fit import counts, said, steps
from .measure import batch_after, common_factor, places_of_rows, rates, slopes
from .replay import Log, Seen, bounds, named, seen

# The relative error up to which one factor is the square of another; and the most updates that a sentence lists.
FACTORS, MOST_UPDATES = 1e-3, 6


class Pair(NamedTuple):
    """One result of a trainer, the oracle's, and the bounds of its leaves."""

    got: Seen
    want: Seen
    limits: dict[str, Bound]

    @property
    def margins(self) -> dict[str, float]:
        """Leaf -> its error in units of its bound."""
        errors = {
            name: distance(np.asarray(self.got.value[name], float), leaf, 1.0) for name, leaf in self.want.value.items()
        }
        return {
            name: error / self.limits[name].value if self.limits[name].value else np.inf if error else 0.0
            for name, error in errors.items()
        }

    @property
    def margin(self) -> float:
        """The largest of the margins; infinite if a number is none."""
        return max(np.inf if np.isnan(one) else one for one in self.margins.values())

    @property
    def bad(self) -> list[str]:
        """The leaves that are out of their bounds."""
        return [name for name, margin in self.margins.items() if not margin <= 1]

    @property
    def still(self) -> bool:
        """Whether all leaves that are out of their bounds are zero."""
        return not any(np.any(self.got.value[name]) for name in self.bad)


# Places that are so particular that a setting in which the run is right says no more than where they occur.
PARTICULAR = (
    "device", "device-rows", "device-means", "micro-batch", "micro-batch-rows", "micro-batch-means", "rows",
    "row-weights", "class-weights", "other-labels", "weights", "schedule", "decay", "leaves", "rate-applied",
    "no-gradient", "zero-gradient", "skipped", "row-order", "not-finite", "tables", "narrow-gradient", "elements",
    "shown-gradient", "shown-moments", "shown-rate",
)  # fmt: skip
# Places of the optimizer: where they are right without micro-batches, it is called or counted for each of them.
OF_THE_OPTIMIZER = ("schedule", "decay", "leaves", "rate-applied", "scaled-update", "skipped")
# Places of rows that count wrongly: where they are right with rows that divide evenly, batches are filled up wrongly.
OF_ROWS = ("rows", "row-weights", "device-rows", "micro-batch-rows", "factor", "reported-loss")
# A setting without which a run is right, and a place -> the place that says both.
FINER = {
    ("packing", "rows"): "packed-rows", ("packing", "row-weights"): "packed-rows",
    ("reduction", "rounding-of-gradient"): "rounded-reduction", ("padding-content", "not-finite"): "padding-content",
    ("reduction", "before-moments"): "moments-by-device",
}  # fmt: skip
# Kinds of results that show what training does in an update, and those that show how far it moves.
TRAINING, MOVING = ("loss", "gradient"), ("distance", "first moment")


class Located(NamedTuple):
    """Where a run parts from the oracle's, and sentences about what was measured there."""

    place: str
    words: tuple[str, ...]

    def with_setting(self, place: str) -> str:
        """The place, given that of a setting without which the run is right, if any."""
        if (place, self.place) in FINER:
            return FINER[place, self.place]
        own = {"accumulation": OF_THE_OPTIMIZER, "uneven-rows": OF_ROWS}.get(place, ())
        return self.place if not place or (self.place in PARTICULAR and self.place not in own) else place


def pairs(log: Log) -> list[Pair]:
    """All results of a run beside the oracle's, which continues from the trainer's parameters where they are known."""
    return [Pair(got, want, limits) for got, (want, limits) in zip(seen(log), bounds((), log), strict=True)]


def whole(compared: list[Pair]) -> float:
    """The largest error of a run, in units of its bound; 0 if nothing is compared."""
    return max((pair.margin for pair in compared), default=0.0)


def located(
    log: Log, compared: list[Pair], plain: Pair | None = None, batch: HostBatch | None = None, only: str = ""
) -> Located | None:
    """The earliest place at which the run parts from the oracle's; None if it nowhere does.

    `plain` is the gradient of a batch, of a trainer that does not show its gradients; `only` is as in `said`.
    """
    if plain is not None and (not plain.bad or (_fits(log, plain, batch) and not plain.still)):
        compared = [plain, *compared]
    wrong = [pair for pair in compared if pair.bad]
    if not wrong:
        return None
    if broken := [name for name in wrong[0].bad if not np.isfinite(wrong[0].got.value[name]).all()]:
        which = f" in {named(broken)}" if len(wrong[0].want.value) > 1 else ""
        return Located("not-finite", (f"the first wrong result, {wrong[0].got.what}, has NaN or infinity{which}",))
    right = {(pair.got.kind, pair.got.updates) for pair in compared if not pair.bad}
    bad = {(pair.got.kind, pair.got.updates): pair for pair in reversed(wrong)}
    first = {kind: pair for pair in reversed(wrong) for kind in (pair.got.kind,)}
    if ("logits", 0) in bad:
        return _logits(log, bad["logits", 0], bad, right)
    if "gradient" in first:
        return _gradient(log, first["gradient"], batch, bad, right, only)
    if "rate" in first and first["rate"].got.updates <= min(pair.got.updates for pair in wrong):
        return Located("schedule", tuple(rates(log, [pair.got for pair in compared if pair.got.kind == "rate"])))
    if "loss" in first:
        at = first["loss"].got.updates
        early = at == 0 or ("loss", 0) not in right
        # A loss alone says nothing of the gradient: the two are told apart where that, or a move, was compared.
        moved = any(
            pair.got.kind in MOVING and pair.got.updates == at + 1 and moves(pair) and not pair.bad for pair in compared
        )
        if ("gradient", at) in right and any((kind, at + 1) in bad for kind in MOVING):
            return Located("own-step", tuple(_loss(first["loss"])))
        if ("gradient", at) in right or (moved and not any(kind in first for kind in MOVING)):
            beside = f"the {'gradient' if ('gradient', at) in right else 'change of the parameters'} beside it is right"
            return Located("reported-loss" if early else "later-loss", (*_loss(first["loss"]), beside))
        if early:
            return Located(_if_seen("loss", right), tuple(_loss(first["loss"])))
        if not any(kind in first for kind in (*MOVING, "second moment")):
            return Located("later-loss-alone", tuple(_loss(first["loss"])))
    if any(kind in first for kind in (*MOVING, "second moment")):
        place = _update(log, compared, first, right)
        if plain is not None and plain.bad and plain.still and place.place == "gradient-or-optimizer":
            return Located("no-gradient", (f"without decay and clipping these leaves do not move: {named(plain.bad)}",))
        return place
    if "rate" in first:
        return Located("schedule", tuple(rates(log, [pair.got for pair in compared if pair.got.kind == "rate"])))
    if "restored" in first:
        return Located("restart", ())
    words = (
        f"only logits after updates are wrong, of {len([one for one in wrong if one.got.kind == 'logits'])} evaluations"
    )
    return Located("evaluation", (words,))


def moves(pair: Pair) -> bool:
    """Whether the oracle moves by more than the bound, so that the comparison can fail."""
    return any(np.linalg.norm(leaf) > pair.limits[name].value for name, leaf in pair.want.value.items())


def _logits(log: Log, pair: Pair, bad: dict[tuple[str, int], Pair], right: set[tuple[str, int]]) -> Located:
    """About logits that are wrong before any update: the order of rows, evaluation alone, or the network."""
    order = places_of_rows(log, pair.want.value["logits"], pair.limits["logits"].value)
    if order is not None:
        return Located("row-order", (f"the rows of the batch are, in this order, at {order[0]}, not at {order[1]}",))
    beside = {kind: (kind, 0) in right for kind in TRAINING if (kind, 0) in right or (kind, 0) in bad}
    words = [f"the {kind} of update 0 is {'right' if is_right else 'wrong too'}" for kind, is_right in beside.items()]
    if all(beside.values()):
        return Located("evaluation-network" if beside else "logits", (_size(pair), *words))
    return Located("forward", (_size(pair), *words))


def _size(pair: Pair) -> str:
    """The relative error of a result, in the l2 norm."""
    got, want = (np.concatenate([np.ravel(leaf) for leaf in side.value.values()]) for side in (pair.got, pair.want))
    return f"the {pair.got.what} err by {np.linalg.norm(got - want) / np.linalg.norm(want):.2g} of their size"


def _gradient(
    log: Log, pair: Pair, of: HostBatch | None, bad: dict[tuple[str, int], Pair], right: set[tuple[str, int]], only: str
) -> Located:
    """About a wrong gradient, whose logits are right as far as they are known."""
    at = pair.got.updates
    batch = of or batch_after(log, "gradients", at)
    found = counts(log, batch, pair.got, pair.limits, pair.bad) if batch is not None else None
    facts = list(said(found, log, batch, only)) if found is not None and batch is not None else []
    if pair.still and pair.bad:
        rest = ", and right in the other leaves" if len(pair.bad) < len(pair.want.value) else ""
        return Located("zero-gradient", (f"the gradient of update {at} is zero in {named(pair.bad)}{rest}",))
    loss = "wrong too" if ("loss", at) in bad else "right" if ("loss", at) in right else ""
    words = [f"in the gradient of update {at} {words}" for _, words in facts]
    if loss:
        words.append(f"the loss of update {at} is {loss}")
    if facts:
        return Located(facts[0][0], tuple(words))
    if loss == "wrong too" and batch is not None and (fit := slopes(log, batch, pair.got, pair.limits)) is not None:
        others = any("other labels" in one for one in fit[1])
        if fit[0] or ("gradient", 0) not in right:
            place = ("other-labels" if others else "slopes") if fit[0] else _if_seen("training-network", right)
            return Located(place, (*fit[1], *words))
    if loss != "wrong too" and all(name.endswith("_embeddings.weight") for name in pair.bad):
        return Located("tables", (f"the gradient of update {at} is wrong in {named(pair.bad)} alone", *words))
    words += _deepest(pair)
    if ("gradient", 0) in right:
        # After an update everything is that of other parameters than those that are shown.
        return Located("shown-parameters" if ("logits", at) in bad else "later-gradient", tuple(words))
    place = "loss" if loss == "wrong too" and "classifier.bias" in pair.bad else "backward"
    return Located(_if_seen(place, right), tuple(words))


def _if_seen(place: str, right: set[tuple[str, int]]) -> str:
    """A place behind the logits, if those before any update were compared and are right."""
    return place if ("logits", 0) in right else "first-update"


def _fits(log: Log, plain: Pair, batch: HostBatch | None) -> bool:
    """Whether counts of rows or other slopes give a wrong gradient: if not, the optimizer can be wrong instead."""
    if batch is None or counts(log, batch, plain.got, plain.limits, plain.bad) is not None:
        return batch is not None
    return (slopes(log, batch, plain.got, plain.limits) or (False, []))[0]


def _deepest(pair: Pair) -> Iterator[str]:
    """The wrong leaf that is nearest to the output, if leaves nearer to it are right."""
    order = [*pair.want.value][::-1]  # parameters are listed from the input to the output
    bad = set(pair.bad)
    depth = next(i for i, name in enumerate(order) if name in bad)
    if depth and len(bad) > 1:
        yield f"from the output backwards, {depth} leaves are right; the first wrong one is {order[depth]}"


def _update(log: Log, compared: list[Pair], first: dict[str, Pair], right: set[tuple[str, int]]) -> Located:
    """About wrong moments or a wrong update, with right gradients and losses as far as they are known."""
    pair = min(first.values(), key=lambda one: one.got.updates)
    at = pair.got.updates
    facts = list(steps(log, first["distance"].got, first["distance"].want, first["distance"].limits)) if (
        "distance" in first
    ) else []  # fmt: skip
    words = tuple(f"in update {first['distance'].got.updates - 1}, {words}" for _, words in facts)
    if "distance" in first and ("first moment" not in first or first["first moment"].got.updates > at):
        wrong = dict([one for one in _factors(compared).items() if one[1] != 1][:MOST_UPDATES])
        if wrong:
            far = ", ".join(f"{factor:.6g}" for factor in wrong.values())
            what = f"in updates {', '.join(map(str, wrong))} all leaves move {far} times as far as they must"
            return Located("rate-applied" if any(wrong.values()) else "skipped", (what,))
    if "first moment" in first and first["first moment"].got.updates <= at:
        if times := _scaled(compared, at):
            return Located(
                "scaled-update", (f"the gradient that the optimizer gets in update {at - 1} {times}", *words)
            )
        return Located("before-moments", words)
    if "second moment" in first and first["second moment"].got.updates <= at:
        return Located("second-moment", words)
    kinds = [place for place, _ in facts if place]
    if "no-gradient" in kinds:
        return Located("no-gradient", words)
    moments = any(kind == "first moment" for kind, _ in right)
    if kinds and all(place == "decay" for place in kinds):
        return Located("decay", words)
    if kinds and all(place == "rate" for place in kinds):
        return Located("rate-applied", words)
    if kinds and (moments or any(kind == "gradient" for kind, _ in right) or "rate" not in kinds):
        return Located("leaves", words)
    if moments:
        return Located("after-moments", words)
    known = any(kind == "gradient" for kind, _ in right)
    return Located("optimizer" if known else "gradient-or-optimizer", words)


def _factors(compared: list[Pair]) -> dict[int, float]:
    """How many times as far as they must all leaves move in each update, 1 if it is right; else empty."""
    factors = {}
    for pair in compared:
        if pair.got.kind == "distance" and pair.got.since == 1 and moves(pair):
            still = not any(leaf.any() for leaf in pair.got.value.values())
            factor = 0.0 if still else common_factor(pair.got.value, pair.want.value, pair.limits)
            if factor is None:
                return {}
            factors[pair.got.updates - 1] = factor if pair.bad else 1.0
    return factors


def _scaled(compared: list[Pair], at: int) -> str:
    """How much of the gradient the first update's moments have, if it is one factor; empty if not.

    A wrong b1 scales the first moment too, and the second one not by the square of that.
    """
    both = [pair for pair in compared if pair.got.updates == at == 1 and "moment" in pair.got.kind]
    factors = [common_factor(pair.got.value, pair.want.value, pair.limits) for pair in both]
    if len(factors) != 2:
        return ""
    one, two = factors
    if one is None or two is None or not np.isclose(two, one**2, rtol=FACTORS):
        return ""
    return f"is {one:.5g} times the right one, in every leaf"


def _loss(pair: Pair) -> Iterator[str]:
    got, want = (float(side.value["loss"]) for side in (pair.got, pair.want))
    yield f"the {pair.got.what} is {got:.6g}, the oracle's {want:.6g}"
