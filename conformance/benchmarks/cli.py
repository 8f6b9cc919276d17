"""`sftref bench`: arguments -> benchmarks against stored runs, or two sides in turn, and an exit code."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.kit import KIT
from ..core.law import LEVELS
from ..core.settings import DEFAULT_ADAPTERS, PLATFORMS, Settings, subject_labels
from ..workers.channel import WorkerError
from ..workers.plan import given, variables
from .options import HOME, MATTERS, PROCESSES, SIZES

OUT = Path("sftref-bench")
EXAMPLES = """examples:
  sftref bench                                     against the runs stored here for these devices, or record one
  sftref bench --save --runs 3                     record a baseline: three runs say how runs scatter
  sftref bench --against .venv-old/bin/python      is this JAX slower than that one? both in turn, so noise cancels
  sftref bench --adapter my.kit:New --against my.kit:Old --only step
  sftref bench --level full --only scaling         1, 2, 4 and 8 devices, weak and strong

verdict and exit code: PASS 0, RECORDED 0, FAIL 1, WRONG 1 (what is timed computes something wrong), 2 set-up, 3 a hang
or a crash, AMBIGUOUS 4, Ctrl-C 130
"""
# pytest's exit codes: ours. Its 5 is that no benchmark was collected.
CODES = {0: 0, 1: 1, 2: 130, 3: 3, 4: 2, 5: 2, 6: 4}
# The exit code of several runs is the last of these with which one of them ended; any other ends them.
WORST = (0, 4, 1)


def add_command(commands: Any) -> None:
    """Add `bench` to a command line."""
    bench = commands.add_parser(
        "bench", help="time this machine and trainers", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = bench.add_argument
    add("--level", choices=LEVELS, default="quick", help="how much is timed, and for how long (default quick)")
    add("--platform", choices=PLATFORMS, help="where arrays must live (default: the one that JAX chooses)")
    add("--devices", type=int, metavar="N", help="at most N devices (default: all; 8 simulated ones on a CPU)")
    add("--adapter", action="append", default=[], metavar="MODULE:FACTORY", help="a trainer to time; repeatable")
    add("--only", action="append", default=[], metavar="ID", help="an id, its stem, or a group; repeatable")
    add("--size", choices=SIZES, help="of the model (default: small on a CPU, else base)")
    add("--seed", type=int, default=0, metavar="S", help="of every value drawn (default 0)")
    add("--matters", type=float, default=MATTERS, metavar="SHARE", help=f"least slow-down that matters ({MATTERS:g})")
    add("--against", metavar="PYTHON", help="another environment's interpreter, or MODULE:FACTORY: timed in turn")
    add("--runs", type=int, default=1, metavar="R", help="processes to measure in, one after the other (default 1)")
    add("--save", nargs="?", const="baseline", metavar="NAME", help="store the runs for later ones to compare with")
    add("--storage", type=Path, metavar="DIR", help="where runs are stored (default .benchmarks, by device)")
    add("--out", type=Path, default=OUT, metavar="DIR", help=f"where bench.json and bench.html go (default {OUT})")
    add("--debug", action="store_true", help="show tracebacks")


def run(args: dict[str, Any]) -> int:
    """Do it.

    Raises:
        ValueError: an argument does not hold.
    """
    from ..core import output

    settings = Settings(
        level=args["level"], adapters=tuple(args["adapter"]) or DEFAULT_ADAPTERS, platform=args["platform"],
        devices=args["devices"], seed=args["seed"],
    )  # fmt: skip
    if not 0 < args["matters"] <= 1:
        raise ValueError(f"--matters = {args['matters']:g}, must be above 0 and at most 1, as 0.05 is for 5 %")
    if args["runs"] < 1:
        raise ValueError(f"--runs = {args['runs']}, must be at least 1")
    if args["against"] and (args["save"] or args["storage"] or args["runs"] > 1):
        raise ValueError("--against with --save, --storage or --runs: it compares two sides now; leave them out")
    output.prepare(args["out"])
    return _against(args, settings) if args["against"] else _stored(args, settings)


def _stored(args: dict[str, Any], settings: Settings) -> int:
    """Measure in processes of their own, and compare with what is stored."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise ValueError("bench needs pytest-benchmark; install it with: pip install pytest-benchmark")
    options = [(name, args[name]) for name in ("level", "seed", "platform", "devices", "size", "matters")]
    options += [("adapter", name) for name in args["adapter"]]
    words = given([(name, value) for name, value in options if value is not None])
    only = given(("time", name) for name in args["only"])
    saved = [f"--benchmark-save={args['save']}"] if args["save"] else []
    if args["storage"]:
        words += [f"--benchmark-storage=file://{args['storage']}"]
    # Our own lines instead of pytest's; the plugin comes with this folder's conftest.py, also in a copy of the kit.
    fixed = ["-s", "-p", "no:terminal", "-p", "no:cacheprovider", "-p", "benchmark", "--benchmark-quiet"]
    fixed += ["-c", str(KIT / "pytest.ini"), "-o", "addopts=", "--rootdir", str(KIT)]
    code = 0
    for number in range(args["runs"]):
        if args["runs"] > 1:
            print(f"run {number + 1} of {args['runs']}", flush=True)
        asked = [*fixed, *words, *given([("bench-out", args["out"])]), *only, *saved]
        ended = _session(asked)
        if ended == 1:
            ended = _confirmed(args, [*fixed, *words])
        if ended not in WORST:
            return ended
        code = max(code, ended, key=WORST.index)
    return code


