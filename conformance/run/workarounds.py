"""Failed checks -> reruns, each with one changed setting, which look for a setting that fixes the failure.

What failed first, on the lowest rung or in JAX's start, is rerun in new processes:

    unchanged, twice     if a rerun passes, the failure is intermittent, and no setting is tried
    with each setting    if a setting fixes the failure, the whole ladder is rerun with it
                         if everything passes then, the setting is a workaround

Trainers other than the kit's own are not rerun: if only such a trainer fails, the machine is not at fault.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from ..core.law import LADDER
from ..core.settings import DEFAULT_ADAPTERS
from ..judge.outcome import BROKEN, Outcome
from ..judge.verdict import judge
from ..machine.remedies import FAILS, FIXES, REFUSED, SILENT, UNTRIED, Remedy, Tries, Try, remedies
from ..machine.startup import READY, Started, start
from .progress import Progress
from .scheduler import NEVER_RUN, Scheduler, SetupError

# The most failed checks that are rerun, from the lowest failed rung; a check that hangs costs its whole deadline.
MOST_CHECKS = 3
UNCHANGED = 2
# The most settings with which the whole ladder is rerun.
MOST_WHOLE = 2
# Level -> seconds after which no further setting is tried; a try that hangs takes minutes. A rerun of the whole ladder
# that has begun by then is finished, and takes as long as the run itself.
MOST_SECONDS = {"quick": 300.0, "standard": 900.0, "full": 3600.0}
# Stands for a phase of JAX's start before there is a device. No listed setting matters there; only the user's own
# variables are unset.
NO_RUNG = -1
UNKNOWN_FLAG = "Unknown flag"

Environment = Mapping[str, str]


class Rerun:
    """Reruns parts of a run under other settings, with the arguments of its `Scheduler`; `outcome` does not change."""

    def __init__(self, outcome: Outcome, progress: Progress, scratch: Path, file: Path | None) -> None:
        self.outcome, self.progress, self.scratch, self.file = outcome, progress, scratch, file
        self.count = 0

    def ladder(self, ids: Sequence[str], environment: Environment, devices: int | None) -> Outcome:
        """Run these checks in new processes, with an empty cache and an empty folder; returns their own outcome."""
        first, self.count = self.outcome, self.count + 1
        settings = dataclasses.replace(first.settings, devices=devices or first.settings.devices)
        again = Outcome(
            settings=settings, expected=list(ids), deviations=first.deviations, environment=dict(first.environment)
        )
        scratch = self.scratch / f"again-{self.count}"
        scratch.mkdir()
        scheduler = Scheduler(again, _WaitingOnly(self.progress, first.records), scratch, self.file, environment)
        began = time.monotonic()
        try:
            scheduler.run(ids)
        except SetupError as error:
            again.setup = str(error)
        finally:
            scheduler.end()
        again.fill(NEVER_RUN)
        again.seconds = time.monotonic() - began
        return again

    def checks(self, ids: Sequence[str], environment: Environment, devices: int | None) -> tuple[str, str]:
        """Rerun some checks; returns one of `RESULTS`, and a message."""
        again = self.ladder(ids, environment, devices)
        failed, silent = again.of_status(*BROKEN), again.of_status("not_run", "blocked")
        if failed or again.troubles:
            message = failed[0].message if failed else again.troubles[0]
            output = " ".join(failed[0].facts.get("stderr", ())) if failed else ""
            return (REFUSED if UNKNOWN_FLAG in f"{message} {output}" else FAILS), message
        if silent or again.setup is not None or not again.records:
            return SILENT, again.setup or (silent[0].message if silent else "no check ran")
        return FIXES, ""

    def start(self, environment: Environment) -> tuple[str, str]:
        """Start JAX again; returns one of `RESULTS`, and a message."""
        started = start_jax_alone(self.outcome, self.progress, environment)
        refused = UNKNOWN_FLAG in started.message
        return (FIXES, "") if started.how == READY else (REFUSED if refused else FAILS, started.line)


def start_jax_alone(outcome: Outcome, progress: Progress, environment: Environment) -> Started:
    """Start JAX in a process of its own, as this run would use it."""
    return start(outcome.settings, lambda phase: progress.waiting((), [f"starting JAX: {phase}"]), environment)


class _WaitingOnly:
    """The progress of a rerun: it shows only which checks are running, and counts those that the first run has done."""

    def __init__(self, progress: Progress, done: Collection[str]) -> None:
        self.progress, self.done = progress, done

    def waiting(self, done: Collection[str], running: Sequence[str]) -> None:
        self.progress.waiting(self.done, running)

    def _ignore(self, _: object) -> None: ...

    begin = findings = rung = trying = _ignore


def tried(outcome: Outcome, environment: Environment, rerun: Rerun) -> Tries | None:
    """Look for a setting that fixes the failures of a run; None without failures, or if no setting could matter."""
    if outcome.start is not None and outcome.start.how != READY:
        return _of_a_start(outcome.start, environment, rerun)
    failed = [
        record for record in outcome.of_status(*BROKEN)
        if record.subject is None or outcome.settings.subjects[record.subject] in DEFAULT_ADAPTERS
    ]  # fmt: skip
    if not failed:
        return None
    lowest = [record for record in failed if (record.rung, record.subject) == (failed[0].rung, failed[0].subject)]
    ids = [record.id for record in lowest[:MOST_CHECKS]]
    # Only checks that pass report the devices; if none passed, JAX's start has reported them.
    live = outcome.environment if outcome.platforms else outcome.start.live if outcome.start else {}
    n = len(live.get("devices", ()))
    worth = remedies(live.get("platforms", ()), failed[0].rung, [record.status for record in lowest], environment, n)
    return _try_each(Tries(asked=ids), worth, lambda *how: rerun.checks(ids, *how), environment, rerun)


def _of_a_start(started: Started, environment: Environment, rerun: Rerun) -> Tries | None:
    platform = rerun.outcome.settings.platform
    # JAX has not started, so the platform is unknown: settings for any accelerator are tried.
    names = ["gpu", "rocm", "cuda", "tpu"] if platform in (None, "gpu") else ["gpu", platform]
    rung = next((number for number, rung in enumerate(LADDER) if started.phase in rung.phases), NO_RUNG)
    worth = [remedy for remedy in remedies(names, rung, [started.how], environment, 1) if remedy.devices is None]
    tries = Tries(asked=[f"JAX's start ({started.phase})"])
    return _try_each(tries, worth, lambda changed, _: rerun.start(changed), environment, rerun)


def _try_each(
    tries: Tries,
    worth: Sequence[Remedy],
    repeat: Callable[[Environment, int | None], tuple[str, str]],
    environment: Environment,
    rerun: Rerun,
) -> Tries | None:
    """Rerun what failed, first unchanged, then with each setting; rerun the whole ladder with settings that fix it."""
    if not worth:
        return None
    seconds = MOST_SECONDS[rerun.outcome.settings.level]
    until = time.monotonic() + seconds
    show = rerun.progress.trying
    while tries.unchanged < UNCHANGED and (not tries.unchanged or time.monotonic() < until):
        show(f"rerunning, unchanged: {', '.join(tries.asked)}")
        tries.unchanged += 1
        tries.passed_unchanged += repeat(environment, None)[0] == FIXES
    if tries.passed_unchanged:
        return tries
    whole = 0
    for number, remedy in enumerate(worth, 1):
        result, message, everything = UNTRIED, f"after {seconds:.0f} s of tries", ""
        if time.monotonic() <= until:
            show(f"setting {number} of {len(worth)}: {remedy.words}")
            changed = remedy.change(environment)
            result, message = repeat(changed, remedy.devices)
            if result == FIXES and remedy.devices is None and not tries.workaround and whole < MOST_WHOLE:
                whole += 1
                show(f"it fixes what failed; now everything with {remedy.words}")
                verdict = judge(rerun.ladder(rerun.outcome.expected, changed, None))
                everything = verdict.line
                if verdict.name == "CONFORMANT":
                    tries.workaround = remedy.words
        tries.tries.append(Try(
            id=remedy.id, words=remedy.words, does=remedy.does, source=remedy.source, result=result, message=message,
            everything=everything,
        ))  # fmt: skip
    return tries
