"""`sftref bench`: arguments -> benchmarks compared with stored runs, or two sides in turn, and an exit code."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import output
from ..core.kit import KIT
from ..core.law import LEVELS
from ..core.settings import DEFAULT_ADAPTERS, PLATFORMS, Settings, subject_labels
from ..workers.channel import WorkerError
from ..workers.plan import plugin_options, variables
from .options import HOME, MATTERS, PROCESSES, SIZES, TIMED, check_share

if TYPE_CHECKING:
    from .judging.verdict import Judged

OUT = Path("sftref-bench")
EXAMPLES = """examples:
  sftref bench                                     compare with stored runs of these devices, or store the first
  sftref bench --save --runs 3                     store a baseline: three runs, to measure the scatter between runs
  sftref bench --against .venv-old/bin/python      compare this JAX with that of .venv-old, in turns: noise cancels
  sftref bench --adapter my.kit:New --against my.kit:Old --only step
  sftref bench --level full --only scaling         1, 2, 4 and 8 devices, weak and strong

verdict and exit code: PASS 0, RECORDED 0, FAIL 1, WRONG 1 (results are wrong), 2 wrong set-up, 3 a hang or a crash,
 AMBIGUOUS 4, Ctrl-C 130
"""
# pytest's exit code -> ours. pytest's 5 means that no benchmark was collected; 6 is `plugin.UNDECIDED`.
CODES = {0: 0, 1: 1, 2: 130, 3: 3, 4: 2, 5: 2, 6: 4}
# Exit codes after which the next run starts, from good to bad; several runs end with the worst. Other codes end them.
WORST = (0, 4, 1)


def add_command(commands: Any) -> None:
    """Add the command `bench` to a command line."""
    raw, words = argparse.RawDescriptionHelpFormatter, "time this machine and the trainers"
    add = commands.add_parser("bench", help=words, epilog=EXAMPLES, formatter_class=raw).add_argument
    add("--level", choices=LEVELS, default="quick", help="how many benchmarks, and for how long (default quick)")
    add("--platform", choices=PLATFORMS, help="platform of the devices (default: JAX's choice)")
    add("--devices", type=int, metavar="N", help="use at most N devices (default: all; 8 simulated ones on a CPU)")
    add("--adapter", action="append", default=[], metavar="MODULE:FACTORY", help="a trainer to time; repeatable")
    add("--only", action="append", default=[], metavar="ID", help=f"{TIMED}; repeatable")
    add("--size", choices=SIZES, help="size of the model (default: small on a CPU, else base)")
    add("--seed", type=int, default=0, metavar="S", help="seed of all drawn values (default 0)")
    words = f"smallest slow-down that matters, as a share (default {MATTERS:g})"
    add("--matters", type=float, default=MATTERS, metavar="SHARE", help=words)
    add("--against", metavar="PYTHON", help="Python of another environment, or MODULE:FACTORY, to compare with")
    add("--runs", type=int, default=1, metavar="R", help="number of runs, each in a new process (default 1)")
    add("--save", nargs="?", const="baseline", metavar="NAME", help="store the runs, for comparison with later ones")
    add("--storage", type=output.path, metavar="DIR", help="folder of the stored runs (default .benchmarks, by device)")
    add("--out", type=output.path, default=OUT, metavar="DIR", help=f"for bench.json and bench.html (default {OUT})")
    add("--debug", action="store_true", help="show tracebacks")


def run(args: dict[str, Any]) -> int:
    """Run the command; returns its exit code. Raises ValueError for a wrong argument, or without pytest-benchmark."""
    settings = Settings(
        level=args["level"], adapters=tuple(args["adapter"]) or DEFAULT_ADAPTERS, named=bool(args["adapter"]),
        platform=args["platform"], devices=args["devices"], seed=args["seed"],
    )  # fmt: skip
    check_share("--matters", args["matters"])
    if args["runs"] < 1:
        raise ValueError(f"--runs = {args['runs']}, must be at least 1")
    if args["against"] and (args["save"] or args["storage"] or args["runs"] > 1):
        raise ValueError("--against with --save, --storage or --runs: --against stores no run; omit the others")
    with output.prepared(args["out"]):
        return _against(args, settings) if args["against"] else _stored(args)


def _finish(args: dict[str, Any], results: Sequence[Judged], where: str, more: Mapping[str, Any]) -> int:
    """Write the report, and print the verdict; returns its exit code."""
    from .judging import verdict
    from .page import write

    write(args["out"], results, where, args["matters"], more)
    print(f"{verdict.line(results, where)}; report: {args['out'] / 'bench.html'}", flush=True)
    return verdict.CODES[verdict.overall(results)]


def _stored(args: dict[str, Any]) -> int:
    """Measure in new processes, and compare with the stored runs."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise ValueError("bench needs pytest-benchmark; install it with: pip install pytest-benchmark")
    names = [name for name in ("level", "seed", "platform", "devices", "size", "matters") if args[name] is not None]
    # Our own lines replace pytest's. The kit's conftest.py loads our plugin, also in a copy of the kit.
    words = ["-s", "-p", "no:terminal", "-p", "no:cacheprovider", "-p", "benchmark", "--benchmark-quiet"]
    words += ["-c", str(KIT / "pytest.ini"), "-o", "addopts=", "--rootdir", str(KIT)]
    words += plugin_options([*((name, args[name]) for name in names), *(("adapter", name) for name in args["adapter"])])
    words += [f"--benchmark-storage=file://{args['storage']}"] if args["storage"] else []
    first = words + plugin_options([("bench-out", args["out"]), *(("time", name) for name in args["only"])])
    first += [f"--benchmark-save={args['save']}"] if args["save"] else []
    code = 0
    for number in range(args["runs"]):
        if args["runs"] > 1:
            print(f"run {number + 1} of {args['runs']}", flush=True)
        ended = _session(first)
        if ended == 1:
            ended = _confirmed(args, words)
        if ended not in WORST:
            return ended
        code = max(code, ended, key=WORST.index)
    return code


