"""Failures whose numbers variants of the oracle explain -> cause, layer and next step; and what is unknown."""

import collections
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.result import Result
from ..oracle.variants.table import Variant, variants

# The most explanations of the same numbers that a cause names.
MOST_NAMED = 3
# An explanation of a part is named if it divides the margin by at least this.
PART = 100.0


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
    # Of several with equally many votes, the first of the failure that speaks first.
    most = max(votes.values())
    best = [ids for ids, count in votes.items() if count == most]
    record = next(record for record in failures if best[0] in map(tuple, _by(record)))
    several = [variants()[name] for name in best[0]]
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
    known = variants()
    return [ids for ids in record.facts.get("explained", {}).get("by", []) if known.keys() >= set(ids)]


def _cause(several: Sequence[Variant], others: Sequence[Sequence[str]]) -> str:
    cause = " ".join(variant.cause for variant in several)
    if len(several) > 1:
        cause = f"{len(several)} defects together: {cause}"
    same = ["; with ".join(variants()[name].cause.rstrip(".") for name in ids) for ids in others]
    return f"{cause} (These numbers would be the same: {'. Or: '.join(same)}.)" if same else cause


def unknown(record: Result, possible: str) -> str:
    """The cause of a failure that no variant explains: what was measured, and what is possible."""
    facts = record.facts.get("explained")
    if facts is None:
        return possible
    part = ""
    if facts["nearest"] and facts["what"] == facts["left"] and facts["before"] > PART * facts["after"]:
        causes = " ".join(variants()[name].cause for name in facts["nearest"] if name in variants())
        part = f" Partly: {causes} That leaves {facts['after']:.3g} of {facts['before']:.3g} of the bound."
    measured = f" Measured: {'; '.join(facts['measured'])}." if facts["measured"] else ""
    tried = f"Unknown: none of {facts['tried']} variants of the oracle gives these numbers."
    return f"{tried}{measured}{part} Possible: {possible}"
