"""A run's trials -> which seeded faults were seen, and by which laws; and which trials a run makes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..core.fault import Fault, faults
from ..core.law import LEVELS, check_id, laws, split_id
from ..core.result import Result
from .outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of one seeded fault.

    Attributes:
        fault: as the catalogue states it.
        status: `killed` where every law that was asked saw it, `survived` where one did not, `not_run` where none could
            be asked.
        expected: the laws that were asked.
        seen_by: those that saw it.
        message: why one did not, or why none was asked.
        seconds: of all its trials.
    """

    fault: Fault
    status: str
    expected: tuple[str, ...]
    seen_by: tuple[str, ...]
    message: str = ""
    seconds: float = 0.0


def chosen(level: str, checks: Iterable[str]) -> list[str]:
    """The trials of a run: ids of a law with a fault in brackets.

    Args:
        level: at `full` every fault before every law that must see it; below, a sample across the layers, each before
            the first law of the run that must.
        checks: the ids that the run answers for; a fault whose laws are not among them is left out.
    """
    asked = {split_id(check)[0].id for check in checks}
    whole = level == "full"
    found = []
    for fault in faults().values():
        if LEVELS.index(fault.level) > LEVELS.index(level) or not (whole or fault.sample):
            continue
        seers = [law for law in fault.seen_by if law in asked]
        found += [check_id(law, fault.id) for law in (seers if whole else seers[:1])]
    return found


def fates(outcome: Outcome) -> list[Fate]:
    """What became of each fault that the run was to seed."""
    trials: dict[str, list[str]] = {}
    for trial in outcome.seeded:
        law, fault = split_id(trial)
        trials.setdefault(str(fault), []).append(law.id)
    return [_fate(outcome, faults()[fault], expected) for fault, expected in trials.items()]


def _fate(outcome: Outcome, fault: Fault, expected: list[str]) -> Fate:
    ended: dict[str, Result] = {}
    reasons = []
    for law in expected:
        record = outcome.trials.get(check_id(law, fault.id))
        without = _without(outcome, law)
        if record is None or record.status == "not_run" or without:
            reasons.append(without or (record.message if record else "never tried"))
        else:
            ended[law] = record
    seen = tuple(law for law, record in ended.items() if record.status == "fail")
    blind = [record for law, record in ended.items() if law not in seen]
    status = "survived" if blind else "killed" if seen else "not_run"
    if blind:
        reasons = [f"{record.law}: {record.status}{': ' if record.message else ''}{record.message}" for record in blind]
    return Fate(
        fault=fault,
        status=status,
        expected=tuple(expected),
        seen_by=seen,
        message="" if status == "killed" else "; ".join(dict.fromkeys(reasons)),
        seconds=sum(record.seconds for record in ended.values()),
    )


def _without(outcome: Outcome, law: str) -> str:
    """Why a law that fails under a fault proves nothing: it did not hold without it."""
    records = [record for record in outcome.records.values() if record.law == law]
    broken = [record for record in records if record.status not in ("pass", "not_run", "deviation")]
    if broken:
        return f"{broken[0].id} did not hold without it ({broken[0].status})"
    return "" if any(record.status != "not_run" for record in records) else f"{law} did not run"


def level_of(level: str, fault: Fault, law: str) -> str:
    """The level at which a law is asked under a fault: as low as may be, for its time."""
    least = max(LEVELS.index(fault.level), LEVELS.index(laws()[law].level))
    return LEVELS[min(least, LEVELS.index(level))]
