"""Settings -> an outcome: one run of the ladder from its first process to its last, however it ends."""

import os
import signal
import time
from pathlib import Path

from ..core.deviations import Deviation
from ..core.settings import Settings
from ..judge.mutation_score import chosen
from ..judge.outcome import Outcome
from ..judge.verdict import CODES
from ..machine import snapshot
from ..machine.findings import findings
from ..machine.host import Host, facts
from ..machine.startup import CRASH, HANG
from ..workers import signals
from .program_cache import ProgramCache, agree
from .progress import Progress
from .scheduler import NEVER_RUN, Scheduler, SetupError
from .scratch import Scratch
from .workarounds import Rerun, start_jax_alone, tried


def unfinished(settings: Settings, deviations: list[Deviation]) -> Outcome:
    """The outcome of a run that has just begun: its report stays if the run is killed."""
    ids = settings.checks()
    code = CODES["INCOMPLETE"]
    outcome = Outcome(settings=settings, expected=ids, deviations=deviations, interrupted=code)
    outcome.environment = snapshot.static()
    outcome.fill("the run has not ended, or was killed")
    return outcome


def verify(
    settings: Settings, deviations: list[Deviation], file: Path | None, progress: Progress, cache: Path | None = None
) -> Outcome:
    """Run the ladder. `deviations` are the known failures; child processes read them from `file`.

    Compiled programs are kept in `cache` between runs (`program_cache.py`); a ValueError if it cannot be written.
    """
    ids = settings.checks()
    outcome = Outcome(settings=settings, expected=ids, deviations=deviations, environment=snapshot.static())
    outcome.seeded = chosen(settings.level, ids) if settings.self_test else []
    kept = ProgramCache(cache, settings, outcome.environment) if cache is not None else None
    scratch = Scratch()
    scheduler = Scheduler(outcome, progress, scratch.path, file, os.environ)
    began = time.monotonic()
    progress.begin(ids)
    reason = NEVER_RUN
    try:
        with signals.raised():
            look(outcome, progress)
            if outcome.start is not None and outcome.start.how in (HANG, CRASH):
                outcome.troubles.append(outcome.start.line)
                reason = "JAX did not start"
            else:
                scheduler.run(ids, outcome.seeded, kept.programs if kept else None)
                if kept is not None:
                    compare_with_cold(scheduler, kept)
            if settings.remedies:
                outcome.tries = tried(outcome, os.environ, Rerun(outcome, progress, scratch.path, file))
    except (KeyboardInterrupt, signals.Stopped) as stop:
        outcome.interrupted = 128 + (stop.number if isinstance(stop, signals.Stopped) else signal.SIGINT)
        reason = "interrupted"
        scheduler.listen()
    except SetupError as error:
        if error.lost:
            outcome.troubles.append(str(error))
            reason = "an adapter was not loaded"
        else:
            outcome.setup = reason = str(error)
    finally:
        scheduler.end()
        outcome.outlived = scratch.clear()
    outcome.fill(reason)
    outcome.seconds = time.monotonic() - began
    return outcome


def look(outcome: Outcome, progress: Progress) -> None:
    """Examine the machine before JAX is imported; if an accelerator may be used, start JAX in its own process."""
    outcome.findings = findings(facts(Host()), outcome.environment["versions"], os.environ, outcome.settings.platform)
    progress.findings(outcome.findings)
    if snapshot.foreseen(outcome.settings.platform) != ["cpu"]:
        outcome.start = start_jax_alone(outcome, progress, os.environ)


def compare_with_cold(scheduler: Scheduler, kept: ProgramCache) -> None:
    """Rerun, with fresh programs, the checks whose results differ from those of the run that compiled the programs."""
    outcome = scheduler.outcome
    outcome.kept_since = kept.since
    differing = kept.differing(outcome.ended(), outcome.environment) if kept.since else []
    cached = {check: outcome.records.pop(check) for check in differing}
    scheduler.run(differing)
    outcome.doubted = [
        check for check in differing
        if cached[check].status != "blocked"
        and not agree(cached[check], outcome.records[check], outcome.environment)
    ]  # fmt: skip
    if outcome.doubted:
        kept.delete()
    else:
        kept.store(outcome.ended(), outcome.environment)
