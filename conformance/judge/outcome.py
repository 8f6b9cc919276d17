"""What a run of the kit has gathered: the material of the verdict and of every report."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core.check import NotRunReason
from ..core.deviations import Deviation
from ..core.law import RUNGS, split_id
from ..core.result import Result
from ..core.settings import Settings
from ..machine.findings import Finding
from ..machine.remedies import Tries
from ..machine.startup import Started

# Statuses of a check that did not do what its law demands. Each blocks what stands on its rung.
WRONG = ("fail", "error")
LOST = ("hang", "crash")
BROKEN = WRONG + LOST


class Group(NamedTuple):
    """One line of the ladder: a rung, for the machine or for one trainer."""

    rung: int
    subject: str | None
    records: list[Result]

    @property
    def title(self) -> str:
        """The rung's number and name, and the trainer."""
        return f"{self.rung} {RUNGS[self.rung]}" + (f" [{self.subject}]" if self.subject else "")

    def count(self, *statuses: str) -> int:
        """How many checks ended so."""
        return sum(record.status in statuses for record in self.records)

    @property
    def comparisons(self) -> int:
        """Made in all checks together."""
        return sum(record.comparisons for record in self.records)

    @property
    def seconds(self) -> float:
        """Of all checks together."""
        return sum(record.seconds for record in self.records)


@dataclass(kw_only=True)
class Outcome:
    """A run, as far as it came.

    Attributes:
        settings: what was asked.
        expected: the ids that it must answer for, in order.
        records: by id, those that ended.
        seeded: the ids of the trials: a law, with a fault that it must see in brackets.
        trials: by id, their records; the status is `fail` where the law saw the fault.
        environment: see `environment.py`.
        subjects: by label, what each trainer said of itself.
        deviations: that are known and still asked.
        findings: what was wrong with the machine before JAX was imported.
        start: how JAX started in a process of its own; None where it could only choose the CPU, and did not.
        kept_since: the day on which the programs were compiled that this run took from a cache; None without one.
        doubted: the checks that found something else with kept programs than with programs compiled anew.
        tries: settings under which what fell was asked again; None where nothing fell, or none could matter.
        troubles: of the processes, outside any check: a crash or a hang on the way out.
        interrupted: the exit code of a run that a signal ended: 130 for Ctrl-C.
        setup: why nothing could be verified here, and how to mend it.
        started: when it began.
        seconds: that it took.
    """

    settings: Settings
    expected: list[str]
    records: dict[str, Result] = field(default_factory=dict)
    seeded: list[str] = field(default_factory=list)
    trials: dict[str, Result] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    subjects: dict[str, dict[str, Any]] = field(default_factory=dict)
    deviations: list[Deviation] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    start: Started | None = None
    kept_since: str | None = None
    doubted: list[str] = field(default_factory=list)
    tries: Tries | None = None
    troubles: list[str] = field(default_factory=list)
    interrupted: int | None = None
    setup: str | None = None
    started: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))
    seconds: float = 0.0

    @property
    def unoptimized(self) -> list[str]:
        """The laws whose programs were compiled without optimization; see `compilation.py`."""
        return sorted({record.law for record in self.records.values() if record.facts.get("optimized") is False})

    @property
    def platforms(self) -> list[str]:
        """The names of the platform that was verified, most general first; empty while nobody knows it."""
        found: list[str] = self.environment.get("platforms", [])
        return found

    def ended(self) -> list[Result]:
        """The records in the order of the ladder."""
        return [self.records[check] for check in self.expected if check in self.records]

    def of_status(self, *statuses: str) -> list[Result]:
        """The records of these statuses, from the lowest rung up."""
        return [record for record in self.ended() if record.status in statuses]

    def fill(self, message: str) -> None:
        """Record every check without a result as not run, with a message that says why."""
        for check in self.expected:
            if check not in self.records:
                law, subject = split_id(check)
                self.records[check] = Result.ended(law, subject, "not_run", message, 0.0, NotRunReason.UNREACHED)

    def groups(self) -> list[Group]:
        """The ladder's lines, from the bottom up."""
        return groups(self.ended())


def groups(records: Iterable[Result]) -> list[Group]:
    """Records -> the ladder's lines, in the order in which they first appear."""
    found: dict[tuple[int, str | None], list[Result]] = {}
    for record in records:
        found.setdefault((record.rung, record.subject), []).append(record)
    return [Group(rung, subject, members) for (rung, subject), members in found.items()]
