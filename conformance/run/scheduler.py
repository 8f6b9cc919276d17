"""Settings -> an outcome: runs the checks of the ladder in child processes, each check with a deadline.

A check that hangs or crashes gets a result that says so, and is not rerun; the other checks of its process go on in a
new process. In the end every expected check has one result, and no process is left.
"""

import dataclasses
import datetime
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ..core.check import NotRunReason
from ..core.deviations import accepted
from ..core.facts import Facts
from ..core.law import RUNGS, blocked_by, laws, split_id
from ..core.result import Result
from ..judge.outcome import BROKEN, WRONG, Group, Outcome
from ..machine import snapshot
from ..workers import endings
from ..workers.plan import LIGHT_FLAGS, SEEDED, Unit, command, light_checks, trial_command, trials, units, variables
from ..workers.process import Child, wait
from .progress import Progress

# After this many hangs on one rung, each of which costs a deadline, the other checks of the rung are blocked.
MOST_HANGS = 3
# The message of a check that no process reached.
NEVER_RUN = "never run"


class SetupError(Exception):
    """Nothing can be verified on this machine; the message says why. `lost`: because of a hang or a crash."""

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


@dataclasses.dataclass
class _Running:
    """A unit (checks that share a process), and the process that runs it now."""

    unit: Unit  # the checks of the process
    child: Child  # the process itself
    left: list[str]  # ids of checks without a result
    stalled: int = 0  # how many processes in a row ended before any of their checks did
    # File that pytest could not collect -> the error; "" -> an internal error of pytest.
    errors: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        phase = f"loading --adapter {self.child.loading}" if self.child.loading else "between checks"
        return self.child.running or f"{self.unit.name}: {phase}"


