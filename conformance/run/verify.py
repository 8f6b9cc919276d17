"""Settings -> an outcome: one run of the ladder from its first process to its last, however it ends."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from ..core.deviations import Deviation
from ..core.law import expected
from ..core.settings import Settings
from ..judge.mutation_score import chosen
from ..judge.outcome import Outcome
from ..machine import snapshot
from ..machine.findings import findings
from ..machine.host import Host, facts
from ..machine.startup import CRASH, HANG, Started, start
from ..workers import signals
from ..workers.plan import trials, units
from .program_cache import ProgramCache, agree
from .scheduler import Runner, SetupError
from .watcher import Watcher
from .workarounds import Asking, tried

# The reason of a check that no process reached.
NEVER_RUN = "never run"


def verify(
    settings: Settings, deviations: list[Deviation], file: Path | None, watcher: Watcher, cache: Path | None = None
) -> Outcome:
    """Run the ladder.

    Args:
        settings: of the run.
        deviations: known failures.
        file: the file with the deviations, for the child processes.
        watcher: receives the progress.
        cache: folder of the programs that are kept between runs; see `program_cache.py`.

    Raises:
        ValueError: the cache cannot be written.
        OSError: there is no space for temporary files.
    """
    ids = expected(settings.level, settings.subjects, settings.only, processes=settings.processes)
    outcome = Outcome(settings=settings, expected=ids, deviations=deviations, environment=snapshot.static())
    outcome.seeded = chosen(settings.level, ids) if settings.self_test else []
    kept = ProgramCache(cache, settings, outcome.environment) if cache is not None else None
    scratch = Path(tempfile.mkdtemp(prefix="sftref-"))
    runner = Runner(outcome, watcher, scratch, file, os.environ)
    began = time.monotonic()
    watcher.begin(ids)
    reason = NEVER_RUN
    try:
        with signals.raised():
            try:
                look(outcome, watcher)
                runner.run(units(ids) + trials(outcome.seeded), kept.programs if kept else None)
                if kept is not None:
                    compare_with_cold(runner, kept)
            except NotStartedError as error:
                outcome.troubles.append(str(error))
                reason = "JAX did not start"
            if settings.remedies:
                outcome.tries = tried(outcome, os.environ, Rerun(outcome, watcher, scratch, file).asking())
    except (KeyboardInterrupt, signals.Stopped) as stop:
        outcome.interrupted = 128 + (stop.number if isinstance(stop, signals.Stopped) else signal.SIGINT)
        reason = "interrupted"
        runner.listen()
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
    """Examine the machine before JAX is imported; if JAX may use an accelerator, start it in a process of its own.

    Raises:
        NotStartedError: JAX hangs or crashes.
    """
    outcome.findings = findings(facts(Host()), outcome.environment["versions"], os.environ)
    watcher.found(outcome.findings)
    if snapshot.foreseen(outcome.settings.platform) == ["cpu"]:
        return
    outcome.start = start(outcome.settings, _phases(watcher), os.environ)
    if outcome.start.how in (HANG, CRASH):
        raise NotStartedError(outcome.start.line)


def compare_with_cold(runner: Runner, kept: ProgramCache) -> None:
    """Rerun, with fresh programs, the checks whose results differ from those of the run that compiled the programs."""
    outcome = runner.outcome
    outcome.kept_since = kept.since
    differing = kept.differing(outcome.ended(), outcome.environment) if kept.since else []
    cached = {check: outcome.records.pop(check) for check in differing}
    runner.run(units(differing))
    outcome.doubted = [
        check for check in differing
        if cached[check].status != "blocked"
        and not agree(cached[check], outcome.records[check], outcome.environment)
    ]  # fmt: skip
    if outcome.doubted:
        kept.delete()
    else:
        kept.store(outcome.ended(), outcome.environment)


class Rerun:
    """Reruns checks of a run under other settings; the run's own results stay as they are."""

    def __init__(self, outcome: Outcome, watcher: Watcher, scratch: Path, file: Path | None) -> None:
        self.outcome, self.watcher, self.scratch, self.file = outcome, watcher, scratch, file
        self.count = 0

    def asking(self) -> Asking:
        """The functions that `workarounds.tried` calls."""
        return Asking(self.ladder, self.start, self.watcher.trying)

    def ladder(self, ids: Sequence[str], environment: Mapping[str, str], devices: int | None) -> Outcome:
        """Run some of the checks in new processes, with an empty cache and folder."""
        first, self.count = self.outcome, self.count + 1
        settings = dataclasses.replace(first.settings, devices=devices or first.settings.devices)
        again = Outcome(
            settings=settings, expected=list(ids), deviations=first.deviations, environment=dict(first.environment)
        )
        scratch = self.scratch / f"again-{self.count}"
        scratch.mkdir()
        runner = Runner(again, _WaitingOnly(self.watcher, first.records), scratch, self.file, environment)
        began = time.monotonic()
        try:
            runner.run(units(ids))
        except SetupError as error:
            again.setup = str(error)
        finally:
            runner.end()
        again.fill(NEVER_RUN)
        again.seconds = time.monotonic() - began
        return again

    def start(self, environment: Mapping[str, str]) -> Started:
        """Start JAX."""
        return start(self.outcome.settings, _phases(self.watcher), environment)


def _phases(watcher: Watcher) -> Callable[[str], None]:
    return lambda phase: watcher.waiting((), [f"starting JAX: {phase}"])


class _WaitingOnly:
    """Passes on `waiting`, with the first run's checks as done, and nothing else: results of reruns are not shown."""

    def __init__(self, watcher: Watcher, done: Collection[str]) -> None:
        self.watcher, self.done = watcher, done

    def waiting(self, done: Collection[str], running: Sequence[str]) -> None:
        self.watcher.waiting(self.done, running)

    def _ignore(self, _: object) -> None: ...

    begin = found = rung = trying = _ignore
