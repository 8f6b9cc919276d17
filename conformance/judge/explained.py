"""Failures whose numbers variants of the oracle explain -> cause, layer and next step; and what is unknown."""

import collections
import functools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.law import by_id, read
from ..core.result import Result
from ..oracle.variants.table import Variant, named

# The most explanations of the same numbers that a cause names.
MOST_NAMED = 3
# The most measurements that a cause has, and how many of one failure are enough.
MOST_MEASURED, ENOUGH = 5, 2
# An explanation of a part is named if it divides the margin by at least this.
PART = 100.0
# Places of a wrong forward pass.
FORWARD = ("forward", "rounding")
# Places that say no more than where the first wrong result is.
GENERAL = (
    "forward",
    "logits",
    "evaluation-network",
    "loss",
    "first-update",
    "backward",
    "optimizer",
    "gradient-or-optimizer",
)
# What a variant says of what it leaves as it is.
REST = r"; the (gradient|loss) is right|^The (update|reported learning rate) is right, but |, but the gradient is right"
# How a sentence begins that says in which simpler runs the trainer is right.
RIGHT = "right "
# How this or another measurement begins -> places that are about it, and what it adds to the next step of other places.
ADDED: dict[str | tuple[str, ...], tuple[tuple[str, ...], str]] = {
    "right on ": (
        ("device", "reduction", "elements", "uneven-rows", "rounded-reduction", "moments-by-device"),
        "It is right on one device, so compare it there and on several: which part each device computes or keeps, and "
        "how the parts are put together.",
    ),
    "right without micro-batches": (
        ("micro-batch", "accumulation", "uneven-rows"),
        "It is right without micro-batches, so compare one update with and without them: what each micro-batch adds, "
        "and what is done once for all of them.",
    ),
    "right without dropout": (
        ("dropout", "device-dropout", "random-dropout"),
        "It is right without dropout, so compare what the masks are drawn from: seed, number of the update, layer and "
        "example, and nothing else, such as a micro-batch's number or a device's.",
    ),
    ("these are the rows of all devices", "these are the rows of the last device"): (
        ("device", "moments-by-device"),
        "The wrong rows are all those of some devices, so compare the state of each device with that of one whose rows "
        "are right: parameters, and what is restored, copied or updated on each.",
    ),
    "right in update": (
        ("later-gradient", "history", "observation", "schedule", "rate"),
        "The updates before the one that is named are right, so look for what changes with the number of the update: a "
        "counter, a loss scale, a schedule, a buffer, a cache.",
    ),
}
# What is one number, which many variants bring nearer by chance.
SCALARS = ("loss", "learning rate")


@dataclass(frozen=True)
class Explanation:
    """The variants that explain most of the failures."""

    layer: str
    group: str
    cause: str
    next_step: str
    record: Result  # the failure with the largest margin among those explained
    evidence: list[str]


def explanation(failures: Sequence[Result]) -> Explanation | None:
    """The explanation of failures, the one with the largest margin first; None if no variant explains any of them."""
    votes: collections.Counter[tuple[str, ...]] = collections.Counter()
    for record in failures:
        votes.update(tuple(ids) for ids in _by(record))
    if not votes:
        return None
    # Of several with equally many votes, the first of the failure that speaks first. One that leaves most of the
    # failures unexplained may fit by chance.
    most = max(votes.values())
    if most * 2 < sum("explained" in record.facts for record in failures):
        return None
    best = [ids for ids, count in votes.items() if count == most]
    record = next(record for record in failures if best[0] in map(tuple, _by(record)))
    several = [one for name in best[0] if (one := named(name))]
    others = [ids for ids in best[1:] if list(ids) in _by(record)][: MOST_NAMED - 1]
    facts = record.facts["explained"]
    before, after = _margins(facts)
    evidence = [
        f"{record.id}: {facts['what']}: {before:.3g} of its bound from the oracle, {after:.2g} from "
        f"the oracle with {' and '.join(best[0])}"
    ]
    rest = [
        one.id for one in failures if "explained" in one.facts and one is not record and list(best[0]) not in _by(one)
    ]
    if rest:
        evidence.append(f"not explained by that: {', '.join(rest)}")
    firsts = [several[0], *(one for ids in others if (one := named(ids[0])))]
    steps = " Otherwise: ".join(dict.fromkeys(one.next_step for one in firsts))
    return Explanation(several[0].layer, several[0].group, _cause(several, others), steps, record, evidence)


def _by(record: Result) -> list[list[str]]:
    return [ids for ids in record.facts.get("explained", {}).get("by", []) if all(map(named, ids))]


def _cause(several: Sequence[Variant], others: Sequence[Sequence[str]]) -> str:
    cause = several[0].cause
    if len(several) > 1:
        # What one of them says of the rest is no longer so.
        alone = [re.sub(REST, "", variant.cause) for variant in several]
        cause = f"{len(several)} defects together: {' '.join(f'{one[0].upper()}{one[1:]}' for one in alone)}"
    own = {variant.id for variant in several}
    same = [" ".join(one.cause for name in ids if name not in own and (one := named(name))) for ids in others]
    return f"{cause} (Or, with the same numbers: {' Or: '.join(same)})" if same else cause


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run parts from the oracle's, in general words: an entry of places.toml."""

    id: str
    layer: str
    cause: str
    next_step: str


