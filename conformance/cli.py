"""The kit's commands: arguments -> a run or a page, and an exit code.

A user's mistake ends in one line on stderr and exit code 2. This module does not import JAX.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .adapter import AdapterError
from .benchmarks import cli as bench
from .cluster import options
from .core import output
from .core.kit import PACKAGE
from .core.law import LEVELS
from .core.settings import DEFAULT_ADAPTERS, PLATFORMS, Settings
from .run import surroundings

if TYPE_CHECKING:
    from .core.deviations import Deviation

OUT = Path("sftref-report")
VERIFY_EXAMPLES = """examples:
  sftref verify                                    this machine: all its devices, or 8 simulated ones
  sftref verify --level quick --platform rocm      fail unless JAX runs on a ROCm device
  sftref verify --expect rocm:8:gfx942             fail unless eight devices of this kind are present
  sftref verify --adapter my_package.my_trainer:MyTrainer
  sftref verify --only collectives --only 6        the laws of collectives, and those of rung 6
  sftref verify --deviations known.toml            accept the known failures in a file
  sftref verify --level full                       all checks, and every seeded fault
  sftref verify --only 9 --processes 4             train in 2 processes of 2 devices, and in 4 processes of 1 device
  srun sftref verify --distributed auto            every host, every link between two, and all together
  sftref verify --cache ~/.cache/sftref            reuse programs that earlier runs compiled, and check their results

verdict and exit code: CONFORMANT 0, NONCONFORMANT 1, WORKAROUND 1, SETUP 2, UNRESPONSIVE 3, INCOMPLETE 4, UNTRUSTED 5,
Ctrl-C 130
"""
ENV_EXAMPLES = """examples:
  sftref env                                       print facts and problems of this machine, for a bug report
  sftref env --json > machine.json                 the same facts, for a program to read
  sftref env --no-start                            for a machine on which JAX hangs when it starts

exit code: 0 no known problem, 1 something is broken, 3 JAX hangs or crashes when it starts
"""
REPORT_EXAMPLES = """examples:
  sftref report sftref-report/report.json          write report.html again, beside report.json
  sftref report theirs.json --out theirs.html      write the page of someone else's report
  sftref report sftref-report/report.json --bench sftref-bench/bench.json   add the times that `sftref bench` measured
"""
EXPLAIN_EXAMPLES = """examples:
  sftref explain                                   all laws
  sftref explain copies.round_trip                 one law
  sftref explain 2                                 the laws of one rung
"""
COMPARE_EXAMPLES = """examples:
  sftref compare before/report.json after/report.json

exit code: 0 nothing got worse, 1 something got worse, 2 a report cannot be read
"""
DOCTOR_EXAMPLES = """examples:
  sftref doctor                                    check ./conformance if it exists, else the installed kit
  sftref doctor third_party/sftref/conformance     compare a submodule of sftref with its commit
  python -m conformance doctor                     compare a copy with its MANIFEST
  python -m conformance doctor --write             write a MANIFEST, which a copy of a clone lacks

exit code: 0 no file differs, 1 a file differs, 2 the folder has no kit, or there is nothing to compare it with
"""


def add_commands(commands: Any) -> None:
    """Add the kit's commands to `commands`, the subparsers of a command line."""
    _add_verify(_command(commands, "verify", "verify this machine and trainers", VERIFY_EXAMPLES).add_argument)
    bench.add_command(commands)
    add = _command(commands, "env", "describe this machine, and how JAX starts on it", ENV_EXAMPLES).add_argument
    add("--platform", choices=PLATFORMS, help="the platform to start (default: the one that JAX chooses)")
    add("--devices", type=int, metavar="N", help="at most N devices")
    add("--json", action="store_true", help="print JSON")
    add("--no-start", action="store_true", help="read files and versions only; do not start JAX")
    add = _command(commands, "report", "write the page of a report", REPORT_EXAMPLES).add_argument
    add("report", type=output.path, metavar="REPORT.json")
    add("--bench", type=output.path, metavar="BENCH.json", help="add the times that `sftref bench` measured")
    add("--out", type=output.path, metavar="FILE", help="default: beside the report, as .html")
    add = _command(commands, "explain", "explain a law and its last result", EXPLAIN_EXAMPLES).add_argument
    add("id", nargs="?", metavar="ID", help="a law, a check or a rung (default: all laws)")
    add("--report", type=output.path, metavar="FILE", help=f"the report with the result (default {OUT}/report.json)")
    add = _command(commands, "compare", "compare two reports", COMPARE_EXAMPLES).add_argument
    add("before", type=output.path, metavar="A.json")
    add("after", type=output.path, metavar="B.json")
    add = _command(commands, "doctor", "list changed files of a copy of the kit", DOCTOR_EXAMPLES).add_argument
    add("folder", nargs="?", type=output.path, metavar="FOLDER", help="a folder with adapter.py and VERSION")
    add("--write", action="store_true", help="write the folder's MANIFEST from its current files")


