"""Fault -> a row of the kill matrix: the result of each law while the fault is seeded, and the diagnosis.

All laws that can meet the fault run, from the lowest rung up, and no failure blocks another law: so the matrix shows
which laws could replace each other.
"""

import dataclasses
from dataclasses import dataclass

from ..core.fault import Fault
from ..core.law import LEVELS, Law, blocked_by, check_id, laws
from ..core.result import Result
from ..core.settings import Settings
from ..judge.diagnosis import diagnose
from ..judge.mutation_score import level_of
from ..judge.outcome import BROKEN, Outcome
from . import equivalent
from .trial import LOWERED, PERFORMANCE, PROCESSES, SUBJECTS, trials


@dataclass(frozen=True)
class Row:
    """One fault, and the result of each law.

    Attributes:
        fault: the seeded fault.
        results: by law.
        layer: the layer that the diagnosis names; None if no law failed.
        cause: the cause that it gives.
    """

    fault: Fault
    results: dict[str, Result]
    layer: str | None = None
    cause: str = ""

    @property
    def seen_by(self) -> list[str]:
        """The laws that failed."""
        return [law for law, result in self.results.items() if result.status == "fail"]


def side(fault: Fault) -> list[Law]:
    """The laws that can meet a fault: those of trainers, or those of the machine, or fewer."""
    if fault.module == PERFORMANCE:
        # Its trainers are right: the laws of results would take minutes to show that.
        return [law for law in laws().values() if law.rung_name == "performance" or law.id in fault.seen_by]
    if fault.module == LOWERED:
        return [law for law in laws().values() if law.id.startswith("lowering.") or law.id in fault.seen_by]
    if fault.module == PROCESSES:
        return [law for law in laws().values() if law.rung_name == "processes"]
    of_trainer = fault.module == SUBJECTS or (fault.module == "equivalent" and fault.id in equivalent.TRAINERS)
    per = "subject" if of_trainer else "machine"
    # The processes of rung 9 are new ones, which a fault seeded in this process does not reach.
    return [law for law in laws().values() if law.per == per and law.rung_name != "processes"]


def row(fault: Fault, settings: Settings) -> Row:
    """Run the laws of `side` up to the level of `settings`, each at the lowest level at which it can see the fault."""
    names = [law.id for law in side(fault) if LEVELS.index(law.level) <= LEVELS.index(settings.level)]
    levels = [dataclasses.replace(settings, level=level_of(settings.level, fault, law)) for law in names]
    results = {result.law: result for result in trials(fault, list(zip(names, levels, strict=True)), narrows=True)}
    diagnosis = diagnose(as_run(fault, results, settings))
    return Row(fault, results, diagnosis["layer"], diagnosis["cause"]) if diagnosis else Row(fault, results)


def as_run(fault: Fault, results: dict[str, Result], settings: Settings) -> Outcome:
    """The outcome of a run on a system that has the fault: laws that need a failed rung are blocked."""
    failed = {(result.rung, None) for result in results.values() if result.status in BROKEN}
    outcome = Outcome(settings=settings, expected=[check_id(law, fault.id) for law in results])
    for law, result in results.items():
        rung = blocked_by(failed, laws()[law], None)
        outcome.records[result.id] = Result.ended(laws()[law], fault.id, "blocked", rung, 0.0) if rung else result
    return outcome
