"""(fault, law) -> a result: a law, or all laws that can meet the fault, run in this process while it is seeded."""

import contextlib
import dataclasses
import importlib
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import jax

from ..core.check import Check, NotRunReason
from ..core.fault import Fault
from ..core.kit import PACKAGE
from ..core.law import LEVELS, Law, blocked_by, check_id, laws
from ..core.result import Result
from ..core.settings import Settings
from ..judge.mutation_score import level_of
from ..judge.outcome import BROKEN, Outcome
from ..laws.machine import test_2_unwaited
from ..laws.support import call
from ..machine import snapshot
from .backend.lowering import CannotSeedError
from .backend.seeding import SeededFaults

SUBJECTS, PERFORMANCE, LOWERED, PROCESSES = "trainers", "trainers.performance", "trainers.lowered", "trainers.processes"
# The modules that seed faults in trainers; the others seed them in the machine.
TRAINERS = (SUBJECTS, PERFORMANCE, LOWERED)
# Caches without a compiled program of this process; the hang of `hung` takes half a minute.
KEPT = (call.functions, test_2_unwaited.hung)


@contextlib.contextmanager
def seeded(fault: Fault | None) -> Iterator[dict[str, Any]]:
    """Seed a fault; yields the wrong values of fixtures, by name.

    Raises:
        CannotSeedError: this JAX or this machine does not allow it.
    """
    if fault is None:
        yield {}
        return
    faults = faults_beside(fault)
    with contextlib.ExitStack() as stack:
        # A wrong trainer compiles programs of its own, or none.
        if not isinstance(faults[fault.id], type):
            forget()
            stack.callback(forget)
        instead = stack.enter_context(faults.seed(fault.id))
        yield instead or {}


def faults_beside(fault: Fault) -> SeededFaults:
    """All faults of the module that seeds a fault."""
    faults: SeededFaults = importlib.import_module(f"{PACKAGE}.faults.{fault.module}").FAULTS
    return faults


def forget() -> None:
    """Drop all compiled programs, JAX's and the kit's: those compiled without a fault do not have it."""
    jax.clear_caches()
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{PACKAGE}.laws."):
            for value in vars(module).values():
                if hasattr(value, "cache_clear") and value not in KEPT:
                    value.cache_clear()


def run_law(
    law: Law, instead: dict[str, Any], settings: Settings, subject: str | None = None, *, narrows: bool = False
) -> Result:
    """Run one law as pytest would; values of `instead` replace the fixtures of their names."""
    check = Check(law, settings.level, settings.seed, narrows=narrows)
    error: BaseException | None = None
    began = time.monotonic()
    try:
        call.run(check, settings, instead)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as raised:
        error = raised
    return Result.of(law, subject, check, error, time.monotonic() - began, "")


def _never(law: Law) -> bool:
    return False


def trials(
    fault: Fault | None, runs: Sequence[tuple[str, Settings]], *, narrows: Callable[[Law], bool] = _never
) -> Generator[Result, None, None]:
    """Run laws with one fault seeded, or none; the `subject` of the results is the fault.

    `narrows` says of a law whether it looks for the cause if it fails, which takes many times as long.
    """
    subject = fault.id if fault else None
    try:
        if fault is not None:
            _need_devices(fault, runs[0][1])
        with seeded(fault) as instead:
            for law, settings in runs:
                yield run_law(laws()[law], instead, settings, subject, narrows=narrows(laws()[law]))
    except CannotSeedError as error:
        for law, _ in runs:
            yield Result.ended(laws()[law], subject, "not_run", str(error), 0.0, NotRunReason.LACKING)


def _need_devices(fault: Fault, settings: Settings) -> None:
    n = len(call.devices(settings))
    if n < fault.devices or n % fault.multiple_of:
        count = f"{fault.devices}{f', a multiple of {fault.multiple_of},' if fault.multiple_of > 1 else ''}"
        raise CannotSeedError(f"needs {count} devices, found {n}")


def side(fault: Fault) -> list[Law]:
    """The laws that can meet a fault: those of trainers, or those of the machine, or fewer."""
    if fault.module == PERFORMANCE:
        # Its trainers are right: the laws of results would take minutes to show that.
        return [law for law in laws().values() if law.rung_name == "performance" or law.id in fault.seen_by]
    if fault.module == LOWERED:
        return [law for law in laws().values() if law.id.startswith("lowering.") or law.id in fault.seen_by]
    if fault.module == PROCESSES:
        return [law for law in laws().values() if law.rung_name == "processes"]
    per = "subject" if isinstance(faults_beside(fault)[fault.id], type) else "machine"
    # The processes of rung 9 are new ones, which a fault seeded in this process does not reach.
    return [law for law in laws().values() if law.per == per and law.rung_name != "processes"]


def row(fault: Fault, settings: Settings) -> dict[str, Result]:
    """The result of each law that can meet a fault, up to the level of `settings`: a row of the kill matrix.

    Each runs at the lowest level at which it can see the fault, from the lowest rung up, and no failure blocks another
    law: so the matrix shows which laws could replace each other. Only those that a run would not block look for causes.
    """
    names = [law.id for law in side(fault) if LEVELS.index(law.level) <= LEVELS.index(settings.level)]
    runs = [(law, dataclasses.replace(settings, level=level_of(settings.level, fault, law))) for law in names]
    results: dict[str, Result] = {}

    def narrows(law: Law) -> bool:
        return blocked_by(_failed(results), law, None) is None

    for result in trials(fault, runs, narrows=narrows):
        results[result.law] = result
    return results


def _failed(results: Mapping[str, Result]) -> set[tuple[int, str | None]]:
    """The rungs that block others after these results."""
    return {(result.rung, None) for law, result in results.items()
            if result.status in BROKEN and laws()[law].blocks}  # fmt: skip


def as_run(fault: Fault, results: dict[str, Result], settings: Settings) -> Outcome:
    """The outcome of a run on this machine with the fault: laws that need a failed rung are blocked."""
    failed = _failed(results)
    # Checks of the machine are of no trainer, where a trial has the fault's name.
    subject = fault.id if fault.module in TRAINERS else None
    outcome = Outcome(settings=settings, expected=[check_id(law, subject) for law in results])
    outcome.environment = snapshot.static() | snapshot.live(settings.devices)
    for law, result in results.items():
        rung = blocked_by(failed, laws()[law], None)
        ended = Result.ended(laws()[law], subject, "blocked", rung, 0.0) if rung else result
        outcome.records[check_id(law, subject)] = dataclasses.replace(ended, id=check_id(law, subject), subject=subject)
    return outcome
