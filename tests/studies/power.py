"""How often the verdict of `sftref bench --against` is right, with seeded slow-downs and without.

    python tests/studies/power.py --processes 8 --out power.json

Records rounds of real processes, each with its own start and compilation: the kit's template trainer against itself,
and against itself made 5, 10 and 20 % slower. A trial replays recorded rounds to the code of `bench`, three pairs of
processes at most, each from a random round on, as the first of eleven benchmarks. Prints a table. Trials share rounds,
so they are not independent; processes are. Seconds are those of the recorded rounds, without the start of processes.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from sftref.conformance.benchmarks import paired
from sftref.conformance.benchmarks.judging import intervals
from sftref.conformance.benchmarks.side import DEADLINE, overlay, start
from sftref.conformance.core.settings import Settings
from sftref.conformance.workers.channel import Worker, call

PLAIN = "sftref.conformance.adapters.template:Template"
SLOWED = {0: PLAIN} | {
    percent: f"sftref.conformance.faults.trainers.performance:slower_{percent}" for percent in (5, 10, 20)
}
TIMED = "step[trainer]"
MATTERS = 0.05
# The number of benchmarks that one command judges; they share the rate of false alarms.
BENCHMARKS = 11
WORDS = (intervals.FAIL, intervals.AMBIGUOUS, intervals.PASS)


def record(adapter: str, rounds: int, devices: int, where: Path) -> dict[str, Any]:
    """Pairs of rounds of one pair of processes: [wall, cpu] before and after."""

    def side(trainer: str) -> Worker:
        settings = Settings(level="quick", devices=devices, adapters=(trainer,))
        return start(sys.executable, (settings, None, ["step"], "trainer"), where)

    with side(PLAIN) as before, side(adapter) as after:
        sides = {"before": before, "after": after}
        exact = [answer["exact"] for answer in call(sides, "prepare", TIMED, seconds=DEADLINE)]
        pairs: list[list[list[float]]] = []
        for number in range(rounds):
            times = {}
            for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
                [times[name]] = call({name: sides[name]}, "round", seconds=DEADLINE)
            pairs.append([[times[name]["wall"], times[name]["cpu"]] for name in sides])
        return {"rounds": pairs, "exact": exact}


class Replay:
    """Answers for both sides of a comparison: recorded rounds of the update, and equal ones of all other benchmarks."""

    def __init__(self, blocks: Sequence[np.ndarray], rng: np.random.Generator) -> None:
        self.blocks, self.rng, self.seconds, self.pairs, self.sides = blocks, rng, 0.0, 0, 0

    def start(self, *_: object) -> "Replay":
        """A side; each second one begins a pair of processes, from a random round of a random recorded pair on."""
        self.sides += 1
        if self.sides % 2:
            self.block = self.blocks[self.rng.integers(len(self.blocks))]
            self.at = int(self.rng.integers(len(self.block)))
        return self

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing has to be closed."""

    def monotonic(self) -> float:
        """The clock of the comparison."""
        return self.seconds

    def call(self, sides: Mapping[str, object], method: str, *words: str, seconds: float) -> list[dict[str, Any]]:
        """What the workers would answer."""
        if method == "describe":
            versions = dict.fromkeys(("jax", "jaxlib", "python"), "recorded")
            names = [TIMED, *(f"other[{number}]" for number in range(BENCHMARKS - 1))]
            return [{"versions": versions, "devices": "1 x cpu", "platform": "cpu", "entries": names}] * 2
        if method == "prepare":
            self.name = words[0]
            return [{"work": {}, "exact": {}, "once": False}] * 2
        if self.name != TIMED:
            return [{"wall": 1.0, "cpu": 1.0}]
        [side] = sides
        wall, cpu = self.block[self.at % len(self.block), int(side == "after")]
        self.seconds, self.turns = self.seconds + wall, getattr(self, "turns", 0) + 1
        if self.turns % 2 == 0:
            self.at, self.pairs = self.at + 1, self.pairs + 1
        return [{"wall": wall, "cpu": cpu}]


def trial(blocks: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[str, int, float]:
    """The verdict on recorded rounds, the number of pairs that it needed, and their seconds."""
    replay = Replay(blocks, rng)
    with patch.multiple(paired, start=replay.start, call=replay.call), patch.object(paired, "time", replay):
        comparison = paired.Comparison((sys.executable, ()), (sys.executable, ()), MATTERS, "quick", lambda _: None)
        word = next(judged.word for judged in comparison.run() if judged.id == TIMED)
    return word, replay.pairs, replay.seconds


def main() -> int:
    """Record the rounds, judge the trials, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4, help="pairs of processes for each slow-down (default 4)")
    parser.add_argument("--rounds", type=int, default=768, help="pairs of rounds in each (default 768)")
    parser.add_argument("--trials", type=int, default=400, help="trials with and without each slow-down (default 400)")
    parser.add_argument("--percent", type=int, nargs="+", choices=SLOWED, default=list(SLOWED), help="slow-downs")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("power.json"))
    options = parser.parse_args()
    recorded: dict[str, list[dict[str, Any]]] = json.loads(options.out.read_text()) if options.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        where = overlay(Path(folder))
        for number in range(options.processes):
            for name in (f"{percent} %" for percent in options.percent):
                adapter = SLOWED[int(name[:-2])]
                if len(recorded.setdefault(name, [])) <= number:
                    recorded[name].append(record(adapter, options.rounds, options.devices, where))
                    options.out.write_text(json.dumps(recorded))
                    print(
                        f"{name}: {number + 1} of {options.processes} pairs of processes", file=sys.stderr, flush=True
                    )
    blocks = {name: [np.array(block["rounds"]) for block in kept] for name, kept in recorded.items()}
    rng = np.random.default_rng(0)
    wall, cpu = (statistics.median(float(np.log(b[:, 1, s] / b[:, 0, s]).std()) for b in blocks["0 %"]) for s in (0, 1))
    print(f"a pair of rounds scatters by {wall:.1%} (wall time), {cpu:.1%} (processor time)\n")
    print("| slow-down | FAIL | AMBIGUOUS | PASS | pairs, median | their seconds, median |\n|---|---|---|---|---|---|")
    for name in blocks:
        trials = [trial(blocks[name], rng) for _ in range(options.trials)]
        words = Counter(word for word, _, _ in trials)
        shares = " | ".join(f"{words[w] / options.trials:.1%}" for w in WORDS)
        pairs, seconds = (statistics.median(one[place] for one in trials) for place in (1, 2))
        print(f"| {name} | {shares} | {pairs:.0f} | {seconds:.0f} |", flush=True)
    same = {json.dumps(side, sort_keys=True) for kept in recorded.values() for block in kept for side in block["exact"]}
    count = 2 * sum(map(len, recorded.values()))
    print(f"\nexact counts of {count} processes: {len(same)} different set{'' if len(same) == 1 else 's'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
