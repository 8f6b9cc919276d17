"""Repeat the laws of rungs 3 to 8 with fresh seeds, in one process that keeps its compiled programs.

    python tests/studies/repetitions.py --times 200 --adapter sftref.conformance.adapters.sftref:mesh

Prints a line for each check that did not pass and, at the end or after Ctrl-C, how often each check passed and its
largest margin. Exits with 1 if a check failed. On a machine that computes correctly, a failure is a false alarm, caused
by a bound that is derived wrongly.
"""

import argparse
import collections
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import pytest

KIT = Path(__file__).parents[2] / "conformance"


def main() -> int:
    """Repeat the laws, count the results, and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=200, help="repetitions (default 200)")
    parser.add_argument("--first-seed", type=int, default=1, help="the seeds count up from here (default 1)")
    parser.add_argument("--adapter", action="append", default=[], help="MODULE:FACTORY; default: sftref's three")
    parser.add_argument("--rungs", default="345678", help="the rungs to repeat (default 345678)")
    options = parser.parse_args()
    fixed = ["-q", "-p", "no:cacheprovider", "-c", str(KIT / "pytest.ini"), "--rootdir", str(KIT), str(KIT / "laws")]
    # No deadlines, so that a pause of this process, to measure something else, raises no alarm.
    fixed += ["-p", "no:timeout", "--sftref-level=quick"]
    fixed += [f"--sftref-adapter={name}" for name in options.adapter]
    fixed += [f"--sftref-only={rung}" for rung in options.rungs]
    passed: collections.Counter[str] = collections.Counter()
    margins: dict[str, float] = collections.defaultdict(float)
    alarms = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.times):
            stream = Path(folder) / str(number)
            seed = str(options.first_seed + number)
            with contextlib.redirect_stdout(io.StringIO()):
                code = pytest.main([*fixed, f"--sftref-seed={seed}", f"--sftref-stream={stream}"])
            if code == pytest.ExitCode.INTERRUPTED:
                break
            for event in map(json.loads, stream.read_text(encoding="utf-8").splitlines()):
                if event["event"] != "result":
                    continue
                margins[event["id"]] = max(margins[event["id"]], event["margin"] or 0.0)
                passed[event["id"]] += event["status"] == "pass"
                if event["status"] not in ("pass", "not_run", "deviation"):
                    alarms += 1
                    print(f"seed {seed}: {event['id']} {event['status']}: {event['message'][:300]}", flush=True)
            if (number + 1) % 10 == 0:
                print(f"{number + 1} of {options.times} done, {alarms} alarms", flush=True)
    for check, count in passed.items():
        print(f"{check:40} passed {count:4} times, largest margin {margins[check]:.3f}")
    return 1 if alarms or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
