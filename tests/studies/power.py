"""How often the verdict of `sftref bench --against` is right, with seeded slow-downs and without.

    python tests/studies/power.py --processes 4 --out power.json

Records rounds of real processes, each with its own start and compilation: the kit's template trainer against itself,
and against itself made 5, 10 and 20 % slower. A trial is a window of consecutive recorded pairs, judged by the rules of
`bench`: the same interim looks, and several pairs of processes must agree. Prints a table. Windows overlap, so trials
are not independent; processes are.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from sftref.conformance.benchmarks import paired
from sftref.conformance.benchmarks.judging import intervals
from sftref.conformance.benchmarks.side import DEADLINE, overlay, start
from sftref.conformance.core.settings import Settings
from sftref.conformance.workers.channel import Worker, call

PLAIN = "sftref.conformance.adapters.template:Template"
SLOWED = {"0 %": PLAIN} | {
    f"{percent} %": f"sftref.conformance.faults.trainers.performance:slower_{percent}" for percent in (5, 10, 20)
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


def paired_trial(blocks: list[np.ndarray], rng: np.random.Generator) -> tuple[str, int]:
    """The verdict on windows of randomly drawn pairs of processes, and the number of pairs that it needed."""
    alarms = intervals.FALSE_ALARMS / (2 * BENCHMARKS * len(paired.LOOKS))
    gathered: list[np.ndarray] = []
    word = intervals.AMBIGUOUS
    for block in rng.permutation(len(blocks))[: paired.PROCESSES]:
        start = rng.integers(len(blocks[block]) - paired.LOOKS[-1] + 1)
        words: dict[int, str] = {}
        for look in paired.LOOKS:
            window = blocks[block][start : start + look]
            seen = np.concatenate([*gathered, window])
            ratios = {s: intervals.of_pairs(seen[:, 0, s], seen[:, 1, s], alarms) for s in (0, 1)}
            words = {s: intervals.word(ratio, MATTERS) for s, ratio in ratios.items()}
            if intervals.AMBIGUOUS not in words.values():
                break
        gathered.append(window)
        for s, verdict in words.items():
            each = [intervals.of_pairs(g[:, 0, s], g[:, 1, s], 0.5).value for g in gathered]
            if verdict == intervals.FAIL and min(each) <= 1 + MATTERS / 2:
                words[s] = intervals.AMBIGUOUS
        word = next(w for w in (intervals.FAIL, intervals.AMBIGUOUS, intervals.PASS) if w in words.values())
        if intervals.FAIL not in words.values():
            break
    return word, sum(map(len, gathered))


def main() -> int:
    """Record the rounds, judge the trials, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4, help="pairs of processes for each slow-down (default 4)")
    parser.add_argument("--rounds", type=int, default=400, help="pairs of rounds in each (default 400)")
    parser.add_argument("--trials", type=int, default=400, help="trials with and without each slow-down (default 400)")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("power.json"))
    options = parser.parse_args()
    recorded: dict[str, list[dict[str, Any]]] = json.loads(options.out.read_text()) if options.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        where = overlay(Path(folder))
        for number in range(options.processes):
            for name, adapter in SLOWED.items():
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
    print("| slow-down | FAIL | AMBIGUOUS | PASS | pairs, median |\n|---|---|---|---|---|")
    for name in SLOWED:
        trials = [paired_trial(blocks[name], rng) for _ in range(options.trials)]
        words = Counter(word for word, _ in trials)
        shares = " | ".join(f"{words[w] / options.trials:.1%}" for w in WORDS)
        print(f"| {name} | {shares} | {statistics.median(n for _, n in trials):.0f} |")
    same = {json.dumps(side, sort_keys=True) for kept in recorded.values() for block in kept for side in block["exact"]}
    count = 2 * sum(map(len, recorded.values()))
    print(f"\nexact counts of {count} processes: {len(same)} different set{'' if len(same) == 1 else 's'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