class Scheduler:
    """Runs the processes of one run; `outcome` receives their results; `progress` shows them.

    The processes get `environment`, the folder `scratch` for temporary files, and the `file` of known failures.
    """

    def __init__(
        self, outcome: Outcome, progress: Progress, scratch: Path, file: Path | None, environment: Mapping[str, str]
    ) -> None:
        self.outcome, self.progress, self.scratch, self.file = outcome, progress, scratch, file
        self.settings, self.environment = outcome.settings, environment
        self.running: list[_Running] = []
        self.programs: Path | None = None
        self.starts = 0
        self.losses: dict[str, list[str]] = {}  # process -> how it ended or hung between two checks
        # (rung, trainer or None) -> the number of its checks.
        self.whole = Counter((law.rung, subject) for law, subject in map(split_id, outcome.expected))

    def run(self, ids: Sequence[str], seeded: Sequence[str] = (), programs: Path | None = None) -> None:
        """Run these checks and trials of seeded faults; a `SetupError` says that nothing can be verified here.

        Compiled programs are kept in the folder `programs`; None keeps none beyond this run.
        """
        self.programs = programs
        light = light_checks(ids, self.settings.level, self._versions(), self.environment) if self._simulated() else ()
        waiting = units(ids, light) + trials(seeded)
        while waiting or self.running:
            ready = [unit for unit in waiting if unit.after <= self.outcome.records.keys()]
            # One process at a time uses an accelerator; on simulated devices, as many processes run as there are cores.
            lanes = snapshot.cores() if self.outcome.platforms == ["cpu"] else 1
            for unit in ready[: lanes - len(self.running)]:
                waiting.remove(unit)
                self._start(_Running(unit, None, list(unit.ids)))  # type: ignore[arg-type]
            wait([pipe for r in self.running for pipe in r.child.pipes()], 0.2)
            for running in list(self.running):
                self._poll(running)
            self.progress.waiting(self.outcome.records, [f"{r}" for r in self.running])

    def _simulated(self) -> bool:
        # Until the first process has reported its platform, the requested or installed one decides.
        return (self.outcome.platforms or snapshot.foreseen(self.settings.platform)) == ["cpu"]

    def _versions(self) -> Mapping[str, str]:
        return self.outcome.environment.get("versions", {})

    def listen(self) -> None:
        """Read all events that processes have written, so that no check which ended before an interruption is lost."""
        for running in self.running:
            for event in running.child.events():
                self._take(running, event)

    def end(self) -> None:
        """End all processes."""
        for running in self.running:
            running.child.close()
        self.running = []

    def _start(self, running: _Running) -> None:
        """Start a process for the rest of a unit, after blocking the checks that need a failed rung."""
        if running.unit.name == SEEDED:
            if running.left:
                self._launch(running, trial_command(self.settings, running.left))
            return
        results = self.outcome.records.values()
        failed = {(r.rung, r.subject) for r in results if r.status in BROKEN and laws()[r.law].blocks}
        for check in list(running.left):
            law, subject = split_id(check)
            blocker = blocked_by(failed, law, subject)
            hangs = sum(r.status == "hang" and (r.rung, r.subject) == (law.rung, subject) for r in results)
            if blocker is None and hangs >= MOST_HANGS:
                blocker = f"rung {law.rung} ({RUNGS[law.rung]}) itself: {hangs} of its checks hung"
            if blocker is not None:
                self._keep(running, Result.ended(law, subject, "blocked", f"blocked by {blocker}", 0.0))
        if running.left:
            words = ",".join(f"{rung}:{subject}" if subject else f"{rung}" for rung, subject in sorted(failed, key=str))
            scratch = self.scratch / f"process-{self.starts + 1}"
            self._launch(running, command(self.settings, running.left, words, self.file, scratch))

    def _launch(self, running: _Running, words: list[str]) -> None:
        self.starts += 1
        cache = self.scratch / "cache" if self._simulated() and snapshot.keeps_programs(self._versions()) else None
        cache = cache if running.unit.name == SEEDED else self.programs or cache
        flags = LIGHT_FLAGS if running.unit.light else ""
        running.child = Child(words, variables(self.environment, cache, self.scratch, flags), len(running.left))
        running.errors = {}
        self.running.append(running)

    def _poll(self, running: _Running) -> None:
        child = running.child
        ended = child.ended()  # before the events are read, so that the last ones are read too
        for event in child.events():
            self._take(running, event)
        if ended:
            self._ended(running)
        elif child.overdue() or child.stopped():
            self._hung(running)

    def _take(self, running: _Running, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "result":
            mismatch = event.pop("mismatch", "")
            record = Result.from_json(event)
            if running.unit.name != SEEDED:
                if mismatch and record.status == "pass":
                    message = f"XLA's autotuner found kernels that disagree: {mismatch[:300]}"
                    record = dataclasses.replace(record, status="fail", message=message)
                if laws()[record.law].setup and record.status in WRONG:
                    self.outcome.setup = self._setup_message(record)
                running.stalled = 0
            self._keep(running, record)
        elif kind == "environment":
            self.outcome.environment |= event
        elif kind == "subject":
            self.outcome.subjects[event.pop("label")] = event
        elif kind == "trouble":
            running.errors[event["file"]] = event["message"]

    def _setup_message(self, record: Result) -> str:
        """One line that says what the user requested, what JAX answered, and what to do."""
        platform, variable = self.settings.platform, self.environment.get("JAX_PLATFORMS")
        requests = [f"--platform {platform}"] if platform else []
        requests += [f"JAX_PLATFORMS={variable}"] if variable else []
        message = " ".join(record.message.split()).removesuffix(f" [{record.law}]").rstrip(":.")[:300]
        return f"{', '.join(requests) or 'this machine'}: {message}; {laws()[record.law].next_step}"

    def _keep(self, running: _Running, record: Result) -> None:
        """Store the result of a check, and report the rung if all its checks have ended.

        A signal may interrupt this method; the result is then stored again, as its id leaves `left` only when stored.
        """
        if record.id not in running.left:
            return
        if running.unit.name == SEEDED:
            self.outcome.trials[record.id] = record
            running.left.remove(record.id)
            return
        requested = [self.settings.platform] if self.settings.platform else []
        today = datetime.datetime.now(datetime.UTC).date()
        record = accepted(self.outcome.deviations, record, self.outcome.platforms or requested, today)
        record = dataclasses.replace(record, repro=self.settings.repro(record.id, record.subject))
        self.outcome.records[record.id] = record
        running.left.remove(record.id)
        key = (record.rung, record.subject)
        results = [r for r in self.outcome.ended() if (r.rung, r.subject) == key]
        if len(results) == self.whole[key] and self.outcome.setup is None:
            self.progress.rung(Group(*key, results))

    def _lost(self, running: _Running, check: str, status: str, message: str, output: list[str]) -> None:
        facts: Facts = {"stderr": output[-40:]} if output else {}
        needed = endings.without_memory(output)
        if needed and status == "crash":
            status, facts["out_of_memory"] = "error", needed[:300]
        record = Result.ended(*split_id(check), status, message, time.monotonic() - running.child.since)
        self._keep(running, dataclasses.replace(record, facts=facts))

    def _hung(self, running: _Running) -> None:
        """End a process whose deadline has passed, and go on with the rest of its unit."""
        child, process = running.child, self._process(running)
        stopped = child.stopped()
        stack = [] if stopped else child.stacks()
        where = endings.position(stack)
        how = f"its process {endings.STOPPED}" if stopped else f"no answer within {child.deadline:g} s{where}"
        code = child.close()
        if code is None:
            self.outcome.troubles.append(f"{process} {endings.how_it_ended(code)}")
        self.running.remove(running)
        if child.running is not None:
            self._lost(running, child.running, "hang", how, stack)
        elif child.loading:
            raise SetupError(f"--adapter {child.loading}: it is not loaded: {how}", lost=True)
        elif not running.left:
            self.outcome.troubles.append(f"{process} did not end by itself{where}")
        else:
            self._without_a_check(running, "hang", how.replace("no answer", "no check began"))
        self._start(running)

    def _ended(self, running: _Running) -> None:
        """Find out why a process ended, and go on with the rest of its unit."""
        child = running.child
        code = child.close()
        self.running.remove(running)
        how = endings.ended(code, child.output)
        if child.running is not None:
            self._lost(running, child.running, "crash", f"{how} (in the middle of the check)", list(child.output))
        elif code == pytest.ExitCode.USAGE_ERROR and not child.answered:
            raise SetupError(endings.usage(child.output))
        elif child.loading:
            message = f"--adapter {child.loading}: the process ended early, while the adapter was loaded: {how}"
            raise SetupError(message, lost=code is None or code < 0)
        elif not running.left:
            if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                self.outcome.troubles.append(f"{self._process(running)} crashed on its way out ({how})")
        else:
            self._not_collected(running)
            if running.left:
                reason = next(iter(running.errors.values()), how)
                self._without_a_check(running, "crash", f"its process ended early, before the check began: {reason}")
        if self.outcome.setup is not None:
            raise SetupError(self.outcome.setup)
        self._start(running)

    def _not_collected(self, running: _Running) -> None:
        """Record results for checks that pytest did not find: their file cannot be imported, or does not have them."""
        errors, found = running.errors, running.child.collected
        if found is None:
            return
        if errors and not self.outcome.records:
            error = next(iter(errors.values()))
            raise SetupError(f"the checks cannot be imported: {error}; fix this installation of JAX and NumPy")
        for check in [check for check in running.left if check not in found]:
            law, subject = split_id(check)
            own = [message for file, message in errors.items() if file.startswith(f"test_{law.rung}_")]
            if own:
                record = Result.ended(law, subject, "error", own[0], 0.0)
            else:
                message = "there is no check of this id in laws/"
                record = Result.ended(law, subject, "not_run", message, 0.0, NotRunReason.LACKING)
            self._keep(running, record)

    def _process(self, running: _Running) -> str:
        """The process of a unit in words; that of a trainer with its adapter."""
        adapter = self.settings.subjects.get(running.unit.name.removeprefix("trainer "))
        return f"the process of {running.unit.name}{f' (--adapter {adapter})' if adapter else ''}"

    def _without_a_check(self, running: _Running, status: str, message: str) -> None:
        """Handle a process that was lost between checks; two in a row without a result end the unit."""
        process = self._process(running)
        ways = self.losses.setdefault(process, [])
        ways.append(message.removeprefix("its process "))
        times = f"{len(ways)} times" if len(ways) > 1 else "once"
        running.stalled += 0 if running.child.answered else 1
        then = "a new process continued" if running.stalled <= 1 else "no further process was started"
        words = f"{process} was lost {times} between checks ({'; '.join(dict.fromkeys(ways))}), and {then}"
        others = [text for text in self.outcome.troubles if not text.startswith(f"{process} was lost ")]
        self.outcome.troubles = [*others, words]
        if endings.NO_SPACE in message:
            full = endings.NO_SPACE.lower()
            raise SetupError(f"{full} for temporary files; free some, or set TMPDIR to another folder")
        if running.stalled > 1:
            for check in list(running.left):
                self._lost(running, check, status, message, list(running.child.output))
