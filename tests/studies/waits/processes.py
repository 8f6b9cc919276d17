"""An update of two processes with one device each (gloo) over one of one process with two, wall time.

    PYTHONPATH=tests/studies python -m waits.processes --trainers mesh pmap --rounds 5

Runs `sftref train` on the bundled pairs: the demo model with 2 layers, batches of 32. The seconds of an update are the
median of those in metrics.jsonl, the first two left out: they wait for a compiler.
"""

import argparse
import json
import math
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from waits.ratios import Spent, in_turn, ratio

TRAIN = ("--num-layers", "2", "--batch-size", "32", "--train-fraction", "0.2", "--eval-fraction", "0.01")
NOT_COUNTED = 2


def free_port() -> int:
    """A port that no one listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def update(trainer: str, processes: int, steps: int) -> Spent:
    """The median seconds of an update by this many processes, two devices in all."""
    with tempfile.TemporaryDirectory() as out:
        words = [sys.executable, "-m", "sftref.cli", "train", *TRAIN, "--trainer", trainer, "--out", f"{out}/run"]
        words += ["--max-steps", str(steps), "--devices", "2"]
        if processes > 1:
            words += ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", str(processes)]
        each = [[*words, *(("--process-id", str(k)) if processes > 1 else ())] for k in range(processes)]
        running = [subprocess.Popen(w, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for w in each]
        for process in running:
            _, errors = process.communicate()
            if process.returncode:
                raise SystemExit(f"{' '.join(words)}: exit code {process.returncode}: {errors[-300:]}")
        lines = [json.loads(line) for line in Path(out, "run", "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in lines if line["kind"] == "step"]
    return Spent(statistics.median(seconds[NOT_COUNTED:]), math.nan)


def main() -> None:
    """Measure, and print a table for each trainer."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--trainers", nargs="+", default=["mesh", "pmap"])
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--steps", type=int, default=30)
    args = cli.parse_args()
    for trainer in args.trainers:
        one, two = f"{trainer}, one process", f"{trainer}, two processes"
        calls: dict[str, Callable[[], Spent]] = {
            one: lambda trainer=trainer: update(trainer, 1, args.steps),  # type: ignore[misc]
            two: lambda trainer=trainer: update(trainer, 2, args.steps),  # type: ignore[misc]
        }
        walls = {name: [spent.wall for spent in each] for name, each in in_turn(calls, args.rounds).items()}
        print(f"{two}: {statistics.median(walls[two]):.3f} s, times one process: {ratio(walls[one], walls[two])}")


if __name__ == "__main__":
    main()
