"""What fell, asked again under one changed setting after another: which one mends it, and whether that is enough.

    unchanged, twice     what passes then is wrong only sometimes, and no setting can be judged by one pass
    each setting         the lowest checks that fell, or the start of JAX, in a process of its own with its deadlines
    a setting that mends the whole ladder under it: a workaround, if everything passes

A trainer that is not ours is not asked again: where only such a one falls, the machine is not at fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..core.law import LADDER
from ..core.settings import DEFAULT_ADAPTERS
from ..judge.outcome import BROKEN, Outcome
from ..judge.verdict import judge
from ..machine.remedies import FAILS, FIXES, REFUSED, SILENT, UNTRIED, Remedy, Tries, Try, remedies
from ..machine.startup import READY, Started

# Of those that fell: the lowest ones say most, and each that hangs costs its deadline.
MOST_CHECKS = 3
UNCHANGED = 2
# Ladders that are asked whole.
MOST_WHOLE = 2
# Seconds after which no further setting is tried, by level: on a machine where each try hangs, one costs minutes. A
# whole ladder that was begun by then goes on, and takes as long as the run itself.
MOST_SECONDS = {"quick": 300.0, "standard": 900.0, "full": 3600.0}
# For a phase before there is a device. No setting of the list matters there; only the user's own are left out.
NO_RUNG = -1
UNKNOWN_FLAG = "Unknown flag"


@dataclass(frozen=True)
class Asking:
    """How to ask again: each call runs processes, and ends them.

    Attributes:
        ladder: ids, environment and number of devices -> what came out.
        start: environment -> how JAX started.
        tell: is told what is being tried.
    """

    ladder: Callable[[Sequence[str], Mapping[str, str], int | None], Outcome]
    start: Callable[[Mapping[str, str]], Started]
    tell: Callable[[str], None]


def tried(outcome: Outcome, given: Mapping[str, str], asking: Asking) -> Tries | None:
    """Look for a setting that mends what fell; None where there is nothing to try.

    Args:
        outcome: a run that has come to its end.
        given: the environment that it ran in.
        asking: how to ask again.
    """
    if outcome.start is not None and outcome.start.how != READY:
        return _of_a_start(outcome, outcome.start, given, asking)
    ours = [
        record for record in outcome.of_status(*BROKEN)
        if record.subject is None or outcome.settings.subjects[record.subject] in DEFAULT_ADAPTERS
    ]  # fmt: skip
    if not ours:
        return None
    lowest = [record for record in ours if (record.rung, record.subject) == (ours[0].rung, ours[0].subject)]
    ids = [record.id for record in lowest[:MOST_CHECKS]]
    # Where no check passed, none told what it ran on; the start of JAX did.
    live = outcome.environment if outcome.platforms else outcome.start.live if outcome.start else {}
    devices = len(live.get("devices", ()))
    worth = remedies(live.get("platforms", ()), ours[0].rung, [record.status for record in lowest], given, devices)

    def ask(environment: Mapping[str, str], count: int | None) -> tuple[str, str]:
        return _result(asking.ladder(ids, environment, count))

    return _go_through(Tries(asked=ids), worth, ask, outcome, given, asking) if worth else None


def _of_a_start(outcome: Outcome, started: Started, given: Mapping[str, str], asking: Asking) -> Tries | None:
    platform = outcome.settings.platform
    # Without an answer nobody knows the platform: what is for any accelerator is tried.
    names = ["gpu", "rocm", "cuda", "tpu"] if platform in (None, "gpu") else ["gpu", platform]
    rung = next((number for number, rung in enumerate(LADDER) if started.phase in rung.phases), NO_RUNG)
    worth = [one for one in remedies(names, rung, [started.how], given, 1) if one.devices is None]

    def ask(environment: Mapping[str, str], _: int | None) -> tuple[str, str]:
        again = asking.start(environment)
        refused = UNKNOWN_FLAG in again.message
        return (FIXES, "") if again.how == READY else (REFUSED if refused else FAILS, again.line)

    asked = Tries(asked=[f"JAX's start ({started.phase})"])
    return _go_through(asked, worth, ask, outcome, given, asking) if worth else None


def _go_through(
    found: Tries,
    worth: Sequence[Remedy],
    ask: Callable[[Mapping[str, str], int | None], tuple[str, str]],
    outcome: Outcome,
    given: Mapping[str, str],
    asking: Asking,
) -> Tries:
    until = time.monotonic() + MOST_SECONDS[outcome.settings.level]
    while found.unchanged < UNCHANGED and (not found.unchanged or time.monotonic() < until):
        asking.tell(f"asking again, unchanged: {', '.join(found.asked)}")
        found.unchanged += 1
        found.passed_unchanged += ask(given, None)[0] == FIXES
    if found.passed_unchanged:
        return found
    whole = 0
    for number, remedy in enumerate(worth, 1):
        if time.monotonic() > until:
            found.tries.append(_end(remedy, UNTRIED, f"after {MOST_SECONDS[outcome.settings.level]:.0f} s of tries"))
            continue
        asking.tell(f"setting {number} of {len(worth)}: {remedy.words}")
        changed = remedy.change(given)
        result, message = ask(changed, remedy.devices)
        everything = ""
        if result == FIXES and remedy.devices is None and not found.workaround and whole < MOST_WHOLE:
            whole += 1
            asking.tell(f"it mends what fell; now everything with {remedy.words}")
            verdict = judge(asking.ladder(outcome.expected, changed, None))
            everything = verdict.line
            if verdict.name == "CONFORMANT":
                found.workaround = remedy.words
        found.tries.append(_end(remedy, result, message, everything))
    return found


def _end(remedy: Remedy, result: str, message: str, everything: str = "") -> Try:
    return Try(
        id=remedy.id, words=remedy.words, does=remedy.does, source=remedy.source, result=result, message=message,
        everything=everything,
    )  # fmt: skip


def _result(again: Outcome) -> tuple[str, str]:
    """What a few checks came to under a setting, and what was said."""
    fell = again.of_status(*BROKEN)
    if fell or again.troubles:
        said = fell[0].message if fell else again.troubles[0]
        words = f"{said} {' '.join(fell[0].facts.get('stderr', ())) if fell else ''}"
        return (REFUSED if UNKNOWN_FLAG in words else FAILS), said
    quiet = again.of_status("not_run", "blocked")
    if quiet or again.setup is not None or not again.records:
        return SILENT, again.setup or (quiet[0].message if quiet else "no check ran")
    return FIXES, ""
