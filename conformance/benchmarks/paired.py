"""Two environments, or two trainers, measured in turn -> the ratio of their times and a verdict.

After an upgrade the question is whether the *new* environment is slower than the old one. A stored time cannot answer
this within ten per cent, because machines drift more than that in a day. So both sides run at the same time, each in a
process, and take turns: a round of one side, then a round of the other, in an order that changes each time.

Two processes that run one program differ in speed for all of their lives, because their memory addresses differ. So a
benchmark that looks slower is measured again in new processes; it is slower only if each pair of processes agrees.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..workers.channel import Worker, WorkerError, call
from .judging import intervals
from .judging.intervals import AMBIGUOUS, FAIL, Ratio
from .judging.verdict import WRONG, Judged, differences, in_words, nonzero
from .measuring.rounds import Measured
from .options import PROCESSES
from .side import DEADLINE, overlay, start

# A benchmark is judged after so many pairs of rounds; all these looks share one probability of a false alarm. A pair
# scatters by 5 to 15 %; with 15 %, a slow-down of 5 % needs about 800 pairs.
LOOKS = (24, 48, 96, 192, 384, 768)
# In each further pair of processes it has at least so many pairs. With fewer, their own ratio says too little.
CONFIRMING = 192
# The same for benchmarks that compile, whose rounds take seconds.
FEW_LOOKS = (6, 12)
# Most seconds that the rounds of one benchmark take in one pair of processes.
SECONDS = {"quick": 30.0, "standard": 60.0, "full": 120.0}


@dataclass
class Pairs:
    """The times of one benchmark; `blocks` has, for each pair of processes, series -> (before, after) of each round."""

    work: Mapping[str, float] = field(default_factory=dict)
    exact: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {})
    blocks: list[dict[str, list[tuple[float, float]]]] = field(default_factory=list)
    looks: tuple[int, ...] = LOOKS


@dataclass
class Comparison:
    """A run that compares two sides, measured in turn."""

    before: tuple[str, Sequence[Any]]  # the old side: its interpreter, and the arguments of its `worker.Timer`
    after: tuple[str, Sequence[Any]]  # the new side, which is judged: the same two
    matters: float  # the smallest slow-down that matters
    level: str  # decides for how long a benchmark is measured at most
    tell: Callable[[str], None]  # is called with each line about the progress
    described: list[dict[str, Any]] = field(default_factory=list)  # both sides' answers to `Timer.describe`
    measured: dict[str, Pairs] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)

    def run(self) -> list[Judged]:
        """Compare all benchmarks, and compare those that look slower again in new processes.

        Raises:
            ValueError: a side cannot be started, or the two have no benchmark in common.
            WorkerError: a side does not answer.
        """
        names: list[str] | None = None
        with tempfile.TemporaryDirectory(prefix="sftref-") as folder:
            where = overlay(Path(folder))
            for number in range(PROCESSES):
                with start(*self.before, where) as before, start(*self.after, where) as after:
                    names = self._block({"before": before, "after": after}, names, number)
                if not names:
                    break
        return [self.judged(name) for name in [*self.measured, *self.wrong]]

    def _block(self, sides: Mapping[str, Worker], names: list[str] | None, number: int) -> list[str]:
        """Measure `names`, by default all, in one pair of processes; returns those that another pair must measure."""
        before, after = self.described = call(sides, "describe", seconds=DEADLINE)
        both = [name for name in after["entries"] if name in before["entries"]]
        if not both:
            raise ValueError("the two sides have no benchmark in common; both need trainers of the same labels")
        if names is None:
            new, old = _versions(after), _versions(before)
            self.tell(f"{len(both)} benchmarks on {after['devices']}: {new}, compared with {old}")
        self.count = len(both)
        again = []
        for name in both if names is None else names:
            try:
                self._measure(sides, name)
            except WorkerError as error:
                if error.lost:
                    raise
                self.wrong[name] = str(error)
                self.measured.pop(name, None)
                self.tell(f"{name}: {error}")
                continue
            judged = self.judged(name)
            # No other process needs to confirm a count that must be 0 and is not.
            slower = FAIL in self._words(name).values() and not nonzero(self.measured[name].exact[1])
            if slower and number + 1 < PROCESSES:
                again.append(name)
                self.tell(f"{name}: {judged.message or judged.word}; it is measured again in new processes")
            else:
                self.tell(f"{name}: {judged.word} {judged.message}")
        return again

    def _measure(self, sides: Mapping[str, Worker], name: str) -> None:
        before, after = call(sides, "prepare", name, seconds=DEADLINE)
        pairs = self.measured.setdefault(name, Pairs())
        pairs.work, pairs.exact = after["work"], (before["exact"], after["exact"])
        block: dict[str, list[tuple[float, float]]] = {}
        pairs.blocks.append(block)
        until = time.monotonic() + SECONDS[self.level]
        pairs.looks = FEW_LOOKS if after["once"] else LOOKS
        first = 0 if len(pairs.blocks) == 1 else min(CONFIRMING, pairs.looks[-1])
        for number in range(pairs.looks[-1]):
            times = {}
            for side in list(sides)[:: 1 if number % 2 == 0 else -1]:
                [times[side]] = call({side: sides[side]}, "round", seconds=DEADLINE)
            for series in times["before"]:
                if series != "cpu" or self.described[1]["platform"] == "cpu":
                    block.setdefault(series, []).append((times["before"][series], times["after"][series]))
            if number + 1 not in pairs.looks:
                continue
            decided = number + 1 >= first and AMBIGUOUS not in self._words(name).values()
            if decided or time.monotonic() > until:
                return

    def _ratios(self, name: str) -> dict[str, Ratio]:
        blocks, looks = self.measured[name].blocks, self.measured[name].looks
        # Shared by wall and processor time of each benchmark, and by the looks of a pair of processes.
        alarms = intervals.FALSE_ALARMS / (2 * self.count) * intervals.share(len(blocks[-1]["wall"]), looks)
        pairs = {s: [pair for block in blocks for pair in block[s]] for s in blocks[-1]}
        timed = {s: each for s, each in pairs.items() if all(a > 0 and b > 0 for a, b in each)}
        return {s: _ratio(each, alarms) for s, each in timed.items()}

    def _words(self, name: str) -> dict[str, str]:
        return {s: intervals.word(ratio, self.matters) for s, ratio in self._ratios(name).items()}

    def judged(self, name: str) -> Judged:
        """The verdict on one benchmark."""
        if name in self.wrong:
            return Judged(name, WRONG, message=self.wrong[name])
        pairs, ratios, words = self.measured[name], self._ratios(name), self._words(name)
        seconds = {s: statistics.median(b for block in pairs.blocks for _, b in block[s]) for s in ratios}
        measured = Measured(
            id=name, seconds=seconds, relative={},
            rates={what: amount / seconds["wall"] for what, amount in pairs.work.items()},
            exact=pairs.exact[1], rounds=ratios["wall"].n,
        )  # fmt: skip
        wrong = nonzero(pairs.exact[1])
        changed = differences(*pairs.exact)
        for s in [s for s, word in words.items() if word == FAIL]:
            each = [_ratio(block[s], 0.5).value for block in pairs.blocks]
            if min(each) <= 1 + self.matters / 2:
                words[s] = AMBIGUOUS  # slower in some pairs of processes only: the processes differ
        word = FAIL if wrong else next(w for w in (FAIL, AMBIGUOUS, "PASS") if w in words.values())
        why = [in_words(s, ratios[s]) for s, w in words.items() if w == word]
        if word == AMBIGUOUS:
            wants = [intervals.needed(ratios[s], self.matters) for s, w in words.items() if w == AMBIGUOUS]
            most = max(math.inf if want is None else want for want in wants)
            why.append(f"needs about {most} pairs" if math.isfinite(most) else "this machine is too noisy to tell")
        why = wrong + why + [f"the compiled program changed: {'; '.join(changed)}"] * bool(changed)
        return Judged(name, word, ratios, "; ".join(why), measured)


def _ratio(pairs: Sequence[tuple[float, float]], alarms: float) -> Ratio:
    return intervals.of_pairs([a for a, _ in pairs], [b for _, b in pairs], alarms)


def _versions(described: Mapping[str, Any]) -> str:
    versions = described["versions"]
    return f"JAX {versions.get('jax')}, jaxlib {versions.get('jaxlib')}, Python {versions['python']}"
