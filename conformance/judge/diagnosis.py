"""Failed and passed checks, and their messages and facts -> one diagnosis: layer, cause, evidence, next step.

Only failures of the lowest failed rung count: checks of higher rungs are blocked, or may fail because of what is broken
below. Where variants of the oracle explain a trainer's numbers (`oracle/variants`), they are the cause. Otherwise the
rules decide; they are data (`diagnoses.toml`), and the first rule that matches is used.
"""

import dataclasses
import functools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.law import RUNGS, laws, read
from ..core.result import Result
from .advice import next_step_of, without_accelerators, without_idle
from .explained import Explanation, explanation, follows_from, measured, next_of, place_of, unexplained, unknown
from .outcome import BROKEN, LOST, Outcome

# The most messages of checks that are evidence.
MOST_SHOWN = 5


# The next step for a wrong score, whichever mistake it is.
SCORED = (
    "Compute both scores by hand for one call of `score`: F1 is that of class 1 (`average='binary'`, `pos_label=1`), "
    "from counts over all rows of weight above 0. Compare which rows, which class, which average and which parameters "
    "the trainer takes."
)


def advice(record: Result, others: Sequence[Result] = ()) -> tuple[str, str]:
    """Likely cause and next step of a failed check among `others`, all results so far: what was measured, or its law's.

    What follows from logits that are wrong already has no cause of its own.
    """
    found = explanation([record]) if record.status == "fail" and not record.facts.get("scores") else None
    if found:
        return found.cause, found.next_step
    if record.status != "fail" or not unexplained(record) or _exact(record) is not None:
        cause, step = _own(record)
    elif (first := follows_from(record, others)) is not None:
        cause = f"This follows from the network's forward pass, which is wrong already ({first.id})."
        step = f"Fix what {first.id} names, and rerun; then see whether this check still fails."
    else:
        shown, law = place_of([record]), laws()[record.law]
        cause = unknown(record, [record], law.cause, shown and shown[0])
        step = next_of(*shown) if shown else law.next_step
    if "explained" in record.facts and (words := measured([record])) and (first := _diagnosed(record, others)):
        # Two causes would contradict each other; what this check measured stays.
        cause = f"The diagnosis is about {first.id}.{words}"
    if (first := _measured_instead(record, others)) is not None:
        # A guess beside a measured cause misleads; what this check measured stays.
        cause = f"{first.id} was measured, and can have the same cause: see there.{measured([record])}"
        step = f"Fix what {first.id} names, and rerun; if this check still fails then, it has a cause of its own."
    broken = {one.law for one in others if one.status in BROKEN and one.subject in (None, record.subject)}
    return cause, without_idle(step, broken) if others and record.status in BROKEN else step


def _measured_instead(record: Result, others: Sequence[Result]) -> Result | None:
    """The failure of the same trainer whose cause was measured, if that of this one was not; None if there is none."""
    if record.status != "fail" or record.subject is None or _is_measured(record) or record.facts.get("scores"):
        return None
    if _exact(record) is not None or (unexplained(record) and follows_from(record, others) is not None):
        return None
    mine = [one for one in others if one.subject == record.subject and one.rung <= record.rung and one.status == "fail"]
    named = [one for one in mine if one.id != record.id and _is_measured(one)]
    return min(named, key=lambda one: (one.rung, _loudness(one)), default=None)


def _diagnosed(record: Result, others: Sequence[Result]) -> Result | None:
    """The failure of the same trainer and rung that the diagnosis is about, if it has another cause than this one."""
    of_rung = [one for one in others if (one.subject, one.rung) == (record.subject, record.rung)]
    mine = sorted((one for one in of_rung if one.status == "fail"), key=_loudness)
    # A wrong learning rate does not follow from anything else; what follows from wrong logits says so.
    apart = record.facts["explained"]["what"].startswith("learning rate") or follows_from(record, others) is not None
    if apart or any(_intermittent(one) for one in mine):
        return None
    found, own = explanation(mine), explanation([record])
    if found is not None:
        return None if own is not None and own.cause == found.cause else found.record
    shown = place_of(mine)
    alike = shown is None or (own is None and record.facts["explained"].get("place", "") == shown[0].id)
    return None if shown is None or alike else shown[1]


def _intermittent(record: Result) -> bool:
    return "when rerun" in record.facts.get("holds", ())


def _is_measured(record: Result) -> bool:
    return "explained" in record.facts and (not unexplained(record) or place_of([record]) is not None)


def _exact(record: Result) -> "Rule | None":
    """The rule that the message of a failed check establishes; None if there is none."""
    return next((rule for rule in rules() if rule.exact and rule.cause and rule.match([record], ())), None)


