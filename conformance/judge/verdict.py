"""The outcome of a run -> one verdict, its exit code, and the line that is printed."""

import datetime
from collections.abc import Sequence
from typing import NamedTuple

from ..core.deviations import stale
from ..core.law import RUNGS, NotRunReason
from ..core.result import Result
from .mutation_score import fates
from .outcome import LOST, Outcome, unjudged_advice

CODES = {
    "CONFORMANT": 0, "NONCONFORMANT": 1, "WORKAROUND": 1, "SETUP": 2, "UNRESPONSIVE": 3, "INCOMPLETE": 4,
    "UNTRUSTED": 5,
}  # fmt: skip
MOST_NAMED = 3


class Verdict(NamedTuple):
    """A verdict, one of `CODES`; its line has the name, the reason, what ran, and how many seeded faults were seen."""

    name: str
    exit_code: int
    reason: str
    line: str


def judge(outcome: Outcome, today: datetime.date | None = None) -> Verdict:
    """The verdict on a run.

    A wrong result outranks a hang or a crash, and these outrank checks that did not run; the line names them all.
    """
    name, reason = _decide(outcome, stale_deviations(outcome, today))
    code = CODES[name] if outcome.interrupted is None else outcome.interrupted
    if name == "SETUP":
        return Verdict(name, code, reason, f"{name}: {reason}")
    return Verdict(name, code, reason, f"{name}: {reason}; {described(outcome)}; {self_test(outcome)}")


def self_test(outcome: Outcome) -> str:
    """How many of the seeded faults were seen, and the names of the others."""
    statuses = {fate.fault.id: fate.status for fate in fates(outcome)}
    missed = [fault for fault, status in statuses.items() if status == "survived"]
    seen = sum(status == "killed" for status in statuses.values())
    if not seen and not missed:
        return "no seeded fault was run"
    names = f", not {', '.join(missed[:MOST_NAMED])}{_more(len(missed) - MOST_NAMED)}" if missed else ""
    return f"{seen} of {seen + len(missed)} seeded faults seen{names}"


def stale_deviations(outcome: Outcome, today: datetime.date | None = None) -> list[str]:
    """The deviations of this run that no longer apply, each in a text with the reason."""
    day = today or datetime.datetime.now(datetime.UTC).date()
    return stale(outcome.deviations, outcome.ended(), outcome.settings.subjects, outcome.platforms, day)


def _decide(outcome: Outcome, old: Sequence[str]) -> tuple[str, str]:
    """The verdict and its reason; `old` are the stale deviations."""
    if outcome.setup is not None:
        return "SETUP", outcome.setup
    wrong, lost, unjudged = outcome.wrong(), outcome.of_status(*LOST), outcome.unjudged()
    passed, missing = outcome.of_status("pass"), unmet(outcome)
    reason = _reason(outcome, old)
    if outcome.interrupted is not None:
        return "INCOMPLETE", f"interrupted; {reason}"
    faults = fates(outcome)
    missed = next((fate for fate in faults if fate.status == "survived"), None)
    # If a seeded fault was missed, "everything passes" proves nothing.
    if outcome.tries is not None and outcome.tries.workaround and not old and missed is None:
        return "WORKAROUND", f"everything passes with {outcome.tries.workaround}, and without it: {reason}"
    if wrong or old or outcome.wrong_hosts():
        return "NONCONFORMANT", reason
    if lost or outcome.troubles:
        return "UNRESPONSIVE", reason
    if unjudged:
        # A trainer or a machine that ran no check at all has to be set up first.
        first = unjudged[0]
        ran = any(
            first.subject is None or record.subject is not None for record in [*passed, *outcome.of_status("deviation")]
        )
        words = " ".join(first.message.split())
        step = unjudged_advice(first)[1].rstrip(".")
        return ("INCOMPLETE", reason) if ran else ("SETUP", f"{words}; {step[0].lower()}{step[1:]}")
    if outcome.doubted:
        which = f"{outcome.doubted[0]}{_more(len(outcome.doubted) - 1)}"
        return "UNTRUSTED", f"cached programs disagreed with a fresh compile; the cache was deleted ({which}): {reason}"
    if not passed:
        return "UNTRUSTED", f"nothing was verified: {reason}"
    if missed is not None:
        return "UNTRUSTED", f"a seeded fault was not seen ({missed.fault.id}: {missed.message}): {reason}"
    # For example, no fault of a collective can be seeded on a single device.
    if faults and not missing and not any(fate.status == "killed" for fate in faults):
        return "UNTRUSTED", f"no seeded fault could be run ({faults[0].fault.id}: {faults[0].message}): {reason}"
    return ("INCOMPLETE" if missing else "CONFORMANT"), reason


