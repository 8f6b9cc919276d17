"""Settings -> an outcome: one run of the ladder from its first process to its last, whatever happens in between."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..core.deviations import Deviation
from ..core.law import expected
from ..core.settings import Settings
from ..judge.mutation_score import chosen
from ..judge.outcome import Group, Outcome
from ..machine import snapshot
from ..machine.findings import Finding, findings
from ..machine.host import Host, facts
from ..machine.startup import CRASH, HANG, Started, start
from ..workers import signals
from ..workers.plan import trials, units
from .program_cache import Kept, agree
from .scheduler import Runner, SetupError
from .watcher import Watcher
from .workarounds import Asking, tried


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
    ids = expected(settings.level, settings.subjects, settings.only, processes=settings.processes)
    outcome = Outcome(settings=settings, expected=ids, deviations=deviations, environment=snapshot.static())
    outcome.seeded = chosen(settings.level, ids) if settings.self_test else []
    kept = Kept(cache, settings, outcome.environment) if cache is not None else None
    scratch = Path(tempfile.mkdtemp(prefix="sftref-"))
    runner = Runner(outcome, watcher, scratch, file, os.environ)
    began = time.monotonic()
    watcher.begin(ids)
    reason = "never asked"
    try:
        with signals.raised():
            try:
                look(outcome, watcher)
                runner.run(units(ids) + trials(outcome.seeded), kept.programs if kept else None)
                if kept is not None:
                    hold_against_cold(runner, kept)
            except NotStartedError as error:
                outcome.troubles.append(str(error))
                reason = "JAX did not start"
            if settings.remedies:
                outcome.tries = tried(outcome, os.environ, Again(outcome, watcher, scratch, file).asking())
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
    """At the machine before JAX is imported; and start JAX in a process of its own where it may take an accelerator.

    Raises:
        NotStartedError: it hangs or crashes.
    """
    outcome.findings = findings(facts(Host()), outcome.environment["versions"], os.environ)
    watcher.found(outcome.findings)
    if snapshot.foreseen(outcome.settings.platform) == ["cpu"]:
        return
    outcome.start = start(outcome.settings, lambda phase: watcher.waiting((), [f"starting JAX: {phase}"]), os.environ)
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


class Again:
    """Asks again what a run has asked, under other settings; nothing of it reaches that run's records."""

    def __init__(self, outcome: Outcome, watcher: Watcher, scratch: Path, file: Path | None) -> None:
        self.outcome, self.watcher, self.scratch, self.file = outcome, watcher, scratch, file
        self.asked = 0

    def asking(self) -> Asking:
        """For `trying.tried`."""
        return Asking(self.ladder, self.start, self.watcher.trying)

    def ladder(self, ids: Sequence[str], given: Mapping[str, str], devices: int | None) -> Outcome:
        """Some of the checks, with no process, program or file of an earlier time."""
        first, self.asked = self.outcome, self.asked + 1
        settings = dataclasses.replace(first.settings, devices=devices or first.settings.devices)
        again = Outcome(
            settings=settings, expected=list(ids), deviations=first.deviations, environment=dict(first.environment)
        )
        scratch = self.scratch / f"again-{self.asked}"
        scratch.mkdir()
        runner = Runner(again, _Unheard(self.watcher, first.records), scratch, self.file, given)
        began = time.monotonic()
        try:
            runner.run(units(ids))
        except SetupError as error:
            again.setup = str(error)
        finally:
            runner.end()
        again.fill("never asked")
        again.seconds = time.monotonic() - began
        return again

    def start(self, given: Mapping[str, str]) -> Started:
        """JAX."""
        return start(self.outcome.settings, lambda phase: self.watcher.waiting((), [f"starting JAX: {phase}"]), given)


class _Unheard:
    """Passes on that something is waited for, and no result."""

    def __init__(self, watcher: Watcher, done: Collection[str]) -> None:
        self.watcher, self.done = watcher, done

    def begin(self, ids: Sequence[str]) -> None:
        pass

    def found(self, findings: Sequence[Finding]) -> None:
        pass

    def rung(self, group: Group) -> None:
        pass

    def trying(self, what: str) -> None:
        pass

    def waiting(self, done: Collection[str], running: Sequence[str]) -> None:
        self.watcher.waiting(self.done, running)
