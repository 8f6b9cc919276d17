"""Everything that a run of the kit produced, from which the verdict and the reports are made."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core.deviations import Deviation
from ..core.law import RUNGS, NotRunReason, split_id
from ..core.result import Result
from ..core.settings import Settings
from ..machine.findings import Finding
from ..machine.remedies import Tries
from ..machine.startup import Started

# Statuses of a failed check; each of them blocks the rungs that need its rung.
WRONG = ("fail", "error")
LOST = ("hang", "crash")
BROKEN = WRONG + LOST


def unjudged_advice(record: Result) -> tuple[str, str]:
    """Cause and next step of a check that says nothing about results: an exception of the adapter, or no memory."""
    if record.facts.get("out_of_memory"):
        return (
            f"Memory ran out, so no result is wrong: {record.facts['out_of_memory']}.",
            "Provide the memory that the message names, or verify fewer devices (--devices).",
        )
    return (
        "The adapter raised an exception or does not keep to its interface, so no result is wrong.",
        "Fix the adapter at the line that the message names; docs/adapter.md says what its methods return.",
    )


class Group(NamedTuple):
    """One line of the ladder: the results of one rung, for the machine or for one trainer."""

    rung: int
    subject: str | None
    records: list[Result]

    @property
    def title(self) -> str:
        """The rung's number and name, and the trainer."""
        return f"{self.rung} {RUNGS[self.rung]}" + (f" [{self.subject}]" if self.subject else "")

    @property
    def seconds(self) -> float:
        """The seconds of all its checks together."""
        return sum(record.seconds for record in self.records)


@dataclass(kw_only=True)
class Outcome:
    """A run, finished or interrupted."""

    settings: Settings  # the options of the run
    expected: list[str]  # the ids of all checks of the run, in order
    records: dict[str, Result] = field(default_factory=dict)  # id of a check that ended -> its result
    seeded: list[str] = field(default_factory=list)  # ids of trials, LAW[FAULT]: a fault that the law must see
    trials: dict[str, Result] = field(default_factory=dict)  # id of a trial -> its result; `fail` if the fault was seen
    environment: dict[str, Any] = field(default_factory=dict)  # what `machine/snapshot.py` found
    subjects: dict[str, dict[str, Any]] = field(default_factory=dict)  # label of a trainer -> its name and capabilities
    deviations: list[Deviation] = field(default_factory=list)  # the known failures to accept
    findings: list[Finding] = field(default_factory=list)  # problems of the machine, from before JAX was imported
    start: Started | None = None  # how JAX started in its own process; None if JAX can only choose the CPU
    kept_since: str | None = None  # the day on which the cached programs were compiled; None without a cache
    doubted: list[str] = field(default_factory=list)  # checks whose results differ between cached and fresh programs
    tries: Tries | None = None  # reruns with other settings; None without failures or a setting to try
    troubles: list[str] = field(default_factory=list)  # crashes and hangs of processes outside of any check
    outlived: list[str] = field(default_factory=list)  # commands of processes that outlived the run, and were ended
    interrupted: int | None = None  # the exit code of a run that a signal ended: 130 for Ctrl-C
    setup: str | None = None  # why nothing could be verified, and how to fix it
    cluster: dict[str, Any] | None = None  # hosts, pairs and differences of a run on several hosts; see `cluster/`
    started: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))  # start of the run
    seconds: float = 0.0  # duration of the run

    @property
    def unoptimized(self) -> list[str]:
        """The laws whose programs were compiled without optimization; see `laws/support/compilation.py`."""
        return sorted({record.law for record in self.records.values() if record.facts.get("optimized") is False})

    @property
    def platforms(self) -> list[str]:
        """The names of the platform, most general first; empty if it is unknown."""
        return list(self.environment.get("platforms", ()))

    @property
    def on_cpu(self) -> bool:
        """Whether the devices are known to be those of a CPU, such as simulated ones."""
        return bool(self.environment.get("simulated")) or "cpu" in self.platforms

    @property
    def accelerated(self) -> bool:
        """Whether the devices are known to be accelerators."""
        return bool(self.platforms) and not self.on_cpu

    def ended(self) -> list[Result]:
        """All results, in the order of the ladder."""
        return [self.records[check] for check in self.expected if check in self.records]

    def of_status(self, *statuses: str) -> list[Result]:
        """The results with these statuses, from the lowest rung up."""
        return [record for record in self.ended() if record.status in statuses]

    def wrong(self) -> list[Result]:
        """The results that are wrong; of an error only one that says something about results."""
        return [record for record in self.of_status(*WRONG) if record.judged]

    def wrong_hosts(self) -> list[str]:
        """What is wrong with hosts and links of a cluster, except results of checks, hangs and crashes, in words."""
        if self.cluster is None:
            return []
        links, names = self.cluster["bad_links"], [one["host"] for one in self.cluster["hosts"]]
        texts = [
            f"the link between process {a} ({names[a]}) and process {b} ({names[b]}): {what}"
            for a, b, state, _, what in self.cluster["pairs"]
            if state == "fail" and [a, b] in links
        ]
        for one in self.cluster["hosts"]:
            states, linked = one["states"], any(one["process"] in link for link in links)
            wrong = states["start"] == "different" or (states["pairs"] == "fail" and not linked)
            if wrong or "slow" in states.values():
                texts.append(f"process {one['process']} ({one['host']}): {one['phase']}: {one['message']}")
        return texts

    def bad_hosts(self) -> list[str]:
        """The processes of a cluster that should be left out, each with its host."""
        hosts, bad = (self.cluster["hosts"], self.cluster["bad_hosts"]) if self.cluster else ((), ())
        return [f"process {one['process']} ({one['host']})" for one in hosts if one["process"] in bad]

    def unjudged(self) -> list[Result]:
        """The checks that an exception of an adapter ended, or memory that ran out."""
        return [record for record in self.of_status(*WRONG) if not record.judged]

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
    """Results -> the lines of the ladder, in the order of their first results."""
    by_line: dict[tuple[int, str | None], list[Result]] = {}
    for record in records:
        by_line.setdefault((record.rung, record.subject), []).append(record)
    return [Group(rung, subject, members) for (rung, subject), members in by_line.items()]
