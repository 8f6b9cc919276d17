"""Failures whose numbers variants of the oracle explain -> cause, layer and next step; and what is unknown."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.result import Result
from ..oracle.variants.table import Variant, named

# The most explanations of the same numbers that a cause names.
MOST_NAMED = 3
# An explanation of a part is named if it divides the margin by at least this.
PART = 100.0
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
    evidence = [
        f"{record.id}: {facts['what']}: {facts['before']:.3g} of its bound from the oracle, {facts['after']:.2g} from "
        f"the oracle with {' and '.join(best[0])}"
    ]
    rest = [
        one.id for one in failures if "explained" in one.facts and one is not record and list(best[0]) not in _by(one)
    ]
    if rest:
        evidence.append(f"not explained by that: {', '.join(rest)}")
    return Explanation(
        several[0].layer, several[0].group, _cause(several, others), several[0].next_step, record, evidence
    )


def _by(record: Result) -> list[list[str]]:
    return [ids for ids in record.facts.get("explained", {}).get("by", []) if all(map(named, ids))]


def _cause(several: Sequence[Variant], others: Sequence[Sequence[str]]) -> str:
    cause = " ".join(variant.cause for variant in several)
    if len(several) > 1:
        cause = f"{len(several)} defects together: {cause}"
    own = {variant.id for variant in several}
    same = [" ".join(one.cause for name in ids if name not in own and (one := named(name))) for ids in others]
    return f"{cause} (Or, with the same numbers: {' Or: '.join(same)})" if same else cause


def unknown(record: Result, failures: Sequence[Result], possible: str) -> str:
    """The cause of a failure that no variant explains: what was measured about all failures, and what is possible."""
    facts = record.facts["explained"]
    part, scalar = "", facts["what"].startswith(SCALARS)
    if facts["nearest"] and not scalar and facts["what"] == facts["left"] and facts["before"] > PART * facts["after"]:
        causes = " ".join(one.cause for name in facts["nearest"] if (one := named(name)))
        part = f" Partly: {causes} That leaves {facts['after']:.3g} of {facts['before']:.3g} of the bound."
    tried = f"Unknown: none of {facts['tried']} variants of the oracle gives these numbers."
    return f"{tried}{measured(failures)}{part} Possible: {possible}"


def unexplained(record: Result) -> bool:
    """Whether variants of the oracle were compared, and none explains the numbers."""
    return "explained" in record.facts and not _by(record)


def measured(failures: Sequence[Result]) -> str:
    """What was measured about failures, as a sentence that names the most particular first; empty if nothing was."""
    words = [
        word for record in failures if "explained" in record.facts for word in record.facts["explained"]["measured"]
    ]
    # Which leaves are wrong says less than a common factor, a narrow type or a property of the rows.
    words = sorted(dict.fromkeys(words), key=lambda word: ("wrong in" in word) + ("are wrong" in word))
    return f" Measured: {'; '.join(words[:MOST_NAMED])}." if words else ""
