"""A run and its verdict -> report.json, as `report.schema.json` beside this file lays it down."""

from __future__ import annotations

from typing import Any

from ..core.law import RUNGS, laws
from ..core.release import examine
from ..core.result import Result, plain
from ..judge.advice import advice
from ..judge.diagnosis import diagnose
from ..judge.mutation_score import Fate, fates
from ..judge.outcome import Outcome
from ..judge.verdict import Verdict, stale_deviations, unmet
from ..machine.remedies import Tries
from ..machine.startup import READY

SCHEMA = "sftref.report/1"
SLOWEST = 10
# Of the log of a start that came to nothing.
MOST_LINES = 4


def document(outcome: Outcome, verdict: Verdict) -> dict[str, Any]:
    """All that a run found, in JSON's own values."""
    settings = outcome.settings
    content = {
        "schema": SCHEMA,
        "verdict": verdict.name,
        "exit_code": verdict.exit_code,
        "line": verdict.line,
        "settings": {
            "level": settings.level,
            "seed": settings.seed,
            "platform": settings.platform,
            "devices": settings.devices,
            "processes": settings.processes,
            "only": list(settings.only),
            "against": settings.against,
            "unoptimized": outcome.unoptimized,
            "self_test": settings.self_test,
            "remedies": settings.remedies,
        },
        "kit": kit(),
        "environment": outcome.environment,
        "subject": [
            {"label": label, "adapter": adapter, **outcome.subjects.get(label, {})}
            for label, adapter in settings.subjects.items()
        ],
        "checks": [check(record) for record in outcome.ended()],
        "faults": [fate(found) for found in fates(outcome)],
        "deviations": [known.to_json() for known in outcome.deviations],
        "stale_deviations": stale_deviations(outcome),
        "troubles": outcome.troubles,
        "findings": [found.to_json() for found in outcome.findings],
        "start": None if outcome.start is None else vars(outcome.start) | {"line": outcome.start.line},
        "kept_programs": {"since": outcome.kept_since, "doubted": outcome.doubted},
        "tries": None if outcome.tries is None else outcome.tries.to_json(),
        "diagnosis": diagnosis(outcome, verdict),
        "timing": timing(outcome),
    }
    found: dict[str, Any] = plain(content)
    return found


def kit() -> dict[str, Any]:
    """Of which release the kit is, and which of its files are not that release's."""
    try:
        return examine().to_json()
    except ValueError as error:
        return {"unknown": str(error)}


def check(record: Result) -> dict[str, Any]:
    """One check with what its law says of it."""
    law = laws()[record.law]
    cause, next_step = advice(record)
    said = {"requirement": law.requirement, "catches": law.catches, "cause": cause, "next_step": next_step}
    return record.to_json() | {"rung_name": law.rung_name, **said}


def fate(found: Fate) -> dict[str, Any]:
    """One seeded fault, and which laws saw it."""
    return {
        "id": found.fault.id,
        "layer": found.fault.layer,
        "does": found.fault.does,
        "status": found.status,
        "expected": list(found.expected),
        "seen_by": list(found.seen_by),
        "message": found.message,
        "seconds": round(found.seconds, 3),
    }


def diagnosis(outcome: Outcome, verdict: Verdict) -> dict[str, Any] | None:
    """What is wrong, what it rests on, and what to do; None where nothing is wrong."""
    if verdict.name == "CONFORMANT":
        return None
    found = diagnose(outcome) if outcome.setup is None else None
    if found is None:
        found = _without_a_law(outcome, verdict)
    return with_tries(found, outcome.tries)


def with_tries(found: dict[str, Any], tries: Tries | None) -> dict[str, Any]:
    """A diagnosis with what other settings did to it."""
    if tries is None:
        return found
    more: dict[str, Any] = {"evidence": [*tries.said, *found["evidence"]]}
    best = next((one for one in tries.tries if one.words == tries.workaround), None)
    if best is not None:
        more["cause"] = f"It is wrong as this machine is set, and right with {best.words}, which {best.does}."
        own = best.words.startswith("unset")
        until = "for good" if own else f"until it is mended upstream ({best.source})"
        more["next_step"] = f"Keep to that setting {until}, and run again with it: {best.words}"
    elif tries.passed_unchanged:
        often = "Run again, to see how often: a fault that comes and goes is a race, memory, or heat."
        more["next_step"] = f"{often} {found['next_step']}"
    return found | more


