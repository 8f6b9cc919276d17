"""Which rungs fell and which stood, and with what values -> one diagnosis: the layer at fault, the cause, the evidence.

The rules are data (`diagnoses.toml`), read from the first to the last. A rung below says more than one above, so only
the lowest rung that fell is asked; what stands on it was blocked, or computed with what is broken.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.law import RUNGS
from ..core.result import Result
from .advice import advice
from .outcome import BROKEN, Outcome

# Checks whose messages are told.
MOST_TOLD = 5


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A pattern of what fell, and what it points at.

    Attributes:
        layer: at fault; one of `faults.LAYERS`.
        falls: ids of laws, or starts of ids that end in a dot; at least one of them fell.
        only: whether nothing else fell on that rung.
        besides: laws of which a check fell too.
        stands: laws of that rung of which no check fell, and at least one passed.
        says: a regular expression that a message matches.
        holds: a change under which the broken law held, as `subjects.narrowed` names it.
        fails: a change under which it was broken too.
        off_by: least and largest relative error, in the l2 norm, of the comparison that failed.
        cause: instead of the law's own.
        next_step: instead of the law's own.
    """

    layer: str
    falls: tuple[str, ...]
    only: bool = False
    besides: tuple[str, ...] = ()
    stands: tuple[str, ...] = ()
    says: str = ""
    holds: str = ""
    fails: str = ""
    off_by: tuple[float, float] | None = None
    cause: str = ""
    next_step: str = ""

    def matches(self, fallen: Sequence[Result], stood: Sequence[Result]) -> Result | None:
        """The record that the rule speaks of, if it fits what fell and stood on one rung."""
        mine = [record for record in fallen if self._names(record.law)]
        if self.only and len(mine) < len(fallen):
            return None
        broken, whole = {record.law for record in fallen}, {record.law for record in stood}
        if any(law not in broken for law in self.besides):
            return None
        if any(law in broken or law not in whole for law in self.stands):
            return None
        return next((record for record in mine if self._fits(record)), None)

    def _names(self, law: str) -> bool:
        return any(law == word or (word.endswith(".") and law.startswith(word)) for word in self.falls)

    def _fits(self, record: Result) -> bool:
        if self.says and not re.search(self.says, record.message):
            return False
        if any(
            way and way not in record.facts.get(fact, ())
            for fact, way in (("holds", self.holds), ("fails", self.fails))
        ):
            return False
        if self.off_by is None:
            return True
        error = record.facts.get("off_by")
        return isinstance(error, float) and self.off_by[0] <= error <= self.off_by[1]


@functools.cache
def rules() -> tuple[Rule, ...]:
    """All of them, in their order.

    Raises:
        TypeError: an entry has a field too many or too few.
    """
    text = Path(__file__).with_name("diagnoses.toml").read_text(encoding="utf-8")
    lists = ("falls", "besides", "stands", "off_by")
    entries: list[dict[str, Any]] = tomllib.loads(text)["diagnosis"]
    made: list[dict[str, Any]] = [{k: tuple(v) if k in lists else v for k, v in entry.items()} for entry in entries]
    return tuple(Rule(**entry) for entry in made)


def diagnose(outcome: Outcome) -> dict[str, Any] | None:
    """Layer, cause, evidence and next step of what fell; None where nothing did."""
    fallen = outcome.of_status(*BROKEN)
    if not fallen:
        return None
    # Of several trainers the first that fell: each may have a fault of its own.
    rung, subject = fallen[0].rung, fallen[0].subject
    lowest = [record for record in fallen if (record.rung, record.subject) == (rung, subject)]
    passed = outcome.of_status("pass")
    here = [record for record in passed if (record.rung, record.subject) == (rung, subject)]
    judged = [record for record in lowest if record.status == "fail"] or lowest
    for rule in rules():
        record = rule.matches(judged, here)
        if record is not None:
            cause, next_step = advice(record)
            layer, cause, next_step = rule.layer, rule.cause or cause, rule.next_step or next_step
            break
    else:
        record, layer = judged[0], RUNGS[rung]
        cause, next_step = advice(record)
    evidence = [f"{found.id}: {found.status}: {found.message}" for found in [record, *lowest] if found.message]
    evidence = list(dict.fromkeys(evidence))[:MOST_TOLD] + _values(record)
    evidence += _who(lowest, [found for found in outcome.ended() if found.rung == rung])
    below = sum(found.rung < rung for found in passed)
    whose = f" of {subject}" if subject else ""
    evidence.append(
        f"{len(lowest)} of {len(lowest) + len(here)} checks of rung {rung}{whose} fell; {below} below it passed"
    )
    return {"layer": layer, "cause": cause, "evidence": evidence, "next_step": next_step}


def _values(record: Result) -> list[str]:
    """What the failure depends on: where it holds, and how far off it is."""
    facts, said = record.facts, []
    if facts.get("holds"):
        said.append(f"{record.id}: it holds {', '.join(facts['holds'])}")
    if facts.get("fails"):
        said.append(f"{record.id}: it fails {', '.join(facts['fails'])} too")
    if facts.get("held_before"):
        said.append(f"{record.id}: held before: {'; '.join(facts['held_before'])}")
    if isinstance(facts.get("off_by"), float):
        said.append(f"{record.id}: off by a share of {facts['off_by']:.2g} in the l2 norm")
    return said


def _who(lowest: Sequence[Result], here: Sequence[Result]) -> list[str]:
    """What other trainers did before the same laws."""
    laws, mine = {record.law for record in lowest}, lowest[0].subject
    others: dict[str, set[str]] = {}
    for record in here:
        if record.subject not in (None, mine) and record.law in laws and record.status in ("pass", *BROKEN):
            others.setdefault(str(record.subject), set()).add("stood" if record.status == "pass" else "fell")
    fell = [name for name, ends in others.items() if "fell" in ends]
    stood = [name for name in others if name not in fell]
    said = [
        f"{', '.join(names)} {word} before the same laws" for word, names in (("fell", fell), ("stood", stood)) if names
    ]
    return said if mine else []
