"""The kill matrix: every fault before every law of its side of the border, and what the diagnosis makes of it.

Rungs are asked from the bottom up and nothing is blocked, so that it is seen which laws could replace each other.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from ..core.fault import Fault
from ..core.law import LEVELS, Law, blocked_by, check_id, laws
from ..core.result import Result
from ..core.settings import Settings
from ..judge.diagnosis import diagnose
from ..judge.mutation_score import level_of
from ..judge.outcome import BROKEN, Outcome
from . import equivalent
from .trial import LOWERED, PERFORMANCE, PROCESSES, SUBJECTS, trials


@dataclass
class Row:
    """One fault, and what each law said.

    Attributes:
        fault: seeded.
        records: by law.
        layer: that the diagnosis of a run names, or None where nothing fell.
        cause: that it gives.
    """

    fault: Fault
    records: dict[str, Result] = field(default_factory=dict)
    layer: str | None = None
    cause: str = ""

    @property
    def seen_by(self) -> list[str]:
        """The laws that see the fault."""
        return [law for law, record in self.records.items() if record.status == "fail"]


def side(fault: Fault) -> list[Law]:
    """The laws that a fault of a trainer, or of the machine, is put before."""
    if fault.module == PERFORMANCE:
        # It computes what the right one does: laws of results would take minutes to say so.
        return [law for law in laws().values() if law.rung_name == PERFORMANCE or law.id in fault.seen_by]
    if fault.module == LOWERED:
        return [law for law in laws().values() if law.id.startswith("lowering.") or law.id in fault.seen_by]
    if fault.module == PROCESSES:
        return [law for law in laws().values() if law.rung_name == PROCESSES]
    ours = fault.module == SUBJECTS or (fault.module == "equivalent" and fault.id in equivalent.changed)
    per = "subject" if ours else "machine"
    # Processes are started anew, and know of nothing that is seeded in this one.
    return [law for law in laws().values() if law.per == per and law.rung_name != PROCESSES]


def row(fault: Fault, settings: Settings) -> Row:
    """One fault before all laws of its side up to the level of `settings`, each asked as lightly as may be."""
    asked = [law.id for law in side(fault) if LEVELS.index(law.level) <= LEVELS.index(settings.level)]
    levels = [dataclasses.replace(settings, level=level_of(settings.level, fault, law)) for law in asked]
    found = Row(fault)
    for record in trials(fault, list(zip(asked, levels, strict=True)), narrows=True):
        found.records[record.law] = record
    diagnosis = diagnose(as_run(fault, found.records, settings))
    if diagnosis is not None:
        found.layer, found.cause = diagnosis["layer"], diagnosis["cause"]
    return found


def as_run(fault: Fault, records: dict[str, Result], settings: Settings) -> Outcome:
    """What a run of a system with this fault would have gathered: what stands on a rung that fell is blocked."""
    failed = {(record.rung, None) for record in records.values() if record.status in BROKEN}
    outcome = Outcome(settings=settings, expected=[check_id(law, fault.id) for law in records])
    for law, record in records.items():
        broken = blocked_by(failed, laws()[law], None)
        outcome.records[record.id] = Result.ended(laws()[law], fault.id, "blocked", broken, 0.0) if broken else record
    return outcome