def _session(words: Sequence[str]) -> int:
    """Run the benchmarks in a new pytest process; returns the exit code of `sftref bench`."""
    command = [sys.executable, "-P", "-m", "pytest", *words, "--sftref-benchmark", "--sftref-lines"]
    ended = subprocess.run([*command, os.path.relpath(HOME)], env=variables(os.environ, None), check=False)
    return 3 if ended.returncode < 0 else CODES.get(ended.returncode, 3)


def _confirmed(args: dict[str, Any], words: Sequence[str]) -> int:
    """Rerun slower benchmarks in new processes, because one process in twenty is an outlier due to its addresses."""
    content, results = _read(args["out"])
    slow = [judged.id for judged in results if judged.by_clock]
    reruns: list[Judged] = []
    with tempfile.TemporaryDirectory(prefix="sftref-") as folder:
        for number in range(PROCESSES - 1 if slow else 0):
            print(f"rerun in a new process, {number + 2} of {PROCESSES}: {', '.join(slow)}", flush=True)
            code = _session([*words, *plugin_options([("bench-out", folder), *(("time", name) for name in slow)])])
            if code not in WORST:
                return code
            reruns += _read(Path(folder))[1]
    results = [judged.confirmed([rerun for rerun in reruns if rerun.id == judged.id]) for judged in results]
    return _finish(args, results, content["devices"], {"environment": content["environment"]})


def _read(folder: Path) -> tuple[dict[str, Any], list[Judged]]:
    from .judging.verdict import Judged

    content = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    return content, [Judged.from_json(judged) for judged in content["benchmarks"]]


def _against(args: dict[str, Any], settings: Settings) -> int:
    """Compare two sides, which are measured in turn."""
    from .paired import Comparison
    from .side import interpreter

    other = interpreter(args["against"])
    if other is None and len(settings.adapters) > 1:
        raise ValueError(f"--against {args['against']}: compares one trainer with another; name yours with --adapter")
    before = settings if other else dataclasses.replace(settings, adapters=(args["against"],))
    # Both sides use one label, so that two trainers have benchmarks of the same ids.
    timed = (args["size"], args["only"], None if other else subject_labels(settings.adapters)[0])
    comparison = Comparison(
        before=(other or sys.executable, (before, *timed)), after=(sys.executable, (settings, *timed)),
        matters=args["matters"], level=args["level"], tell=lambda text: print(text, flush=True),
    )  # fmt: skip
    try:
        results = comparison.run()
    except WorkerError as error:
        print(f"sftref: {error}", file=sys.stderr)
        return 3 if error.hung else 2
    old, new = comparison.described
    return _finish(args, results, new["devices"], {"sides": {"before": old, "after": new}})