def _command(commands: Any, name: str, words: str, examples: str) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = commands.add_parser(name, help=words, epilog=examples, formatter_class=raw)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _add_verify(add: Callable[..., object]) -> None:
    add("--level", choices=LEVELS, default=Settings.level, help=f"how much to check (default {Settings.level})")
    add("--platform", choices=PLATFORMS, help="the platform to verify (default: the one that JAX chooses)")
    add("--devices", type=int, metavar="N", help="at most N devices (default: all; 8 simulated ones on a CPU)")
    add("--expect", default=os.environ.get("SFTREF_EXPECT"), metavar="PLATFORM[:COUNT[:KIND]]",
        help="the devices that must be present, as rocm:8:gfx942 (default: $SFTREF_EXPECT)")  # fmt: skip
    add("--adapter", action="append", default=[], metavar="MODULE:FACTORY", help="a trainer under test; repeatable")
    add("--against", default=Settings.against, metavar="MODULE:FACTORY", help="another trainer to compare with")
    add("--only", action="append", default=[], metavar="ID", help="only this id, start of an id, or rung; repeatable")
    add("--seed", type=int, default=Settings.seed, metavar="S", help="seed of all random values (default 0)")
    add("--processes", type=int, metavar="N", help="at most N processes on rung 9 (default: 2 at standard, 4 at full)")
    add("--out", type=output.path, default=OUT, metavar="DIR", help=f"folder of the report (default {OUT})")
    add("--deviations", type=output.path, metavar="FILE", help="a TOML file of known failures to accept")
    add("--cache", type=output.path, metavar="DIR", help="reuse the compiled programs in DIR, and check their results")
    add("--no-self-test", action="store_true", help="do not seed faults to test that the laws see them")
    add("--no-remedies", action="store_true", help="do not rerun failed checks under other settings")
    add("--distributed", choices=("auto",), help="join the processes that Slurm, Open MPI or Kubernetes started")
    add("--coordinator", metavar="HOST:PORT", help="join other processes: address of process 0")
    add("--num-processes", type=int, metavar="P", help="number of processes that join")
    add("--process-id", type=int, metavar="I", help="number of this process, from 0")
    add("--wait", type=int, metavar="S", help="seconds in which all processes must come (default 300)")
    add("--pairs", type=int, metavar="K", help="K rounds of pairs of hosts (default: all)")


def run(command: str, args: dict[str, Any]) -> int:
    """Run one of `COMMANDS` with its parsed arguments; returns the exit code."""
    try:
        if command not in LONG:
            return COMMANDS[command](args)
        surroundings.check_flags(os.environ)
        with surroundings.without_terminal():
            return COMMANDS[command](args)
    except (ValueError, AdapterError, OSError) as error:
        if args["debug"]:
            traceback.print_exception(error)
        message = surroundings.reason(error) if isinstance(error, OSError) else str(error)
        print(f"sftref: {surroundings.one_line(message)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sftref: interrupted", file=sys.stderr)
        return 130


def _verify(args: dict[str, Any]) -> int:
    from .core import deviations

    settings = Settings(
        **{name: args[name] for name in ("level", "against", "platform", "devices", "expect", "seed", "processes")},
        adapters=tuple(args["adapter"]) or DEFAULT_ADAPTERS,
        named=bool(args["adapter"]),
        only=tuple(args["only"]),
        self_test=not args["no_self_test"],
        remedies=not args["no_remedies"],
    )
    cluster = options.cluster_of(args, os.environ)
    processes = settings.processes if cluster is None else cluster.processes
    for word in settings.only:
        if not settings.checks([word], processes=processes):
            raise ValueError(f"--only = {word} matches no check at --level {settings.level}; raise the level")
    file: Path | None = args["deviations"]
    known = deviations.load(file) if file else []
    if cluster is not None:
        from .cluster.run import run as run_on_cluster

        if args["cache"] is not None:
            raise ValueError("--cache with several processes: leave it out; each host compiles for itself")
        return run_on_cluster(cluster, settings, known, args["out"])
    with output.prepared(args["out"]):
        return _verified(settings, known, file, args["out"], args["cache"])


