"""How often the verdict on times is right: slow-downs that are planted, and none, judged again and again.

    python tests/power.py --processes 4 --out power.json

Records rounds of real processes, each with its own start and compilation: the kit's template trainer on both sides, or
as it is on one and planted to be 5, 10 and 20 % slower on the other. Trials are then made of what was recorded: for the
paired comparison windows of consecutive pairs, with the verdict's own looks at them and its own demand that several
pairs of processes agree; for stored runs, runs of different processes. Prints a table. Windows overlap, so that
trials are fewer than they look; processes are what is independent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from sftref.conformance.benchmarks import intervals, paired
from sftref.conformance.benchmarks.side import Side, overlay

PLAIN = "sftref.conformance.adapters.template:Template"
SLOWED = {"0 %": PLAIN} | {
    f"{percent} %": f"sftref.conformance.faults.performance:slower_{percent}" for percent in (5, 10, 20)
}
KERNEL, TIMED = "matmul[feed-forward]", "step[trainer]"
MATTERS = 0.05
# What a run of the command line judges, among which false alarms are shared.
BENCHMARKS = 11
# Rounds of one stored run.
RUN = 40


def record(adapter: str, rounds: int, devices: int, where: Path) -> dict[str, Any]:
    """Pairs of rounds of one pair of processes: [wall, cpu] before, after, and of a kernel beside them."""
    words = ["--label", "trainer", "--devices", str(devices), "--only", "step", "--only", KERNEL, "--level", "quick"]
    sides = [Side(name, sys.executable, [*words, "--adapter", a], where) for name, a in
             (("before", PLAIN), ("after", adapter), ("kernel", PLAIN))]  # fmt: skip
    try:
        for side, what in zip(sides, (TIMED, TIMED, KERNEL), strict=True):
            side.send(do="prepare", id=what)
        exact = [side.answer()["exact"] for side in sides]
        found: list[list[list[float]]] = []
        for number in range(rounds):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            took = {2: sides[2].ask(do="round")} | {place: sides[place].ask(do="round") for place in order}
            found.append([[took[place]["wall"], took[place]["cpu"]] for place in range(3)])
        return {"rounds": found, "exact": exact[:2]}
    finally:
        for side in sides:
            side.close()


def paired_trial(blocks: list[np.ndarray], rng: np.random.Generator) -> tuple[str, int]:
    """The verdict on consecutive pairs of processes that were drawn, and how many pairs it took."""
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
        for s, found in words.items():
            each = [intervals.of_pairs(g[:, 0, s], g[:, 1, s], 0.5).value for g in gathered]
            if found == intervals.FAIL and min(each) <= 1 + MATTERS / 2:
                words[s] = intervals.AMBIGUOUS
        word = next(w for w in (intervals.FAIL, intervals.AMBIGUOUS, intervals.PASS) if w in words.values())
        if intervals.FAIL not in words.values():
            break
    return word, sum(map(len, gathered))


def stored_trial(
    before: list[np.ndarray], after: list[np.ndarray], found: intervals.Scatter, rng: np.random.Generator
) -> str:
    """The verdict on one run of a process against three runs of others."""
    chosen = rng.permutation(len(before))[:4]
    runs = [_run(before[place], 0, rng) for place in chosen[:3]]
    now = _run(after[chosen[3] % len(after)], 1, rng)
    alarms = intervals.FALSE_ALARMS / (2 * BENCHMARKS)
    words = {intervals.word(intervals.of_runs([r[s] for r in runs], [now[s]], found, alarms), MATTERS) for s in (0, 1)}
    return next(w for w in (intervals.FAIL, intervals.AMBIGUOUS, intervals.PASS) if w in words)


def _run(block: np.ndarray, side: int, rng: np.random.Generator) -> list[float]:
    start = rng.integers(len(block) - RUN + 1)
    part = block[start : start + RUN]
    return [float(np.median(part[:, side, s] / part[:, 2, s])) for s in (0, 1)]


def main() -> int:
    """Record, judge, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=4, help="pairs of processes for each slow-down (default 4)")
    parser.add_argument("--rounds", type=int, default=400, help="pairs of rounds in each (default 400)")
    parser.add_argument("--trials", type=int, default=400, help="of each kind (default 400)")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("power.json"))
    given = parser.parse_args()
    recorded: dict[str, list[dict[str, Any]]] = json.loads(given.out.read_text()) if given.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        where = overlay(Path(folder))
        for number in range(given.processes):
            for name, adapter in SLOWED.items():
                if len(recorded.setdefault(name, [])) <= number:
                    recorded[name].append(record(adapter, given.rounds, given.devices, where))
                    given.out.write_text(json.dumps(recorded))
                    print(f"{name}: {number + 1} of {given.processes} pairs of processes", file=sys.stderr, flush=True)
    blocks = {name: [np.array(block["rounds"]) for block in found] for name, found in recorded.items()}
    rng = np.random.default_rng(0)
    every = [block for found in blocks.values() for block in found]
    # Of all processes of the plain trainer: what a command line with as many benchmarks would know.
    plain = [np.log(_run(block, 0, rng)[0]) for block in every]
    found = intervals.Scatter(statistics.stdev(map(float, plain)), 2 * BENCHMARKS)
    wall, cpu = (statistics.median(float(np.log(b[:, 1, s] / b[:, 0, s]).std()) for b in blocks["0 %"]) for s in (0, 1))
    print(f"runs scatter by {found.deviation:.1%}; a pair of rounds by {wall:.1%} (wall), {cpu:.1%} (processor time)\n")
    print("| slow-down | comparison | FAIL | AMBIGUOUS | PASS | pairs, median |\n|---|---|---|---|---|---|")
    for name in SLOWED:
        trials = [paired_trial(blocks[name], rng) for _ in range(given.trials)]
        words = Counter(word for word, _ in trials)
        _row(name, "paired", words, given.trials, f"{statistics.median(n for _, n in trials):.0f}")
        words = Counter(stored_trial(every, blocks[name], found, rng) for _ in range(given.trials))
        _row(name, "stored runs", words, given.trials, "")
    same = {json.dumps(side, sort_keys=True) for f in recorded.values() for block in f for side in block["exact"]}
    print(f"\nexact counts of {2 * len(every)} processes: {len(same)} different set{'' if len(same) == 1 else 's'}")
    return 0


def _row(name: str, kind: str, words: Counter[str], trials: int, pairs: str) -> None:
    shares = " | ".join(f"{words[w] / trials:.1%}" for w in (intervals.FAIL, intervals.AMBIGUOUS, intervals.PASS))
    print(f"| {name} | {kind} | {shares} | {pairs} |")


if __name__ == "__main__":
    sys.exit(main())