def _without_a_law(outcome: Outcome, verdict: Verdict) -> dict[str, Any]:
    """Where no law fell: what kept the run from its end."""
    missing, old = unmet(outcome), stale_deviations(outcome)
    blind = [found for found in fates(outcome) if found.status == "survived"]
    wrong = [found for found in outcome.findings if found.level != "note"]
    if verdict.name == "SETUP":
        layer, cause = "environment", "What was asked for is not there."
        evidence = [verdict.reason, *(found.what for found in wrong)]
        step = wrong[0].next if wrong else "Do what the verdict's line says, and run again."
    elif outcome.start is not None and outcome.start.how != READY:
        layer, cause = "environment", "JAX does not start here."
        evidence = [outcome.start.line, *(found.what for found in wrong), *outcome.start.stderr[-MOST_LINES:]]
        step = wrong[0].next if wrong else "Paste what `sftref env` prints into a report to the plugin's maker."
    elif old:
        layer, cause, evidence = "deviations", "The list of known deviations is no longer true.", old
        step = "Take these entries out, or renew them with a reason."
    elif outcome.troubles:
        layer, cause, evidence = "processes", "A process did not come to its end by itself.", outcome.troubles
        step = "Look at the driver's log; a library that aborts on its way out spoils every job's exit code."
    elif outcome.interrupted is not None:
        layer, cause, evidence = "run", "The run was interrupted.", [verdict.reason]
        step = "Run again."
    elif outcome.doubted:
        layer, cause = "cache", "Kept programs do not do what the same programs do when they are compiled anew."
        evidence = [f"{check}: another result" for check in outcome.doubted]
        step = (
            "Nothing: they are gone, and the next run compiles. If it comes back, look at the disk, and leave --cache."
        )
    elif verdict.name == "UNTRUSTED" and blind:
        layer, cause = "kit", "The kit did not see a fault that it had seeded: its verdict proves nothing here."
        evidence = [f"{found.fault.id} ({found.fault.does}): {found.message}" for found in blind]
        step = "Report this with report.json: a law is blind here, or this JAX takes a fault otherwise than expected."
    else:
        layer, cause = "run", "Checks that the run must answer for did not run."
        evidence = list(dict.fromkeys(f"{record.id}: {record.message}" for record in missing))[:10] or [verdict.reason]
        step = "Give the run what these checks need: more devices, as a rule."
    return {"layer": layer, "cause": cause, "evidence": evidence, "next_step": step}


def timing(outcome: Outcome) -> dict[str, Any]:
    """How long it took, and what took longest."""
    ended = outcome.ended()
    total = sum(record.seconds for record in ended)
    compiled = sum(record.facts.get("compile_seconds", 0.0) for record in ended)
    slowest = sorted(ended, key=lambda record: -record.seconds)[:SLOWEST]
    rungs = {
        RUNGS[rung]: round(sum(record.seconds for record in ended if record.rung == rung), 3)
        for rung in sorted({record.rung for record in ended})
    }
    return {
        "started": outcome.started.isoformat(timespec="seconds"),
        "seconds": round(outcome.seconds, 3),
        "check_seconds": round(total, 3),
        "compile_seconds": round(compiled, 3),
        "compile_share": round(compiled / total, 4) if total > 0 else None,
        "rungs": rungs,
        "slowest": [
            {"id": r.id, "seconds": r.seconds, "compile_seconds": r.facts.get("compile_seconds", 0.0)} for r in slowest
        ],
    }


def margins(outcome: Outcome) -> dict[int, tuple[int, int, int, float | None, float | None]]:
    """By rung: checks, comparisons, numbers compared, median and worst margin (error over bound)."""
    table = {}
    for rung in sorted({record.rung for record in outcome.ended()}):
        mine = [record for record in outcome.ended() if record.rung == rung]
        medians = sorted(r.median_margin for r in mine if r.median_margin is not None)
        # An exact comparison has margin 0 or an infinite one; its failure is told elsewhere.
        worst = [r.margin for r in mine if r.margin is not None and r.median_margin is not None]
        middle = medians[len(medians) // 2] if medians else None
        counts = len(mine), sum(r.comparisons for r in mine), sum(r.compared for r in mine)
        table[rung] = (*counts, middle, max(worst, default=None))
    return table
