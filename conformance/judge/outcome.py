"""Everything that a run of the kit produced, from which the verdict and the reports are made."""

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

# Statuses of a failed check; each of them blocks the rungs that need its rung.
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
        """The number of checks with these statuses."""
        return sum(record.status in statuses for record in self.records)

    @property
    def comparisons(self) -> int:
        """Of all checks together."""
        return sum(record.comparisons for record in self.records)

    @property
    def seconds(self) -> float:
        """Of all checks together."""
        return sum(record.seconds for record in self.records)


@dataclass(kw_only=True)
class Outcome:
    """A run, finished or interrupted.

    Attributes:
        settings: of the run.
        expected: the ids of its checks, in order.
        records: by id, the results of checks that ended.
        seeded: the ids of the trials: a law, with a fault that it must see in brackets.
        trials: by id, their results; the status is `fail` if the law saw the fault.
        environment: see `machine/snapshot.py`.
        subjects: by label, the description of each trainer under test.
        deviations: known ones that apply to this run.
        findings: problems of the machine, from before JAX was imported.
        start: of JAX in a process of its own; None if JAX can only choose the CPU, where it is not tried.
        kept_since: the day on which the cached programs of this run were compiled; None without a cache.
        doubted: the checks whose results differ between cached and freshly compiled programs.
        tries: reruns of failed checks with other settings; None without failures, or if no setting could matter.
        troubles: crashes and hangs of processes outside of any check, at their exit.
        interrupted: the exit code of a run that a signal ended: 130 for Ctrl-C.
        setup: why nothing could be verified, and how to fix it.
        started: its time.
        seconds: its duration.
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
        """The laws whose programs were compiled without optimization; see `laws/support/compilation.py`."""
        return sorted({record.law for record in self.records.values() if record.facts.get("optimized") is False})

    @property
    def platforms(self) -> list[str]:
        """The names of the platform, most general first; empty if it is unknown."""
        names: list[str] = self.environment.get("platforms", [])
        return names

    def ended(self) -> list[Result]:
        """All results, in the order of the ladder."""
        return [self.records[check] for check in self.expected if check in self.records]

    def of_status(self, *statuses: str) -> list[Result]:
        """The results with these statuses, from the lowest rung up."""
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
    """Results -> lines of the ladder, in order of appearance."""
    by_line: dict[tuple[int, str | None], list[Result]] = {}
    for record in records:
        by_line.setdefault((record.rung, record.subject), []).append(record)
    return [Group(rung, subject, members) for (rung, subject), members in by_line.items()]