def _verified(settings: Settings, known: list[Deviation], file: Path | None, out: Path, cache: Path | None) -> int:
    """Run the checks, and write their report to `out`; returns the exit code."""
    from . import report
    from .judge.verdict import judge
    from .report.document import diagnosis
    from .report.explain import seconds_before
    from .report.terminal import Screen
    from .run.verify import unfinished, verify

    screen = Screen(settings, seconds_before(out, settings.level))
    begun = unfinished(settings, known)
    report.write(out, begun, judge(begun))
    outcome = verify(settings, known, file, screen, cache)
    if outcome.setup is None:
        screen.seeded_faults(outcome)
    verdict = judge(outcome)
    if verdict.name not in ("CONFORMANT", "SETUP") and outcome.interrupted is None:
        screen.diagnosis(diagnosis(outcome, verdict))
    try:
        report.write(out, outcome, verdict)
    except OSError as error:
        screen.verdict(verdict, "")
        raise ValueError(f"--out: {surroundings.reason(error)}") from error
    screen.verdict(verdict, f"; report: {out / 'report.html'}")
    return verdict.exit_code


def _explain(args: dict[str, Any]) -> int:
    from .core.law import laws
    from .report import explain

    if args["id"] is None:
        lines = list(explain.table(list(laws().values())))
    else:
        chosen = explain.find(args["id"])
        path: Path = args["report"] or OUT / "report.json"
        report = explain.read_report(path) if args["report"] or path.is_file() else None
        lines = list(explain.explained(chosen[0], report) if len(chosen) == 1 else explain.table(chosen))
    print("\n".join(lines))
    return 0


def _compare(args: dict[str, Any]) -> int:
    from .report.compare import compare
    from .report.explain import read_report

    lines, worse = compare(read_report(args["before"]), read_report(args["after"]))
    print("\n".join([*lines, "something got worse" if worse else "nothing got worse"]))
    return int(worse)


def _env(args: dict[str, Any]) -> int:
    from .machine import env
    from .machine.host import Host

    settings = Settings(platform=args["platform"], devices=args["devices"])
    content = env.gather(settings, Host(), env.Progress("starting JAX"), starts=not args["no_start"])
    print(json.dumps(content, indent=1) if args["json"] else "\n".join(env.block(content)))
    return env.exit_code(content)


def _report(args: dict[str, Any]) -> int:
    from .report.explain import read_report
    from .report.page import page

    source: Path = args["report"]
    out: Path = args["out"] or source.with_suffix(".html")
    content = read_report(source)
    try:
        text = page(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source}: is no report of `verify` ({type(error).__name__}: {error})") from error
    bench: Path | None = args["bench"]
    if bench is not None:
        try:
            text = page(content | {"speed": json.loads(bench.read_text(encoding="utf-8"))})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise ValueError(f"--bench {bench}: is no bench.json of `sftref bench` ({reason})") from error
    out.write_text(text, encoding="utf-8")
    print(f"{content['verdict']}: {out}")
    return 0


def _doctor(args: dict[str, Any]) -> int:
    from .core import release
    from .core.kit import KIT

    copy = Path("conformance")
    is_kit = (copy / "VERSION").is_file() and (copy / "adapter.py").is_file()
    folder: Path = args["folder"] or (copy if is_kit else KIT)
    if args["write"]:
        release.version(folder)
        print(release.write(folder))
        return 0
    examined = release.examine(folder)
    print("\n".join(release.lines(folder, examined)))
    return int(not examined.whole)


COMMANDS = {
    "verify": _verify, "bench": bench.run, "env": _env, "report": _report, "explain": _explain, "compare": _compare,
    "doctor": _doctor,
}  # fmt: skip
# Commands that take minutes: they go on when their terminal is closed, and start JAX, which reads XLA_FLAGS.
LONG = ("verify", "bench")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of a copy of the kit, as in `python -m conformance verify`."""
    top = output.Parser(prog=f"python -m {PACKAGE}", description="Verify distributed training in JAX.")
    add_commands(top.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS)))
    surroundings.keep_streams()
    args = vars(top.parse_args(argv))
    code = run(args.pop("command"), args)
    return (code or 2) if surroundings.unwritten() else code
