"""Trials (laws that are run under seeded faults): which ones a run makes, and which laws saw which faults in them."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..core.fault import Fault, faults
from ..core.law import LEVELS, check_id, laws, split_id
from ..core.result import Result
from .outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class Fate:
    """The result of one seeded fault."""

    fault: Fault  # its entry in the catalogue
    status: str  # `killed` if every law that ran saw the fault, `survived` if a law did not, `not_run` if no law ran
    expected: tuple[str, ...]  # the laws that should have seen it in this run
    seen_by: tuple[str, ...]  # the laws that saw it
    message: str = ""  # why a law did not see it, or why none ran
    seconds: float = 0.0  # duration of all its trials


def chosen(level: str, checks: Iterable[str]) -> list[str]:
    """The ids of the trials of a run with these checks; an id is a law with a fault in brackets.

    Level `full` tries every fault with every law that must see it. Lower levels try a sample of the faults of all
    layers, each with one such law, the first of the run. A fault is left out if the run has none of its laws.
    """
    running = {split_id(check)[0].id for check in checks}
    whole = level == "full"
    trials: list[str] = []
    for fault in faults().values():
        if LEVELS.index(fault.level) > LEVELS.index(level) or not (whole or fault.sample):
            continue
        seers = [law for law in fault.seen_by if law in running]
        trials += [check_id(law, fault.id) for law in (seers if whole else seers[:1])]
    return trials


def fates(outcome: Outcome) -> list[Fate]:
    """The result of each fault that the run should have seeded."""
    expected: dict[str, list[str]] = {}
    for trial in outcome.seeded:
        law, fault = split_id(trial)
        expected.setdefault(str(fault), []).append(law.id)
    return [_fate(outcome, faults()[fault], tuple(seers)) for fault, seers in expected.items()]


def _fate(outcome: Outcome, fault: Fault, expected: tuple[str, ...]) -> Fate:
    trials: list[Result] = []
    reasons = []
    for law in expected:
        record = outcome.trials.get(check_id(law, fault.id))
        without = _without_fault(outcome, law)
        if record is None or record.status == "not_run" or without or not record.judged:
            reasons.append(without or (record.message if record else "not started"))
        else:
            trials.append(record)
    seen = tuple(record.law for record in trials if record.status == "fail")
    missed = [record for record in trials if record.status != "fail"]
    status = "survived" if missed else "killed" if seen else "not_run"
    if missed:
        reasons = [": ".join(filter(None, (record.law, record.status, record.message))) for record in missed]
    message = "" if status == "killed" else "; ".join(dict.fromkeys(reasons))
    seconds = sum(record.seconds for record in trials)
    return Fate(fault=fault, status=status, expected=expected, seen_by=seen, message=message, seconds=seconds)


def _without_fault(outcome: Outcome, law: str) -> str:
    """Why a failure of the law under a fault would prove nothing; empty if the law passes without the fault."""
    records = [record for record in outcome.records.values() if record.law == law]
    broken = [record for record in records if record.status not in ("pass", "not_run", "deviation")]
    if broken:
        return f"{broken[0].id} does not pass without the fault ({broken[0].status})"
    return "" if any(record.status != "not_run" for record in records) else f"{law} did not run"


def level_of(level: str, fault: Fault, law: str) -> str:
    """The level at which a law runs under a fault: the lowest at which the law sees it, to save time."""
    least = max(LEVELS.index(fault.level), LEVELS.index(laws()[law].level))
    return LEVELS[min(least, LEVELS.index(level))]


def laws_at(fault: Fault, level: str) -> list[str]:
    """The laws that must see a fault in a run of this level; none if it takes a higher level."""
    return [law for law in fault.seen_by if level_of(level, fault, law) == level_of("full", fault, law)]
