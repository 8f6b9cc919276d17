"""Failed and passed checks, and their messages and facts -> one diagnosis: layer, cause, evidence, next step.

The rules are data (`diagnoses.toml`); the first one that matches counts. Only failures of the lowest failed rung are
judged: checks of higher rungs are blocked, or compute with what is broken.
"""

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

# Checks whose messages are evidence.
MOST_SHOWN = 5
ARRAYS = ("failed", "also_failed", "passed", "off_by")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A pattern of failures, and the layer that it points at.

    Attributes:
        layer: at fault; one of `LAYERS`.
        failed: ids of laws, or beginnings of ids that end in a dot; at least one of them failed.
        only: whether all failures of that rung are among `failed`.
        also_failed: laws that failed too.
        passed: laws of that rung of which at least one check passed and none failed.
        message: a regular expression that a message matches.
        passes: a simplification with which the law passed; `trainer_checks.simplified` names them.
        fails: a simplification with which it failed too.
        off_by: smallest and largest relative error, in the l2 norm, of the failed comparison.
        cause: replaces the law's own.
        next_step: replaces the law's own.
    """

    layer: str
    failed: tuple[str, ...]
    only: bool = False
    also_failed: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()
    message: str = ""
    passes: str = ""
    fails: str = ""
    off_by: tuple[float, float] | None = None
    cause: str = ""
    next_step: str = ""

    def match(self, failures: Sequence[Result], passes: Sequence[Result]) -> Result | None:
        """The failure that the rule is about, if it matches the failures and passes of one rung; else None."""
        named = [record for record in failures if self._names(record.law)]
        if self.only and len(named) < len(failures):
            return None
        failed, passed = {record.law for record in failures}, {record.law for record in passes}
        if not failed.issuperset(self.also_failed) or not (passed - failed).issuperset(self.passed):
            return None
        return next((record for record in named if self._fits(record)), None)

    def _names(self, law: str) -> bool:
        return any(law == word or (word.endswith(".") and law.startswith(word)) for word in self.failed)

    def _fits(self, record: Result) -> bool:
        if self.message and not re.search(self.message, record.message):
            return False
        facts = record.facts
        if (self.passes and self.passes not in facts.get("holds", ())) or (
            self.fails and self.fails not in facts.get("fails", ())
        ):
            return False
        if self.off_by is None:
            return True
        error = facts.get("off_by")
        return isinstance(error, float) and self.off_by[0] <= error <= self.off_by[1]


@functools.cache
def rules() -> tuple[Rule, ...]:
    """All rules, in order.

    Raises:
        TypeError: an entry has a missing or unknown field.
    """
    text = Path(__file__).with_name("diagnoses.toml").read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = tomllib.loads(text)["diagnosis"]
    return tuple(Rule(**entry | {name: tuple(entry[name]) for name in ARRAYS if name in entry}) for entry in entries)


def diagnose(outcome: Outcome) -> dict[str, Any] | None:
    """Layer, cause, evidence and next step of the failures; None without any."""
    failures = outcome.of_status(*BROKEN)
    if not failures:
        return None
    # Only the first trainer that failed: each may have a fault of its own.
    rung, subject = failures[0].rung, failures[0].subject
    lowest = [record for record in failures if (record.rung, record.subject) == (rung, subject)]
    passes = outcome.of_status("pass")
    beside = [record for record in passes if (record.rung, record.subject) == (rung, subject)]
    judged = [record for record in lowest if record.status == "fail"] or lowest
    matches = ((rule, rule.match(judged, beside)) for rule in rules())
    rule, record = next(((rule, record) for rule, record in matches if record), (None, judged[0]))
    layer, (cause, next_step) = RUNGS[rung], advice(record)
    if rule is not None:
        layer, cause, next_step = rule.layer, rule.cause or cause, rule.next_step or next_step
    messages = [f"{one.id}: {one.status}: {one.message}" for one in [record, *lowest] if one.message]
    evidence = list(dict.fromkeys(messages))[:MOST_SHOWN] + _facts(record)
    if subject:
        evidence += _other_trainers(lowest, [one for one in outcome.ended() if one.rung == rung])
    evidence.append(
        f"{len(lowest)} of {len(lowest) + len(beside)} checks of rung {rung}{f' of {subject}' if subject else ''} "
        f"failed; {sum(one.rung < rung for one in passes)} on lower rungs passed"
    )
    return {"layer": layer, "cause": cause, "evidence": evidence, "next_step": next_step}


def _facts(record: Result) -> list[str]:
    """The simplifications that change the result, earlier comparisons that passed, and the size of the error."""
    facts, lines = record.facts, []
    if facts.get("holds"):
        lines.append(f"{record.id}: passes {', '.join(facts['holds'])}")
    if facts.get("fails"):
        lines.append(f"{record.id}: also fails {', '.join(facts['fails'])}")
    if facts.get("held_before"):
        lines.append(f"{record.id}: passed before: {'; '.join(facts['held_before'])}")
    if isinstance(facts.get("off_by"), float):
        lines.append(f"{record.id}: relative error {facts['off_by']:.2g} in the l2 norm")
    return lines


def _other_trainers(lowest: Sequence[Result], records: Sequence[Result]) -> list[str]:
    """The results of other trainers for the same laws."""
    laws = {record.law for record in lowest}
    others = [one for one in records if one.subject not in (None, lowest[0].subject) and one.law in laws]
    failed = list(dict.fromkeys(str(one.subject) for one in others if one.status in BROKEN))
    passed = list(dict.fromkeys(str(one.subject) for one in others if one.status == "pass"))
    passed = [name for name in passed if name not in failed]
    return [
        f"{', '.join(names)} {word} the same laws" for word, names in (("failed", failed), ("passed", passed)) if names
    ]