def _session(asked: Sequence[str]) -> int:
    """One pytest process that times; our exit code for its own."""
    words = [sys.executable, "-P", "-m", "pytest", *asked, "--sftref-benchmark", "--sftref-lines"]
    words += [os.path.relpath(HOME)]
    ended = subprocess.run(words, env=variables(os.environ, None), check=False)
    return 3 if ended.returncode < 0 else CODES.get(ended.returncode, 3)


def _confirmed(args: dict[str, Any], asked: Sequence[str]) -> int:
    """Ask again, in new processes, what looks slower: where memory comes to lie makes one run in twenty an outlier."""
    from .judging import verdict
    from .judging.verdict import Judged
    from .page import write

    content = json.loads((args["out"] / "bench.json").read_text(encoding="utf-8"))
    found = [Judged.from_json(judged) for judged in content["benchmarks"]]
    slow = [judged.id for judged in found if judged.by_clock]
    again: dict[str, list[Judged]] = {name: [] for name in slow}
    with tempfile.TemporaryDirectory(prefix="sftref-") as folder:
        for number in range(PROCESSES - 1 if slow else 0):
            print(f"again in a new process, {number + 2} of {PROCESSES}: {', '.join(slow)}", flush=True)
            code = _session([*asked, *given([("bench-out", folder), *(("time", name) for name in slow)])])
            if code in (2, 3, 130):
                return code
            for judged in json.loads((Path(folder) / "bench.json").read_text(encoding="utf-8"))["benchmarks"]:
                again[judged["id"]].append(Judged.from_json(judged))
    found = [judged.confirmed(again.get(judged.id, [])) for judged in found]
    write(args["out"], found, content["devices"], args["matters"], {"environment": content["environment"]})
    print(f"{verdict.line(found, content['devices'])}; report: {args['out'] / 'bench.html'}", flush=True)
    return verdict.CODES[verdict.overall(found)]


def _against(args: dict[str, Any], settings: Settings) -> int:
    """Measure two sides in turn."""
    from .judging import verdict
    from .page import write
    from .paired import Comparison, Question
    from .side import interpreter

    try:
        other = interpreter(args["against"])
        before = list(settings.adapters) if other else [args["against"]]
        if other is None and len(settings.adapters) > 1:
            raise ValueError(
                f"--against {args['against']}: compares one trainer with another; name yours with --adapter"
            )
        # Two trainers of different names have the same benchmarks when both are called the same.
        label = None if other else subject_labels(settings.adapters)[0]

        def timed(adapters: Sequence[str]) -> tuple[Any, ...]:
            return dataclasses.replace(settings, adapters=tuple(adapters)), args["size"], args["only"], label

        question = Question(
            before=(other or sys.executable, timed(before)), after=(sys.executable, timed(settings.adapters)),
            matters=args["matters"], level=args["level"],
        )  # fmt: skip
        comparison = Comparison(question, lambda text: print(text, flush=True))
        found = comparison.run()
    except WorkerError as error:
        print(f"sftref: {error}", file=sys.stderr)
        return 3 if error.hung else 2
    where = comparison.described[1]["devices"]
    sides = {"before": comparison.described[0], "after": comparison.described[1]}
    write(args["out"], found, where, args["matters"], {"sides": sides})
    print(f"{verdict.line(found, where)}; report: {args['out'] / 'bench.html'}")
    return verdict.CODES[verdict.overall(found)]
