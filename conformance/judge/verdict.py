"""What a run gathered -> one verdict, its exit code, and the line that says it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import NamedTuple

from ..core.check import NotRunReason
from ..core.deviations import stale
from ..core.law import RUNGS
from ..core.result import Result
from .mutation_score import fates
from .outcome import LOST, WRONG, Outcome

CODES = {
    "CONFORMANT": 0, "NONCONFORMANT": 1, "WORKAROUND": 1, "SETUP": 2, "UNRESPONSIVE": 3, "INCOMPLETE": 4,
    "UNTRUSTED": 5,
}  # fmt: skip
NO_FAULTS = "no seeded fault was run"
MOST_NAMED = 3


class Verdict(NamedTuple):
    """One word, its exit code, and why in a line that ends with what was run.

    Attributes:
        name: one of `CODES`.
        exit_code: of the command.
        reason: the middle of the line.
        line: for a person.
    """

    name: str
    exit_code: int
    reason: str
    line: str


def judge(outcome: Outcome, today: datetime.date | None = None) -> Verdict:
    """The verdict on a run.

    A wrong result comes before a hang or a crash, and both before what did not run: the worst that is certain is said
    first, and the line names the rest too.
    """
    name, reason = _decide(outcome, stale_deviations(outcome, today))
    code = CODES[name] if outcome.interrupted is None else outcome.interrupted
    if name == "SETUP":
        return Verdict(name, code, reason, f"{name}: {reason}")
    return Verdict(name, code, reason, f"{name}: {reason}; {described(outcome)}; {self_test(outcome)}")


def self_test(outcome: Outcome) -> str:
    """How many of the seeded faults were seen, and which were not."""
    found = fates(outcome)
    seen, blind = ([fate for fate in found if fate.status == status] for status in ("killed", "survived"))
    if not seen and not blind:
        return NO_FAULTS
    said = f"{len(seen)} of {len(seen) + len(blind)} seeded faults seen"
    named = ", ".join(fate.fault.id for fate in blind[:MOST_NAMED])
    more = f" and {len(blind) - MOST_NAMED} more" if len(blind) > MOST_NAMED else ""
    return f"{said}, not {named}{more}" if blind else said


def stale_deviations(outcome: Outcome, today: datetime.date | None = None) -> list[str]:
    """Why deviations of this run are no longer true."""
    day = today or datetime.datetime.now(datetime.UTC).date()
    return stale(outcome.deviations, outcome.ended(), outcome.settings.subjects, outcome.platforms, day)


def _decide(outcome: Outcome, old: Sequence[str]) -> tuple[str, str]:
    if outcome.setup is not None:
        return "SETUP", outcome.setup
    wrong, lost = outcome.of_status(*WRONG), outcome.of_status(*LOST)
    passed, missing = outcome.of_status("pass"), unmet(outcome)
    said = [f"{len(passed)} of {len(outcome.expected)} checks passed"]
    said += [f"{len(wrong)} wrong ({first(wrong)})"] if wrong else []
    said += [f"{sum(r.status == status for r in lost)} {word} ({first([r for r in lost if r.status == status])})"
             for status, word in (("hang", "hung"), ("crash", "crashed"))
             if any(r.status == status for r in lost)]  # fmt: skip
    said += list(outcome.troubles)
    said += [f"deviation {text}" for text in old]
    said += _quiet(outcome)
    reason = ", ".join(said)
    if outcome.interrupted is not None:
        return "INCOMPLETE", f"interrupted; {reason}"
    found = fates(outcome)
    blind = [fate for fate in found if fate.status == "survived"]
    # Who does not see a seeded fault does not know that everything passes.
    if outcome.tries is not None and outcome.tries.workaround and not old and not blind:
        return "WORKAROUND", f"everything passes with {outcome.tries.workaround}, and without it: {reason}"
    if wrong or old:
        return "NONCONFORMANT", reason
    if lost or outcome.troubles:
        return "UNRESPONSIVE", reason
    if outcome.doubted:
        more = f" and {len(outcome.doubted) - 1} more" if len(outcome.doubted) > 1 else ""
        which = f"{outcome.doubted[0]}{more}"
        return "UNTRUSTED", f"kept programs, now gone, gave another result than those compiled anew ({which}): {reason}"
    if not passed:
        return "UNTRUSTED", f"nothing was verified: {reason}"
    if blind:
        fate = blind[0]
        return "UNTRUSTED", f"a seeded fault was not seen ({fate.fault.id}: {fate.message}): {reason}"
    # Where nothing ran to the end there is nothing to trust either; a lone device has no collectives to seed faults in.
    if found and not missing and not any(fate.status == "killed" for fate in found):
        return "UNTRUSTED", f"no seeded fault could be run ({found[0].fault.id}: {found[0].message}): {reason}"
    return ("INCOMPLETE" if missing else "CONFORMANT"), reason


def unmet(outcome: Outcome) -> list[Result]:
    """The checks that the run must answer for and that did not run."""
    allowed = (NotRunReason.UNCLAIMED, NotRunReason.NOT_APPLICABLE)
    return [record for record in outcome.of_status("not_run") if record.reason not in allowed]


def first(records: Sequence[Result]) -> str:
    """The lowest of them, and how many there are besides."""
    more = f" and {len(records) - 1} more" if len(records) > 1 else ""
    return f"rung {records[0].rung}, {RUNGS[records[0].rung]}: {records[0].id}{more}"


def _quiet(outcome: Outcome) -> list[str]:
    """What neither passed nor failed."""
    said = []
    blocked, missing = outcome.of_status("blocked"), unmet(outcome)
    idle = [record for record in outcome.of_status("not_run") if record not in missing]
    claims = [record for record in idle if record.reason == NotRunReason.UNCLAIMED]
    if blocked:
        said.append(f"{len(blocked)} blocked")
    if missing:
        reasons = list(dict.fromkeys(record.message for record in missing))
        more = f" and {len(reasons) - 1} more reasons" if len(reasons) > 1 else ""
        said.append(f"{len(missing)} not run: {reasons[0]}{more}")
    if claims:
        names = sorted({record.facts["unclaimed"] for record in claims})
        said.append(f"{len(claims)} not run: {', '.join(names)} not claimed")
    if len(idle) > len(claims):
        said.append(f"{len(idle) - len(claims)} not applicable")
    known = outcome.of_status("deviation")
    if known:
        said.append(f"{len(known)} known deviation{'s' if len(known) > 1 else ''} ({', '.join(r.id for r in known)})")
    return said


def described(outcome: Outcome) -> str:
    """What was run, on what, for how long."""
    settings, environment = outcome.settings, outcome.environment
    count = len(environment.get("devices", ()))
    platform = outcome.platforms[-1] if outcome.platforms else "unknown"
    simulated = "simulated " if environment.get("simulated") else ""
    devices = f"{count} {simulated}{platform} device{'' if count == 1 else 's'}" if count else "devices unknown"
    only = f", only {' '.join(settings.only)}" if settings.only else ""
    comparisons = sum(record.comparisons for record in outcome.records.values())
    light = len(outcome.unoptimized)
    what = "trainers" if settings.level == "quick" else f"{light} law{'' if light == 1 else 's'}"
    level = f"{settings.level}{f' ({what} compiled without optimization)' if light else ''}"
    kept = f", programs compiled on {outcome.kept_since} and kept" if outcome.kept_since else ""
    asked = f"level {level}{only}, {devices}, seed {settings.seed}{kept}"
    return f"{comparisons:,} comparison{'' if comparisons == 1 else 's'} in {outcome.seconds:.0f} s, {asked}"
