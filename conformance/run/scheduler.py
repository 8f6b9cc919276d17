"""Settings -> an outcome: the ladder in child processes, each check under its deadline.

A check that hangs or crashes is a result of its own and is not asked again; the rest of its process goes on in a new
one. Whatever happens, every id that was expected has one record at the end, and no process is left behind.
"""

from __future__ import annotations

import dataclasses
import datetime
import errno
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.deviations import accepted
from ..core.law import RUNGS, blocked_by, laws, split_id
from ..core.result import Result
from ..judge.outcome import BROKEN, WRONG, Group, Outcome, groups
from ..machine import snapshot
from ..workers import endings
from ..workers.plan import SEEDED, Unit, command, trial_command, variables
from ..workers.process import Child, wait
from .watcher import Watcher

# So many hangs on one rung, each as long as its deadline, and the rest of the rung is not waited for.
MOST_HANGS = 3
# A process that ended leaves no error number, only its output, with the words of the operating system.
NO_SPACE = os.strerror(errno.ENOSPC)
USAGE_ERROR = 4


class SetupError(Exception):
    """Nothing can be verified here."""


@dataclasses.dataclass
class _Running:
    """A unit whose process runs, with what it has not answered yet."""

    unit: Unit
    child: Child
    left: list[str]
    stalled: int = 0
    collect_errors: list[str] = dataclasses.field(default_factory=list)


