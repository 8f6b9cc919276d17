"""Settings -> an outcome: one run of the ladder from its first process to its last, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from . import environment, signals
from .catalogue import expected
from .deviations import Deviation
from .faults.judgement import chosen
from .findings import findings
from .host import Host, facts
from .kept import Kept, agree
from .outcome import Outcome
from .plan import trials, units
from .runner import Runner, SetupError
from .settings import Settings
from .starting import CRASH, HANG, start
from .watcher import Watcher


def verify(
    settings: Settings, deviations: list[Deviation], file: Path | None, watcher: Watcher, cache: Path | None = None
) -> Outcome:
    """Run the ladder.

    Args:
        settings: what to ask.
        deviations: known ones.
        file: where they stand, for the child processes.
        watcher: is told how it goes.
        cache: where compiled programs are kept for later runs; see `kept.py`.

    Raises:
        ValueError: the cache cannot be written.
        OSError: there is no room for temporary files.
    """
    ids = expected(settings.level, settings.subjects, settings.only)
    outcome = Outcome(settings=settings, expected=ids, deviations=deviations, environment=environment.static())
    outcome.planted = chosen(settings.level, ids) if settings.self_test else []
    kept = Kept(cache, settings, outcome.environment) if cache is not None else None
    scratch = Path(tempfile.mkdtemp(prefix="sftref-"))
    runner = Runner(outcome, watcher, scratch, file)
    began = time.monotonic()
    watcher.begin(ids)
    reason = "never asked"
    try:
        with signals.raised():
            look(outcome, watcher)
            runner.run(units(ids) + trials(outcome.planted), kept.programs if kept else None)
            if kept is not None:
                hold_against_cold(runner, kept)
    except (KeyboardInterrupt, signals.Stopped) as stop:
        outcome.interrupted = 128 + (stop.number if isinstance(stop, signals.Stopped) else signal.SIGINT)
        reason = "interrupted"
        runner.listen()
    except NotStartedError as error:
        outcome.troubles.append(str(error))
        reason = "JAX did not start"
    except SetupError as error:
        outcome.setup = reason = str(error)
    finally:
        runner.end()
        shutil.rmtree(scratch, ignore_errors=True)
    outcome.fill(reason)
    outcome.seconds = time.monotonic() - began
    return outcome


class NotStartedError(Exception):
    """JAX hangs or crashes when it starts."""


def look(outcome: Outcome, watcher: Watcher) -> None:
    """At the machine before JAX is imported; and start JAX in a process of its own where it may take an accelerator.

    Raises:
        NotStartedError: it hangs or crashes.
    """
    outcome.findings = findings(facts(Host()), outcome.environment["versions"], os.environ)
    watcher.found(outcome.findings)
    if environment.foreseen(outcome.settings.platform) == ["cpu"]:
        return
    outcome.start = start(outcome.settings, lambda phase: watcher.waiting((), [f"starting JAX: {phase}"]))
    if outcome.start.how in (HANG, CRASH):
        raise NotStartedError(outcome.start.line)


def hold_against_cold(runner: Runner, kept: Kept) -> None:
    """Ask again, compiled anew, what found something else with kept programs than in the run that compiled them."""
    outcome = runner.outcome
    outcome.kept_since = kept.since
    doubtful = kept.doubtful(outcome.ended(), outcome.environment) if kept.since else []
    first = {check: outcome.records.pop(check) for check in doubtful}
    runner.run(units(doubtful))
    again = outcome.records
    outcome.doubted = [
        check for check in doubtful
        if first[check].status != "blocked" and not agree(first[check], again[check], outcome.environment)
    ]  # fmt: skip
    if outcome.doubted:
        kept.throw_away()
    else:
        kept.keep(outcome.ended(), outcome.environment)