@functools.cache
def places() -> dict[str, Place]:
    """All places by id; raises as `core.law.read` does."""
    return by_id((place.id, place) for place in read(Path(__file__).with_name("places.toml"), Place))


def next_of(place: Place, record: Result) -> str:
    """The next step of a place, and what a simpler run that is right, or a group of rows that is wrong, adds to it."""
    words = record.facts["explained"]["measured"]
    more = [
        text for begins, (own, text) in ADDED.items()
        if not place.id.startswith(own) and any(word.startswith(begins) for word in words)
    ]  # fmt: skip
    return " ".join([place.next_step, *more])


def place_of(failures: Sequence[Result]) -> tuple[Place, Result] | None:
    """The place that most of the failures show, and the first failure that does; None if none does.

    A wrong forward pass is named wherever it is seen, since it makes all other results wrong too.
    """
    shown = [(record.facts["explained"].get("place", ""), record) for record in failures if unexplained(record)]
    shown = [(place, record) for place, record in shown if place in places()]
    if not shown:
        return None
    votes = collections.Counter(place for place, _ in shown)
    most = next((place for place in FORWARD if place in votes), max(votes, key=lambda place: votes[place]))
    return places()[most], next(record for place, record in shown if place == most)


def follows_from(record: Result, records: Sequence[Result]) -> Result | None:
    """The failure of the same trainer that shows a wrong forward pass, from which another one follows; None if none.

    Wrong logits make every loss, gradient and update wrong, but no learning rate.
    """
    mine = [
        one for one in records if one.subject == record.subject and "explained" in one.facts and one.rung <= record.rung
    ]
    wrong = [one for one in mine if _forward(one) and one.id != record.id]
    own = _forward(record) or record.facts["explained"]["what"].startswith("learning rate")
    return None if own or not wrong else wrong[0]


def _forward(record: Result) -> bool:
    """Whether a failure shows that the forward pass is wrong, in training too."""
    kinds = [[one.group for name in ids if (one := named(name)) and not one.scope] for ids in _by(record)[:1]]
    return any("forward" in kind for kind in kinds) or record.facts["explained"].get("place", "") in FORWARD


def _margins(facts: Mapping[str, Any]) -> tuple[float, float]:
    """How far the trainer is from the oracle, and from its nearest form, in bounds; a record has infinity as text."""
    return float(facts["before"]), float(facts["after"])


def unknown(record: Result, failures: Sequence[Result], possible: str, place: Place | None = None) -> str:
    """The cause of a failure that no variant explains: that of its place, or what it can be; and what was measured."""
    facts = record.facts["explained"]
    part, scalar = "", facts["what"].startswith(SCALARS)
    # Each variant must do its part; and what was measured of rows and leaves says more.
    before, after = _margins(facts)
    size = PART ** len(facts["nearest"]) * after
    general = place is None or place.id in GENERAL
    rights = [word for word in facts["measured"] if word.startswith(RIGHT)] if place else []
    if facts["nearest"] and general and not scalar and facts["what"] == facts["left"] and before > size:
        causes = " ".join(one.cause for name in facts["nearest"] if (one := named(name)))
        part = (
            f" The variant that comes nearest, though not within the bounds: {causes} It leaves "
            f"{after:.3g} of {before:.3g} times the bound."
        )
    tried = f"none of {facts['tried']} variants of the oracle gives these numbers."
    shown = measured([record, *(one for one in failures if one is not record)], rights)
    if place is None:
        return f"Unknown: {tried}{shown}{part} {possible}"
    known = f" The run is {'; '.join(rights)}." if rights else ""
    if not general:
        end = f"This much is certain; which mistake of this kind it is could not be distinguished: {tried}"
    elif shown or known:
        end = f"What was measured is certain; which mistake causes it could not be distinguished: {tried}"
    else:
        end = f"The exact cause is unknown: {tried}"
    return f"{place.cause}{known}{shown}{part} {end}"


def unexplained(record: Result) -> bool:
    """Whether variants of the oracle were compared, and none explains the numbers."""
    return "explained" in record.facts and not _by(record)


def measured(failures: Sequence[Result], known: Collection[str] = ()) -> str:
    """What was measured about failures, as a sentence that names the most particular first; empty if nothing was.

    What is `known` already is left out.
    """
    # One failure says enough if two things were measured about it; others repeat it for other runs.
    each = [record.facts["explained"]["measured"] for record in failures if "explained" in record.facts]
    words = [word for i, some in enumerate(each) for word in some if i == 0 or len(each[0]) < ENOUGH]
    # Which leaves are wrong says less than a common factor, a narrow type or a property of the rows.
    # What another sentence begins with says nothing more.
    words = [word for word in dict.fromkeys(words) if word not in known]
    words = [word for word in words if not any(other != word and other.startswith(word) for other in words)]
    words = sorted(words, key=lambda word: ("wrong in" in word) + word.endswith("are wrong"))
    return f" Measured: {'; '.join(words[:MOST_MEASURED])}." if words else ""
