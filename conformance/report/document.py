"""A run and its verdict -> report.json, as `report.schema.json` describes it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..core.law import RUNGS, laws
from ..core.release import examine
from ..core.result import Result, plain
from ..judge.diagnosis import advice, diagnose
from ..judge.mutation_score import Fate, fates
from ..judge.outcome import Outcome, unjudged_advice
from ..judge.verdict import Verdict, stale_deviations, unmet
from ..machine.remedies import Tries
from ..machine.startup import READY

SCHEMA = "sftref.report/1"
SETTINGS = ("level", "seed", "platform", "devices", "processes", "only", "against", "self_test", "remedies")
SLOWEST = 10
# The most lines of the log of a failed start that are evidence.
MOST_LINES = 4


def document(outcome: Outcome, verdict: Verdict) -> dict[str, Any]:
    """The content of report.json for a run."""
    settings = outcome.settings
    content: dict[str, Any] = plain({
        "schema": SCHEMA,
        "verdict": verdict.name,
        "exit_code": verdict.exit_code,
        "line": verdict.line,
        "settings": {name: getattr(settings, name) for name in SETTINGS} | {"unoptimized": outcome.unoptimized},
        "kit": kit(),
        "environment": outcome.environment,
        "subject": [
            {"label": label, "adapter": adapter, **outcome.subjects.get(label, {})}
            for label, adapter in settings.subjects.items()
        ],
        "checks": [check(record, outcome.ended()) for record in outcome.ended()],
        "faults": [seeded(fate) for fate in fates(outcome)],
        "deviations": [known.to_json() for known in outcome.deviations],
        "stale_deviations": stale_deviations(outcome),
        "troubles": outcome.troubles,
        "outlived": outcome.outlived,
        "findings": [vars(finding) for finding in outcome.findings],
        "start": None if outcome.start is None else vars(outcome.start) | {"line": outcome.start.line},
        "kept_programs": {"since": outcome.kept_since, "doubted": outcome.doubted},
        "tries": None if outcome.tries is None else asdict(outcome.tries),
        "cluster": outcome.cluster,
        "diagnosis": diagnosis(outcome, verdict),
        "timing": timing(outcome),
    })  # fmt: skip
    return content


def kit() -> dict[str, Any]:
    """The release of the kit, and the files that differ from it."""
    try:
        return examine().to_json()
    except ValueError as error:
        return {"unknown": str(error)}


def check(record: Result, others: Sequence[Result] = ()) -> dict[str, Any]:
    """The entry of one check among `others`: its result, and the texts of its law."""
    law = laws()[record.law]
    cause, next_step = advice(record, others) if record.judged else unjudged_advice(record)
    texts = {"requirement": law.requirement, "catches": law.catches, "cause": cause, "next_step": next_step}
    content = record.to_json() | {"rung_name": law.rung_name, **texts}
    del content["reason"]  # `message` says the same in words
    return content


def seeded(fate: Fate) -> dict[str, Any]:
    """The entry of one seeded fault, with the laws that saw it."""
    fault = {name: getattr(fate.fault, name) for name in ("id", "layer", "does")}
    trials = {name: getattr(fate, name) for name in ("status", "expected", "seen_by", "message")}
    return fault | trials | {"seconds": round(fate.seconds, 3)}


def diagnosis(outcome: Outcome, verdict: Verdict) -> dict[str, Any] | None:
    """The faulty layer, the cause, evidence and the next step; None for a conformant run."""
    if verdict.name == "CONFORMANT":
        return None
    texts = diagnose(outcome) if outcome.setup is None else None
    return with_tries(texts or _without_a_failed_law(outcome, verdict), outcome.tries)


def with_tries(diagnosis: dict[str, Any], tries: Tries | None) -> dict[str, Any]:
    """The diagnosis, to which the results of reruns under other settings are added."""
    if tries is None:
        return diagnosis
    cause, step = diagnosis["cause"], diagnosis["next_step"]
    best = next((one for one in tries.tries if one.words == tries.workaround), None)
    if best is not None:
        cause = f"Results are wrong with this machine's settings and right with {best.words}, which {best.does}."
        until = "" if best.words.startswith("unset") else f" until it is fixed upstream ({best.source})"
        step = f"Keep this setting{until}, and rerun with it: {best.words}"
    elif tries.passed_unchanged:
        step = f"Rerun, to see how often it fails: an intermittent fault is a race, bad memory, or heat. {step}"
    return diagnosis | {"cause": cause, "next_step": step, "evidence": [*tries.evidence, *diagnosis["evidence"]]}


def _without_a_failed_law(outcome: Outcome, verdict: Verdict) -> dict[str, Any]:
    """The diagnosis of a run that is not conformant although no check failed."""
    missing, stale, unjudged = unmet(outcome), stale_deviations(outcome), outcome.unjudged()
    unseen = [fate for fate in fates(outcome) if fate.status == "survived"]
    wrong = [finding for finding in outcome.findings if finding.level != "note"]
    cluster = outcome.cluster or {}
    if cluster.get("bad_hosts") or cluster.get("bad_links"):
        layer, cause = "cluster", "A host, or the link between two hosts, is bad; the others were judged without it."
        evidence = [*outcome.wrong_hosts(), *outcome.troubles]
        step = f"Run without it: {cluster['exclude']}; then examine that host with `sftref env` and `sftref verify`."
    elif unjudged and outcome.setup is None:
        layer = "memory" if unjudged[0].facts.get("out_of_memory") else "adapter"
        cause, step = unjudged_advice(unjudged[0])
        evidence = [f"{record.id}: {record.message}" for record in unjudged[:MOST_LINES]]
        evidence += unjudged[0].facts.get("adapter_frames", [])
    elif verdict.name == "SETUP":
        layer, cause = "environment", "The requested set-up is not available."
        evidence = [verdict.reason, *(finding.what for finding in wrong)]
        step = wrong[0].next if wrong else "Do what the line of the verdict says, and rerun."
    elif outcome.start is not None and outcome.start.how != READY:
        layer, cause = "environment", "JAX does not start on this machine."
        evidence = [outcome.start.line, *(finding.what for finding in wrong), *outcome.start.stderr[-MOST_LINES:]]
        step = wrong[0].next if wrong else "Send the output of `sftref env` to the plugin's maintainers."
    elif stale:
        layer, cause, evidence = "deviations", "The list of known deviations is out of date.", stale
        step = "Remove these entries, or renew them with a reason."
    elif outcome.troubles:
        layer, cause, evidence = "processes", "A process ended or hung outside of any check.", outcome.troubles
        step = "Look for that process in the kernel's and the driver's log, and at what its adapter starts or ends."
    elif outcome.interrupted is not None:
        layer, cause, evidence = "run", "The run was interrupted.", [verdict.reason]
        step = "Rerun."
    elif outcome.doubted:
        layer, cause = "cache", "Cached programs disagreed with a fresh compile; the cache was deleted."
        evidence = [f"{check}: another result" for check in outcome.doubted]
        step = "Rerun: it compiles again. If this comes back, check the disk, and do not use --cache."
    elif verdict.name == "UNTRUSTED" and unseen:
        layer, cause = "kit", "The kit did not see a fault that it had seeded, so its verdict proves nothing here."
        evidence = [f"{fate.fault.id} ({fate.fault.does}): {fate.message}" for fate in unseen]
        step = "Report this with report.json: a law misses the fault, or the fault has no effect in this JAX."
    else:
        layer, cause = "run", "Required checks did not run."
        evidence = list(dict.fromkeys(f"{record.id}: {record.message}" for record in missing))[:10] or [verdict.reason]
        step = "Provide what these checks need, usually more devices."
    return {"layer": layer, "cause": cause, "evidence": evidence, "next_step": step}


def timing(outcome: Outcome) -> dict[str, Any]:
    """Seconds of the run, of compilation, of each rung, and of the slowest checks."""
    checks: list[dict[str, Any]] = [
        {"id": record.id, "seconds": record.seconds, "compile_seconds": record.facts.get("compile_seconds", 0.0)}
        for record in outcome.ended()
    ]
    total, compiled = (sum(check[name] for check in checks) for name in ("seconds", "compile_seconds"))
    rungs: dict[str, float] = {}
    for record in sorted(outcome.ended(), key=lambda record: record.rung):
        rungs[RUNGS[record.rung]] = rungs.get(RUNGS[record.rung], 0.0) + record.seconds
    return {
        "started": outcome.started.isoformat(timespec="seconds"),
        "seconds": round(outcome.seconds, 3),
        "check_seconds": round(total, 3),
        "compile_seconds": round(compiled, 3),
        "compile_share": round(compiled / total, 4) if total > 0 else None,
        "rungs": {name: round(seconds, 3) for name, seconds in rungs.items()},
        "slowest": sorted(checks, key=lambda check: -check["seconds"])[:SLOWEST],
    }