def _reason(outcome: Outcome, old: Sequence[str]) -> str:
    """How many checks ended in which way, in words."""
    blocked, known = outcome.of_status("blocked"), outcome.of_status("deviation")
    parts = [f"{len(outcome.of_status('pass'))} of {len(outcome.expected)} checks passed"]
    unjudged = outcome.unjudged()
    ends = {
        "wrong": outcome.wrong(), "hung": outcome.of_status("hang"), "crashed": outcome.of_status("crash"),
        "out of memory": [one for one in unjudged if "out_of_memory" in one.facts],
        "ended by an exception of the adapter": [one for one in unjudged if "out_of_memory" not in one.facts],
    }  # fmt: skip
    parts += [f"{len(broken)} {word} ({_first(broken)})" for word, broken in ends.items() if broken]
    hosts, bad = outcome.wrong_hosts(), outcome.bad_hosts()
    if bad and not hosts and not outcome.troubles:
        parts.append(f"bad: {bad[0]}{_more(len(bad) - 1)}")
    parts += [f"{hosts[0]}{_more(len(hosts) - 1)}"] if hosts else []
    parts += [*outcome.troubles, *(f"deviation {text}" for text in old)]
    if outcome.outlived:
        count = f"{len(outcome.outlived)} process{'es' if len(outcome.outlived) > 1 else ''}"
        parts.append(f"{count} that outlived the run ended ({outcome.outlived[0]})")
    parts += [f"{len(blocked)} blocked"] if blocked else []
    missing = unmet(outcome)
    if missing:
        reasons = list(dict.fromkeys(record.message for record in missing))
        parts.append(f"{len(missing)} not run: {reasons[0]}{_more(len(reasons) - 1, ' reasons')}")
    idle = [record for record in outcome.of_status("not_run") if record not in missing]
    unclaimed = [record for record in idle if record.reason == NotRunReason.UNCLAIMED]
    if unclaimed:
        names = sorted({record.facts["unclaimed"] for record in unclaimed})
        parts.append(f"{len(unclaimed)} not run: {', '.join(names)} not claimed")
    if len(idle) > len(unclaimed):
        parts.append(f"{len(idle) - len(unclaimed)} not applicable")
    if known:
        parts.append(f"{len(known)} known deviation{'s' if len(known) > 1 else ''} ({', '.join(r.id for r in known)})")
    return ", ".join(parts)


def unmet(outcome: Outcome) -> list[Result]:
    """The required checks that did not run."""
    allowed = (NotRunReason.UNCLAIMED, NotRunReason.NOT_APPLICABLE)
    return [record for record in outcome.of_status("not_run") if record.reason not in allowed]


def _first(records: Sequence[Result]) -> str:
    """The first result in words, and how many more there are."""
    return f"rung {records[0].rung}, {RUNGS[records[0].rung]}: {records[0].id}{_more(len(records) - 1)}"


def _more(count: int, what: str = "") -> str:
    return f" and {count} more{what}" if count > 0 else ""


def described(outcome: Outcome) -> str:
    """Comparisons, time, level, devices and seed of a run, in words."""
    settings, environment = outcome.settings, outcome.environment
    count = len(environment.get("devices", ()))
    kind = f"{'simulated ' if environment.get('simulated') else ''}{(outcome.platforms or ['unknown'])[-1]}"
    devices = f"{count} {kind} device{'' if count == 1 else 's'}" if count else "devices unknown"
    only = f", only {' '.join(settings.only)}" if settings.only else ""
    comparisons = sum(record.comparisons for record in outcome.records.values())
    light = len(outcome.unoptimized)
    what = "trainers" if settings.level == "quick" else f"{light} law{'' if light == 1 else 's'}"
    level = f"{settings.level}{f' ({what} compiled without optimization)' if light else ''}"
    cached = f", programs cached on {outcome.kept_since}" if outcome.kept_since else ""
    return (
        f"{comparisons:,} comparison{'' if comparisons == 1 else 's'} in {outcome.seconds:.0f} s, level {level}{only}, "
        f"{devices}, seed {settings.seed}{limits(outcome)}{cached}"
    )


def limits(outcome: Outcome) -> str:
    """What makes the cases of a trainer easier than others, in words: constants that it fixes, full batches."""
    texts = []
    for label, about in outcome.subjects.items():
        if about.get("fixed"):
            texts.append(f"{label} fixes {', '.join(f'{name} = {value}' for name, value in about['fixed'].items())}")
        if "padding rows" not in about.get("capabilities", ["padding rows"]):
            texts.append(f"{label} gets full batches only (padding rows not claimed)")
    return "".join(f", {text}" for text in texts)
