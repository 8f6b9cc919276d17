"""From the start of a process to the end of its first update: ours, cold and with cached programs, over PyTorch's loop.

    pip install torch==2.13.0 transformers==4.57.6 '.[demo]'
    PYTHONPATH=tests/studies:tests/studies/peers python -m waits.start --model minilm --rounds 5

`alone.py` runs one peer with examples in memory, on one device; ours also with the compiled programs that a run before
it left in JAX's cache. `train` is the command, with the bundled pairs, from an empty folder of caches and with the one
that the run before it filled.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sftref.cluster.programs import LEAST_SECONDS
from waits.ratios import Spent, in_turn, table

PEERS = Path(__file__).parents[1] / "peers" / "alone.py"
TORCH, OURS, COLD, WARM = "PyTorch, loop", "ours, mesh, packed", "sftref train, cold", "sftref train, warm"
OURS_WARM = f"{OURS}, programs cached"
# The command's model of each size; `tiny` has no file of the size `small`.
TRAIN = ("--batch-size", "64", "--train-fraction", "0.5", "--eval-fraction", "0.05", "--max-steps", "1")


def alone(model: str, name: str, programs: Path | None = None) -> Spent:
    """To the end of the first update of a peer, with the compiled programs in a folder or none."""
    command = [sys.executable, str(PEERS), model, name, str(time.time())]
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(LEAST_SECONDS),
    }
    variables = os.environ | (kept if programs else {})
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    spent = json.loads(done.stdout.splitlines()[-1])
    return Spent(spent["start"], spent["cpu"])


def train(cache: Path, devices: int) -> Spent:
    """Until `sftref train` has recorded its first update."""
    with tempfile.TemporaryDirectory() as out:
        words = [sys.executable, "-m", "sftref.cli", "train", *TRAIN, "--devices", str(devices), "--out", f"{out}/run"]
        variables = os.environ | {"SFTREF_CACHE": str(cache)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        began, records = time.perf_counter(), Path(out, "run", "metrics.jsonl")
        with subprocess.Popen(words, env=variables, **quiet) as process:
            while process.poll() is None and not (records.exists() and records.stat().st_size):
                time.sleep(0.005)
            wall = time.perf_counter() - began
            times = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            process.wait()
        if process.returncode:
            raise SystemExit(f"{' '.join(words)}: exit code {process.returncode}")
    return Spent(wall, sum(map(int, times)) / os.sysconf("SC_CLK_TCK"))


def main() -> None:
    """Measure, and print a table for each model."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--model", choices=("minilm", "small"), nargs="+", default=["minilm", "small"])
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--devices", type=int, default=1, help="of `sftref train` (default 1, as the peers have)")
    cli.add_argument("--no-train", action="store_true", help="leave out the command")
    args = cli.parse_args()
    cold, warm = (Path(tempfile.mkdtemp()) for _ in range(2))

    def from_nothing() -> Spent:
        shutil.rmtree(cold)
        cold.mkdir()
        return train(cold, args.devices)

    for model in args.model:
        calls: dict[str, Callable[[], Spent]] = {
            TORCH: lambda model=model: alone(model, TORCH),  # type: ignore[misc]
            OURS: lambda model=model: alone(model, OURS),  # type: ignore[misc]
            OURS_WARM: lambda model=model: alone(model, OURS, warm / "programs"),  # type: ignore[misc]
        }
        alone(model, OURS, warm / "programs")
        if model == "minilm" and not args.no_train:
            train(warm, args.devices)
            calls |= {COLD: from_nothing, WARM: lambda: train(warm, args.devices)}
        table(f"to the first update, {model}", in_turn(calls, args.rounds), TORCH)
    for folder in (cold, warm):
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