def _own(record: Result) -> tuple[str, str]:
    """Cause and next step of a failed check by itself: of how it ended, its scores, its message, or the law's."""
    law = laws()[record.law]
    if record.status in ("error", "crash", "hang") and record.subject is not None:
        return _ended(record)
    if record.status == "error":
        how = "Read the message; run the check under pytest (`--sftref-only` with its id) for the traceback."
        return "The check raised an exception.", how
    if record.facts.get("scores"):
        return f"{'; '.join(record.facts['scores'])}.", SCORED
    if record.status == "fail" and (rule := _exact(record)) is not None:
        cause, step = rule.texts(record)
        return cause, step or law.next_step
    return law.cause, law.next_step


def _ended(record: Result) -> tuple[str, str]:
    """Cause and next step of a trainer's check that ended without a result."""
    if record.status == "error":
        what, how = "The trainer, its adapter or the check raised an exception", "Fix what the message names"
    elif record.status == "crash":
        what, how = "The trainer's process ended", "Look at the last lines and the frame in the message"
    else:
        what, how = "The trainer did not answer in time", "The stack in the message shows where it waits"
    text = " ".join(record.message.split())
    return (
        f"{what}, so no result is wrong: {text}",
        f"{how}; rerun the command of the failure to see whether it repeats.",
    )


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A pattern of failures, and the layer that it points at."""

    layer: str  # the layer at fault, one of `LAYERS`
    failed: tuple[str, ...]  # ids of laws, or beginnings of ids that end in a dot; at least one of them failed
    only: bool = False  # whether all failures of the rung must be among `failed`
    also_failed: tuple[str, ...] = ()  # laws that must have failed too
    passed: tuple[str, ...] = ()  # laws of the rung; at least one check of each passed and none failed
    message: str = ""  # a regular expression that must match the message of the failure
    passes: str = ""  # a simplified variant (from `trainer_checks.simplified`) that passed
    fails: str = ""  # a simplified variant that failed too
    # Smallest and largest relative error, in the l2 norm, of the failed comparison.
    off_by: tuple[float, float] | None = None
    accelerator: bool = False  # whether the rule is about accelerators only
    exact: bool = False  # whether the message alone establishes the cause, so that no place is named instead
    tested: bool = False  # whether variants of the oracle test its cause, which is not named if they contradict it
    cause: str = ""  # replaces the law's own; {name} is a named group of `message`
    next_step: str = ""  # replaces the law's own, as for `cause`

    def match(self, failures: Sequence[Result], passes: Sequence[Result]) -> Result | None:
        """The failure that the rule explains, given failures and passes of one rung; None if it does not match."""
        starts = tuple(word for word in self.failed if word.endswith("."))
        named = [record for record in failures if record.law in self.failed or record.law.startswith(starts)]
        if self.only and len(named) < len(failures):
            return None
        failed, passed = {record.law for record in failures}, {record.law for record in passes}
        if not failed.issuperset(self.also_failed) or not (passed - failed).issuperset(self.passed):
            return None
        return next((record for record in named if self._fits(record)), None)

    def texts(self, record: Result) -> tuple[str, str]:
        """Cause and next step of a failure, with what its message says."""
        found = re.search(self.message, record.message)
        words = found.groupdict("none") if found else {}
        return self.cause.format(**words), self.next_step.format(**words)

    def _fits(self, record: Result) -> bool:
        holds, fails = record.facts.get("holds", ()), record.facts.get("fails", ())
        error = record.facts.get("off_by")
        return (
            bool(re.search(self.message, record.message))
            and (not self.passes or self.passes in holds)
            and (not self.fails or self.fails in fails)
            and not (self.tested and unexplained(record))
            and (self.off_by is None or (isinstance(error, float) and self.off_by[0] <= error <= self.off_by[1]))
        )


@functools.cache
def rules() -> tuple[Rule, ...]:
    """All rules, in order; raises as `core.law.read` does."""
    return tuple(read(Path(__file__).with_name("diagnoses.toml"), Rule))


def diagnose(outcome: Outcome) -> dict[str, Any] | None:
    """The faulty layer, the cause, evidence and the next step; None if no check failed."""
    failures = [record for record in outcome.of_status(*BROKEN) if record.judged]
    if not failures:
        return None
    # Only failures of the first trainer that failed: each trainer may have a fault of its own.
    rung, subject = failures[0].rung, failures[0].subject
    lowest = [record for record in failures if (record.rung, record.subject) == (rung, subject)]
    passes = outcome.of_status("pass")
    beside = [record for record in passes if (record.rung, record.subject) == (rung, subject)]
    judged = sorted((record for record in lowest if record.status == "fail"), key=_loudness)
    layer, cause, step, record, evidence = _judge(judged, lowest, beside, outcome)
    known = (
        [one for one in outcome.of_status("deviation") if one.subject == subject and one.rung < rung] if subject else []
    )
    if known and judged and explanation(judged) is None:
        # What was accepted below breaks what is built on it.
        same = [_as_failed(one) for one in known if one.rung == known[0].rung]
        around = [one for one in passes if (one.rung, one.subject) == (known[0].rung, subject)]
        layer, cause, step, _, evidence = _judge(same, same, around, outcome)
        cause = f"Probably what was accepted as a deviation ({', '.join(one.id for one in known)}): {cause}"
    messages = [f"{one.id}: {one.status}: {one.message}" for one in [record, *lowest] if one.message]
    evidence += list(dict.fromkeys(messages))[:MOST_SHOWN] + _facts(record)
    if subject:
        evidence += _other_trainers(lowest, [one for one in outcome.ended() if one.rung == rung])
    evidence.append(
        f"{len(lowest)} of {len(lowest) + len(beside)} checks of rung {rung}{f' of {subject}' if subject else ''} "
        f"failed; {sum(one.rung < rung for one in passes)} on lower rungs passed"
    )
    return {
        "layer": layer,
        "cause": without_accelerators(cause, outcome),
        "evidence": evidence,
        "next_step": next_step_of(step, subject, outcome),
    }


def _judge(
    judged: Sequence[Result], lowest: Sequence[Result], beside: Sequence[Result], outcome: Outcome
) -> tuple[str, str, str, Result, list[str]]:
    """Layer, cause, next step, the failure that they are about, and evidence for them."""
    tries = outcome.tries
    if not judged and lowest[0].status in LOST and tries is not None and tries.passed_unchanged:
        how = " ".join(lowest[0].message.split())
        passed = f"{tries.passed_unchanged} of {tries.unchanged} reruns of it passed"
        cause = f"The process of {lowest[0].id} ended ({how}); {passed}. So it was ended from outside, or rarely fails."
        step = "Look in the system's log for what ended the process at that time; rerun, to see how often it happens."
        return "process", cause, step, lowest[0], []
    if not judged and lowest[0].subject is not None:
        layer = "adapter" if lowest[0].status == "error" else "process"
        return layer, *_ended(lowest[0]), lowest[0], []
    intermittent = any(_intermittent(record) for record in judged)
    found: Explanation | None = None if intermittent else explanation(judged)
    if found is not None:
        layer = "autodiff" if found.record.law == "autodiff.model" and found.group == "scale" else found.layer
        return layer, found.cause, found.next_step, found.record, found.evidence
    known = [rule for rule in rules() if not rule.accelerator or outcome.accelerated]
    matches = ((rule, rule.match(judged or lowest, beside)) for rule in known)
    default = Rule(layer=RUNGS[lowest[0].rung], failed=()), (judged or lowest)[0]
    rule, record = next(((rule, record) for rule, record in matches if record), default)
    shown = None if rule.exact or intermittent else place_of(judged)
    if shown is not None:
        place, record = shown
        return place.layer, unknown(record, judged, "", place), next_of(place, record), record, []
    if record.facts.get("scores"):
        # What is known of several wrong scores at once is the surest: it leaves the fewest mistakes.
        scored = [one for one in judged if one.facts.get("scores")]
        record = min(scored, key=lambda one: sum(words.count(" or ") for words in one.facts["scores"]))
        return rule.layer, *_own(record), record, []
    (cause, step), (own, next_step) = _own(record), rule.texts(record)
    if own:
        # What a message alone establishes, other failures do not measure.
        cause = own + measured([record] if rule.exact else judged)
    elif unexplained(record):
        cause = unknown(record, judged, cause)
    return rule.layer, cause, next_step or step, record, []


def _as_failed(record: Result) -> Result:
    """An accepted failure, as it was before a deviation covered it."""
    return dataclasses.replace(record, status="fail", message=record.message.partition("seen again as fail: ")[2])


def _loudness(record: Result) -> float:
    """The largest margin speaks first; exact comparisons, whose margin is infinite, and other trainers speak last."""
    margin = record.margin or 0.0
    return -margin if margin < sys.float_info.max and record.law != "equivalence.against" else 0.0


def _facts(record: Result) -> list[str]:
    """Texts for what was measured, the simplified variants that were run, and earlier comparisons that passed."""
    facts = record.facts
    margins = facts.get("margins", {})
    names = {
        "passes": ", ".join(facts.get("holds", ())),
        "also fails": ", ".join(facts.get("fails", ())),
        "error in units of the bound:": ", ".join(f"{float(margin):.2g} {name}" for name, margin in margins.items()),
        "passed before:": "; ".join(facts.get("held_before", ())),
        "relative error": f"{facts['off_by']:.2g} in the l2 norm" if isinstance(facts.get("off_by"), float) else "",
    }
    return [f"{record.id}: {words} {texts}" for words, texts in names.items() if texts]


def _other_trainers(lowest: Sequence[Result], records: Sequence[Result]) -> list[str]:
    """Texts that say which other trainers failed or passed the laws of these failures."""
    broken = {record.law for record in lowest}
    others = [one for one in records if one.subject not in (None, lowest[0].subject) and one.law in broken]
    failed = dict.fromkeys(str(one.subject) for one in others if one.status in BROKEN)
    passed = dict.fromkeys(str(one.subject) for one in others if one.status == "pass" and one.subject not in failed)
    ended = {"failed": failed, "passed": passed}
    return [f"{', '.join(names)} {word} the same laws" for word, names in ended.items() if names]
