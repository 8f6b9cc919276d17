"""Measured and stored times -> PASS, FAIL or AMBIGUOUS for each benchmark, and for the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..measuring.rounds import Measured
from . import intervals
from .intervals import AMBIGUOUS, FAIL, PASS, Ratio
from .stored_runs import ENOUGH, Stored, same_program

RECORDED, WRONG = "RECORDED", "WRONG"
CODES = {PASS: 0, RECORDED: 0, FAIL: 1, WRONG: 1, AMBIGUOUS: 4}
# Verdicts, from the most to the least important.
ORDER = (WRONG, FAIL, AMBIGUOUS, PASS, RECORDED)
# Counts that must be 0 in any run.
NOTHING = ("compilations later", "arrays left")
# Series that are compared; others are only stored.
JUDGED = ("wall", "cpu", "trace", "lower", "compile")
MOST_NAMED = 4
HINT = "to decide, use --against, more stored runs (--save --runs N), or a larger --matters"


@dataclass(frozen=True)
class Judged:
    """The verdict on one benchmark."""

    id: str  # of the benchmark
    word: str  # one of `ORDER`
    ratios: Mapping[str, Ratio] = field(default_factory=dict)  # series -> the time now divided by the time before
    message: str = ""  # the reason, in a line
    measured: Measured | None = None  # the measurement; None if results were wrong
    by_clock: bool = False  # whether only its time makes it a FAIL, which other processes must confirm

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Judged:
        """Read an entry of bench.json, in which infinity is a string."""
        ratios = {name: Ratio(**ratio | {"high": float(ratio["high"])}) for name, ratio in value["ratios"].items()}
        measured = value["measured"] and Measured(**value["measured"])
        return cls(**{**value, "ratios": ratios, "measured": measured})

    def confirmed(self, others: Sequence[Judged]) -> Judged:
        """The verdict after reruns in other processes: FAIL only if each rerun is a FAIL too."""
        unlike = next((other for other in others if other.word != FAIL), None)
        if unlike is None:
            return self
        why = f"{self.message} in one process, but {unlike.word} in another"
        return replace(self, word=AMBIGUOUS, message=why, by_clock=False)


class Judge:
    """Compares benchmarks with stored runs of the same devices.

    Args:
        runs: the stored runs.
        versions: the versions of the installed packages.
        matters: the smallest relative slow-down that matters.
        count: the number of benchmarks of this run; false alarms are shared among them.
        least: benchmark -> a known lower bound of the scatter between its runs.
        recording: whether this run is one of the first stored ones.
    """

    def __init__(
        self, runs: Sequence[Stored], versions: Mapping[str, str], matters: float, count: int, *,
        least: Mapping[str, float] | None = None, recording: bool = False,
    ) -> None:  # fmt: skip
        self.runs, self.versions, self.matters, self.recording = runs, versions, matters, recording
        # Most benchmarks have two series that can raise an alarm.
        self.alarms = intervals.FALSE_ALARMS / (2 * max(count, 1))
        ids = sorted({name for run in runs for name in run.measured})
        self.before: dict[tuple[str, str], list[float]] = {
            (name, series): [r.measured[name].relative[series] for r in runs
                             if name in r.measured and series in r.measured[name].relative]
            for name in ids for series in JUDGED
        }  # fmt: skip
        known = [(least or {}).get(name, 0.0) for name, _ in self.before]
        scatter = intervals.scatter(list(self.before.values()), known)
        self.scatter = dict(zip(self.before, scatter, strict=False))  # empty as long as no benchmark has two runs

    def judge(self, measured: Measured) -> Judged:
        """The verdict on one benchmark."""
        wrong = nonzero(measured.exact)
        if wrong:
            return Judged(measured.id, FAIL, message="; ".join(wrong), measured=measured)
        # The counts must be those of the newest stored run with the same JAX.
        same = [run for run in self.runs if measured.id in run.measured and same_program(run, self.versions)]
        changed = differences(same[-1].measured[measured.id].exact, measured.exact) if same else []
        ratios = {}
        for series, now in measured.relative.items():
            before = self.before.get((measured.id, series), [])
            if before:
                spread = self.scatter.get((measured.id, series))
                ratios[series] = intervals.of_runs(before, [now], spread, self.alarms)
        if changed:
            return Judged(measured.id, FAIL, ratios, f"the compiled program changed: {'; '.join(changed)}", measured)
        if not ratios:
            return Judged(measured.id, RECORDED, message="no stored run", measured=measured)
        words = {series: intervals.word(ratio, self.matters) for series, ratio in ratios.items()}
        word = next(word for word in ORDER if word in words.values())
        if word == AMBIGUOUS and len(self.runs) < ENOUGH:
            why = f"{len(self.runs)} of {ENOUGH} stored runs: the scatter between runs is not known yet"
            return Judged(measured.id, RECORDED if self.recording else word, ratios, why, measured)
        why = "; ".join(in_words(series, ratios[series]) for series, each in words.items() if each == word)
        return Judged(measured.id, word, ratios, why, measured, by_clock=word == FAIL)


def nonzero(counts: Mapping[str, float]) -> list[str]:
    """A text for each count that must be 0 and is not."""
    return [f"{name} {counts[name]:g}, must be 0" for name in NOTHING if counts.get(name)]


def differences(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """A text for each count that differs; one program compiled by one JAX has the same counts in every run."""
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    old, new = ({name: f"{count:,.0f}" for name, count in side.items()} for side in (before, after))
    return [f"{name} {new.get(name, 'unknown')}, was {old.get(name, 'unknown')}" for name in names]


def in_words(series: str, ratio: Ratio) -> str:
    """A ratio in words: `wall time 1.12 times (1.08 to 1.16)`."""
    name = series if series not in ("wall", "cpu") else f"{series} time"
    high = "any" if ratio.high > 1e6 else f"{ratio.high:.2f}"
    interval = "scatter not known yet" if high == "any" and ratio.low <= 0 else f"{ratio.low:.2f} to {high}"
    return f"{name} {ratio.value:.2f} times ({interval})"


def overall(results: Sequence[Judged]) -> str:
    """The worst word of a run; RECORDED only if nothing could be compared."""
    words = {judged.word for judged in results}
    return next((word for word in ORDER if word in words), WRONG)


def line(results: Sequence[Judged], where: str) -> str:
    """The last line of a run."""
    word = overall(results)
    if not results:
        return f"{WRONG}: nothing was timed"
    counts = ", ".join(f"{n} {name}" for name in ORDER if (n := sum(j.word == name for j in results)))
    worst = [judged for judged in results if judged.word == word]
    shown = "; ".join(f"{j.id}: {j.message}" for j in worst[:MOST_NAMED]) if word not in (PASS, RECORDED) else ""
    more = f" and {len(worst) - MOST_NAMED} more" if shown and len(worst) > MOST_NAMED else ""
    more += f"; {HINT}" if word == AMBIGUOUS else ""
    return f"{word}: {len(results)} benchmarks on {where}: {counts}{f'; {shown}{more}' if shown else ''}"