class Runner:
    """The processes of one run.

    Args:
        outcome: is filled.
        watcher: is told how it goes.
        scratch: a folder for what checks write.
        file: of known deviations.
        given: the environment of the processes.
    """

    def __init__(
        self, outcome: Outcome, watcher: Watcher, scratch: Path, file: Path | None, given: Mapping[str, str]
    ) -> None:
        self.outcome, self.watcher, self.scratch, self.file, self.given = outcome, watcher, scratch, file, given
        self.settings = outcome.settings
        self.running: list[_Running] = []
        self.programs: Path | None = None
        self.starts = 0
        self.told: set[tuple[int, str | None]] = set()
        self.whole = {(g.rung, g.subject): len(g.records) for g in groups(map(_unanswered, outcome.expected))}

    def run(self, waiting: list[Unit], programs: Path | None = None) -> None:
        """Ask everything of these units.

        Args:
            waiting: units; emptied.
            programs: where compiled ones are kept; None keeps none beyond this run.

        Raises:
            SetupError: nothing can be verified here.
        """
        self.programs = programs
        while waiting or self.running:
            ready = [unit for unit in waiting if unit.after <= self.outcome.records.keys()]
            for unit in ready[: self._lanes() - len(self.running)]:
                waiting.remove(unit)
                self._start(_Running(unit, None, list(unit.ids)))  # type: ignore[arg-type]
            wait([pipe for r in self.running for pipe in r.child.pipes()], 0.2)
            for running in list(self.running):
                self._look_at(running)
            now = [r.child.running or f"{r.unit.name}: between checks" for r in self.running]
            self.watcher.waiting(self.outcome.records, now)

    def listen(self) -> None:
        """Take what has been told and not yet read: a check that ended before an interruption has its record."""
        for running in self.running:
            for event in running.child.events():
                self._take(running, event)

    def end(self) -> None:
        """End what still runs."""
        for running in self.running:
            running.child.close()
        self.running = []

    def _lanes(self) -> int:
        # An accelerator's devices are for one process at a time; simulated ones are for as many as there are cores.
        return snapshot.cores() if self.outcome.platforms == ["cpu"] else 1

    def _start(self, running: _Running) -> None:
        """Start a process for what is left of a unit, unless a rung below has failed."""
        if running.unit.name == SEEDED:
            if running.left:
                self._launch(running, trial_command(self.settings, running.left))
            return
        failed = {(r.rung, r.subject) for r in self.outcome.records.values() if r.status in BROKEN}
        for check in list(running.left):
            law, subject = split_id(check)
            broken = blocked_by(failed, law, subject)
            hangs = sum(r.status == "hang" and (r.rung, r.subject) == (law.rung, subject)
                        for r in self.outcome.records.values())  # fmt: skip
            if broken is None and hangs >= MOST_HANGS:
                broken = f"rung {law.rung} ({RUNGS[law.rung]}) itself: {hangs} of its checks hung"
            if broken is not None:
                self._keep(running, Result.ended(law, subject, "blocked", f"blocked by {broken}", 0.0))
        if not running.left:
            return
        words = ",".join(f"{rung}:{subject}" if subject else f"{rung}" for rung, subject in sorted(failed, key=str))
        own = self.scratch / f"process-{self.starts + 1}"
        self._launch(running, command(self.settings, running.left, words, self.file, own))

    def _launch(self, running: _Running, asked: list[str]) -> None:
        self.starts += 1
        # Until the first process has said so, what is asked for or installed tells.
        cached = (self.outcome.platforms or snapshot.foreseen(self.settings.platform)) == ["cpu"]
        cached = cached and snapshot.keeps_programs(self.outcome.environment.get("versions", {}))
        cache = self.scratch / "cache" if cached else None
        if self.programs is not None and running.unit.name != SEEDED:
            cache = self.programs
        running.child = Child(asked, variables(self.given, cache, self.scratch), len(running.left))
        running.collect_errors = []
        self.running.append(running)

    def _look_at(self, running: _Running) -> None:
        child = running.child
        over = child.ended()  # asked before reading: what it told before its end is then read too
        for event in child.events():
            self._take(running, event)
        if over:
            self._ended(running)
        elif child.overdue():
            self._hung(running)

    def _take(self, running: _Running, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "result":
            mismatch = event.pop("mismatch", "")
            record = Result.from_json(event)
            if running.unit.name == SEEDED:
                self._keep(running, record)
                return
            if mismatch and record.status == "pass":
                said = f"XLA's autotuner found kernels that disagree: {mismatch[:300]}"
                record = dataclasses.replace(record, status="fail", message=said)
            if laws()[record.law].setup and record.status in WRONG:
                self.outcome.setup = self._what_is_missing(record)
            running.stalled = 0
            self._keep(running, record)
        elif kind == "environment":
            self.outcome.environment |= event
        elif kind == "subject":
            self.outcome.subjects[event.pop("label")] = event
        elif kind == "trouble":
            running.collect_errors.append(event["message"])

    def _what_is_missing(self, record: Result) -> str:
        """What was asked for, what JAX said to that, and what to do."""
        platform, variable = self.settings.platform, self.given.get("JAX_PLATFORMS")
        asked = [f"--platform {platform}"] if platform else []
        asked += [f"JAX_PLATFORMS={variable}"] if variable else []
        said = " ".join(record.message.split()).removesuffix(f" [{record.law}]").rstrip(":.")[:300]
        return f"{', '.join(asked) or 'this machine'}: {said}; {split_id(record.id)[0].next_step}"

    def _keep(self, running: _Running, record: Result) -> None:
        """Store the one record of a check, and tell when its line of the ladder is complete.

        A signal may end this anywhere, and what is not stored by then is taken once more: it leaves what is left last.
        """
        if record.id not in running.left:
            return
        if running.unit.name == SEEDED:
            self.outcome.trials[record.id] = record
            running.left.remove(record.id)
            return
        today = datetime.datetime.now(datetime.UTC).date()
        record = accepted(self.outcome.deviations, record, self.outcome.platforms or self._asked_platform(), today)
        record = dataclasses.replace(record, repro=self.settings.repro(record.id, record.subject))
        self.outcome.records[record.id] = record
        running.left.remove(record.id)
        key = (record.rung, record.subject)
        mine = [r for r in self.outcome.ended() if (r.rung, r.subject) == key]
        if len(mine) == self.whole[key] and self.outcome.setup is None:
            self.watcher.rung(Group(*key, mine))

    def _asked_platform(self) -> list[str]:
        return [self.settings.platform] if self.settings.platform else []

    def _lost(self, running: _Running, check: str, status: str, message: str, said: list[str]) -> None:
        law, subject = split_id(check)
        record = Result.ended(law, subject, status, message, time.monotonic() - running.child.since)
        self._keep(running, dataclasses.replace(record, facts={"stderr": said[-40:]} if said else {}))

    def _hung(self, running: _Running) -> None:
        """End a process that is over its deadline, and go on with what it has left."""
        child = running.child
        stack = child.stacks()
        where = endings.position(stack)
        self._took_leave(running, child.close())
        self.running.remove(running)
        if child.running is not None:
            message = f"no answer within {child.deadline:g} s{where}"
            self._lost(running, child.running, "hang", message, stack)
        elif not running.left:
            self.outcome.troubles.append(f"the process of {running.unit.name} did not end by itself{where}")
        else:
            self._without_a_check(running, "hang", f"no check began within {child.deadline:g} s{where}")
        self._start(running)

    def _took_leave(self, running: _Running, code: int | None) -> None:
        if code is None:
            said = f"the process of {running.unit.name} {endings.how_it_ended(code)}"
            self.outcome.troubles.append(said)

    def _ended(self, running: _Running) -> None:
        """See why a process is over, and go on with what it has left."""
        child = running.child
        code = child.close()
        self.running.remove(running)
        said = endings.ended(code, child.output)
        if child.running is not None:
            self._lost(running, child.running, "crash", f"{said} (in the middle of the check)", list(child.output))
        elif code == USAGE_ERROR and not child.answered:
            raise SetupError(endings.usage(child.output))
        elif not running.left:
            if code is None or code < 0:
                self.outcome.troubles.append(f"the process of {running.unit.name} crashed on its way out ({said})")
        elif code in (0, 1, 5):
            self._never_collected(running)
        else:
            reasons = [*running.collect_errors, said] if code not in (2, 3) else running.collect_errors or [said]
            self._without_a_check(running, "crash", f"its process ended before the check began: {reasons[0]}")
        if self.outcome.setup is not None:
            raise SetupError(self.outcome.setup)
        self._start(running)

    def _never_collected(self, running: _Running) -> None:
        """A session that came to its end without some checks: they cannot be imported, or do not exist."""
        errors = running.collect_errors
        if errors and not self.outcome.records:
            raise SetupError(f"the checks cannot be imported: {errors[0]}; mend this installation of JAX and NumPy")
        for check in list(running.left):
            law, subject = split_id(check)
            mine = [e for e in errors if e.startswith(f"test_{law.rung}_")]
            status, reason = ("error", mine[0]) if mine else ("not_run", "there is no check of this id in laws/")
            self._keep(running, Result.ended(law, subject, status, reason, 0.0))

    def _without_a_check(self, running: _Running, status: str, message: str) -> None:
        """A process that came to nothing: once more without progress, and then what it has left is lost."""
        if NO_SPACE in message:
            raise SetupError(f"{NO_SPACE.lower()} for temporary files; free some, or set TMPDIR to another folder")
        running.stalled += 0 if running.child.answered else 1
        if running.stalled > 1:
            for check in list(running.left):
                self._lost(running, check, status, message, list(running.child.output))


def _unanswered(check: str) -> Result:
    law, subject = split_id(check)
    return Result.ended(law, subject, "not_run", "", 0.0)
