"""How often `sftref bench` is right when it judges a run against stored runs: whole runs are compared with others.

    python tests/studies/power_runs.py --runs 10 --slowed 4 --out power-runs

Records runs, each in its own process: of the kit's unchanged template trainer, and of the template made 5, 10 and 20 %
slower. A trial draws three unchanged runs and judges another run, unchanged or slower, against them, with the code of
the verdict. Prints the share of each verdict on the update, and of runs in which another benchmark was called slower.
"""

import argparse
import dataclasses
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from sftref.conformance.benchmarks.judging import intervals, stored_runs, verdict
from sftref.conformance.benchmarks.judging.stored_runs import Stored
from sftref.conformance.benchmarks.measuring.machine import COPIES, COPIES_SCATTER
from sftref.conformance.benchmarks.options import MATTERS, PROCESSES

PLAIN = "sftref.conformance.adapters.template:Template"
SLOWED = {f"{percent} %": f"sftref.conformance.faults.trainers.performance:slower_{percent}" for percent in (5, 10, 20)}
TIMED = "step[trainer]"
# The devices here are simulated on a CPU.
LEAST = {f"copy.{way}[{size}]": COPIES_SCATTER for way in ("to_device", "to_host") for size in COPIES}
WORDS = (intervals.FAIL, intervals.AMBIGUOUS, intervals.PASS)


def record(adapter: str, folder: Path, count: int, level: str) -> list[Stored]:
    """`count` stored runs of a trainer; runs that the folder already has are reused."""
    for number in range(len(stored_runs.load(folder)), count):
        words = [sys.executable, "-P", "-m", "sftref.cli", "bench", "--adapter", adapter, "--save", "run"]
        words += ["--storage", str(folder.resolve()), "--out", str(folder / "report"), "--level", level]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        if len(stored_runs.load(folder)) <= number:
            raise SystemExit(f"{adapter}: no run was stored: {ended.stdout[-500:]}{ended.stderr[-500:]}")
        print(f"{adapter.partition(':')[2]}: {number + 1} of {count} runs", file=sys.stderr, flush=True)
    return [renamed(run) for run in stored_runs.load(folder)]


def renamed(run: Stored) -> Stored:
    """The run with a label that is the same for every trainer."""
    label = next(name.partition("[")[2] for name in run.measured if name.startswith("step["))
    found = {}
    for name, measured in run.measured.items():
        new = name.removesuffix(label) + "trainer]" if name.endswith(f"[{label}") else name
        found[new] = dataclasses.replace(measured, id=new)
    return dataclasses.replace(run, measured=found)


def main() -> int:
    """Record the runs, judge the trials, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10, help="runs of the unchanged trainer (default 10)")
    parser.add_argument("--slowed", type=int, default=4, help="runs of each slower trainer (default 4)")
    parser.add_argument("--trials", type=int, default=400, help="trials of each trainer (default 400)")
    parser.add_argument("--stored", type=int, default=stored_runs.ENOUGH, help="stored runs per trial (default 3)")
    parser.add_argument("--level", default="quick")
    parser.add_argument("--out", type=Path, default=Path("power-runs"))
    options = parser.parse_args()
    plain = record(PLAIN, options.out / "plain", options.runs, options.level)
    slowed = {"0 %": plain} | {name: record(adapter, options.out / name.split()[0], options.slowed, options.level)
                               for name, adapter in SLOWED.items()}  # fmt: skip
    print("scatter over runs of the unchanged trainer: of the ratio to the kernel, and of the wall time alone\n")
    print("| benchmark | ratio, wall | ratio, processor | wall alone |\n|---|---|---|---|")
    for name in plain[0].measured:
        rows = [run.measured[name] for run in plain]
        cells = [[m.relative.get("wall", 1) for m in rows], [m.relative.get("cpu", 1) for m in rows],
                 [m.seconds["wall"] for m in rows]]  # fmt: skip
        print(f"| {name} | {' | '.join(f'{np.std(np.log(values), ddof=1):.1%}' for values in cells)} |")
    rng = np.random.default_rng(0)
    print("\n| slow-down | FAIL | AMBIGUOUS | PASS | something else FAIL |\n|---|---|---|---|---|")
    for name, runs in slowed.items():
        words: Counter[str] = Counter()
        others = 0
        for _ in range(options.trials):
            chosen = [plain[place] for place in rng.permutation(len(plain))[: options.stored + PROCESSES]]
            stored = chosen[: options.stored]
            # As on the command line: a benchmark that looks slower is repeated in two more processes.
            repeats = (
                chosen[options.stored :] if name == "0 %" else [runs[p] for p in rng.permutation(len(runs))[:PROCESSES]]
            )
            judge = verdict.Judge(stored, repeats[0].versions, MATTERS, len(repeats[0].measured), least=LEAST)
            found = {m.id: judge.judge(m) for m in repeats[0].measured.values()}
            for name_, judged in found.items():
                if judged.by_clock:
                    found[name_] = judged.confirmed([judge.judge(run.measured[name_]) for run in repeats[1:]])
            words[found[TIMED].word] += 1
            others += any(judged.word == intervals.FAIL for name_, judged in found.items() if name_ != TIMED)
        shares = " | ".join(f"{words[word] / options.trials:.1%}" for word in WORDS)
        print(f"| {name} | {shares} | {others / options.trials:.1%} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
