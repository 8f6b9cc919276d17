"""`verify`, `bench`, `env`, `report`, `explain`, `compare`, `doctor`: arguments -> a run or a page, and an exit code.

Every mistake is one line on stderr and exit code 2. Nothing here imports JAX.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .adapter import AdapterError
from .benchmarks import cli as bench
from .core.kit import PACKAGE
from .core.law import LEVELS, expected
from .core.settings import DEFAULT_ADAPTERS, PLATFORMS, Settings

COMMANDS = ("verify", "bench", "env", "report", "explain", "compare", "doctor")
OUT = Path("sftref-report")
VERIFY_EXAMPLES = """examples:
  sftref verify                                    this machine, on all its devices, or on 8 simulated ones
  sftref verify --level quick --platform rocm      fail unless arrays live on a ROCm device
  sftref verify --expect rocm:8:gfx942             fail unless eight of them are here, of that kind
  sftref verify --adapter my_package.my_trainer:MyTrainer
  sftref verify --only collectives --only 6        two parts of the ladder
  sftref verify --deviations known.toml            with failures that are known, and end
  sftref verify --level full                       everything, and every seeded fault
  sftref verify --only 9 --processes 4             2 x 2 and 4 x 1 processes x devices, joined by jax.distributed
  sftref verify --cache ~/.cache/sftref            again and again: programs are kept, results held against cold ones

verdict and exit code: CONFORMANT 0, NONCONFORMANT 1, WORKAROUND 1, SETUP 2, UNRESPONSIVE 3, INCOMPLETE 4, UNTRUSTED 5,
Ctrl-C 130
"""
EXPLAIN_EXAMPLES = """examples:
  sftref explain                                   all laws
  sftref explain copies.round_trip                 one
  sftref explain 2                                 those of a rung
"""
ENV_EXAMPLES = """examples:
  sftref env                                       a block to paste into a bug report, and what is wrong here
  sftref env --json > machine.json                 for a program
  sftref env --no-start                            where JAX hangs when it starts

exit code: 0 nothing is known to be wrong, 1 something is broken, 3 JAX hangs or crashes when it starts
"""
REPORT_EXAMPLES = """examples:
  sftref report sftref-report/report.json          the page beside it, made anew
  sftref report theirs.json --out theirs.html      the page of a report that somebody sent
  sftref report sftref-report/report.json --bench sftref-bench/bench.json   with what was timed
"""
COMPARE_EXAMPLES = """examples:
  sftref compare before/report.json after/report.json

exit code: 0 nothing got worse, 1 something did, 2 no such report
"""
DOCTOR_EXAMPLES = """examples:
  sftref doctor                                    ./conformance where there is one, else the kit of this command
  sftref doctor third_party/sftref/conformance     a submodule of sftref: compared with its commit
  python -m conformance doctor                     a copy: compared with its MANIFEST
  python -m conformance doctor --write             after copying it from a clone, which has no MANIFEST

exit code: 0 no file differs, 1 a file differs, 2 no such kit, or nothing to compare it with
"""


def add_commands(commands: Any) -> None:
    """Add the kit's commands to a command line."""
    raw = argparse.RawDescriptionHelpFormatter
    verify = commands.add_parser(
        "verify", help="verify this machine and trainers", epilog=VERIFY_EXAMPLES, formatter_class=raw
    )
    add = verify.add_argument
    add("--level", choices=LEVELS, default=Settings.level, help=f"how much is asked (default {Settings.level})")
    add("--platform", choices=PLATFORMS, help="where arrays must live (default: the one that JAX chooses)")
    add("--devices", type=int, metavar="N", help="at most N devices (default: all; 8 simulated ones on a CPU)")
    add("--expect", default=os.environ.get("SFTREF_EXPECT"), metavar="PLATFORM[:COUNT[:KIND]]",
        help="the devices that must be here, as rocm:8:gfx942 (default: SFTREF_EXPECT)")  # fmt: skip
    add("--adapter", action="append", default=[], metavar="MODULE:FACTORY", help="a trainer under test; repeatable")
    add("--against", default=Settings.against, metavar="MODULE:FACTORY", help="the trainer to compare with")
    add("--only", action="append", default=[], metavar="ID", help="an id, the start of one, or a rung; repeatable")
    add("--seed", type=int, default=Settings.seed, metavar="S", help="of every value drawn (default 0)")
    add("--processes", type=int, metavar="N", help="join up to N on rung 9 (default: 2 from standard on, 4 at full)")
    add("--out", type=Path, default=OUT, metavar="DIR", help=f"where the report goes (default {OUT})")
    add("--deviations", type=Path, metavar="FILE", help="a TOML file of known deviations")
    add(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep compiled programs there, and hold their results against cold ones",
    )
    add("--no-self-test", action="store_true", help="seed no faults to see that the laws see them")
    add("--no-remedies", action="store_true", help="try no settings where something falls on the machine")
    bench.add_command(commands)
    env = commands.add_parser(
        "env", help="this machine, and how JAX starts on it", epilog=ENV_EXAMPLES, formatter_class=raw
    )
    env.add_argument("--platform", choices=PLATFORMS, help="which to start (default: the one that JAX chooses)")
    env.add_argument("--devices", type=int, metavar="N", help="at most N devices")
    env.add_argument("--json", action="store_true", help="for a program")
    env.add_argument("--no-start", action="store_true", help="look at files and versions only; do not start JAX")
    report = commands.add_parser("report", help="the page of a report", epilog=REPORT_EXAMPLES, formatter_class=raw)
    report.add_argument("report", type=Path, metavar="REPORT.json")
    report.add_argument(
        "--bench", type=Path, metavar="BENCH.json", help="what `sftref bench` measured, on the same page"
    )
    report.add_argument("--out", type=Path, metavar="FILE", help="default: beside the report, as .html")
    explain = commands.add_parser("explain", help="what a law asks", epilog=EXPLAIN_EXAMPLES, formatter_class=raw)
    explain.add_argument("id", nargs="?", metavar="ID", help="a law, a check, a rung (default: all laws)")
    explain.add_argument("--report", type=Path, metavar="FILE", help=f"what it measured (default {OUT}/report.json)")
    compare = commands.add_parser("compare", help="compare two reports", epilog=COMPARE_EXAMPLES, formatter_class=raw)
    compare.add_argument("before", type=Path, metavar="A.json")
    compare.add_argument("after", type=Path, metavar="B.json")
    doctor = commands.add_parser(
        "doctor", help="which files of a copy of the kit differ", epilog=DOCTOR_EXAMPLES, formatter_class=raw
    )
    doctor.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="with adapter.py and VERSION in it")
    doctor.add_argument("--write", action="store_true", help="write the folder's MANIFEST as its files are now")
    for command in (verify, env, report, explain, compare, doctor):
        command.add_argument("--debug", action="store_true", help="show tracebacks")


def run(command: str, args: dict[str, Any]) -> int:
    """Do one of `COMMANDS` with its parsed arguments; returns the exit code."""
    try:
        return COMMAND[command](args)
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more; Python would complain at its end
        return 1
    except (ValueError, AdapterError, OSError) as error:
        if args["debug"]:
            traceback.print_exception(error)
        said = str(error)
        if isinstance(error, OSError):
            said = f"{error.filename or 'temporary files'}: {error.strerror or error}; free some space"
        print(f"sftref: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sftref: interrupted", file=sys.stderr)
        return 130


def _verify(args: dict[str, Any]) -> int:
    from . import report
    from .core import deviations, output
    from .judge.verdict import judge
    from .report.document import diagnosis
    from .report.terminal import Screen
    from .run.verify import verify

    settings = Settings(
        level=args["level"],
        adapters=tuple(args["adapter"]) or DEFAULT_ADAPTERS,
        against=args["against"],
        platform=args["platform"],
        devices=args["devices"],
        expect=args["expect"],
        only=tuple(args["only"]),
        seed=args["seed"],
        processes=args["processes"],
        self_test=not args["no_self_test"],
        remedies=not args["no_remedies"],
    )
    for word in settings.only:
        if not expected(settings.level, settings.subjects, [word], processes=settings.processes):
            raise ValueError(f"--only = {word} matches no check at --level {settings.level}; raise the level")
    file: Path | None = args["deviations"]
    known = deviations.load(file) if file else []
    out: Path = args["out"]
    output.prepare(out)
    screen = Screen(settings, _seconds_before(out, settings.level))
    outcome = verify(settings, known, file, screen, args["cache"])
    if outcome.setup is None:
        screen.seeded_faults(outcome)
    verdict = judge(outcome)
    if verdict.name not in ("CONFORMANT", "SETUP") and outcome.interrupted is None:
        screen.diagnosis(diagnosis(outcome, verdict))
    try:
        report.write(out, outcome, verdict)
    except OSError as error:
        screen.verdict(verdict, "")
        raise output.FolderError(f"--out {out}: cannot be written ({error.strerror or error}); free some") from error
    screen.verdict(verdict, f"; report: {out / 'report.html'}")
    return verdict.exit_code


def _seconds_before(out: Path, level: str) -> dict[str, float]:
    """How long each check took in the run whose report lies there, if it was one of this level."""
    from .report.explain import read_report

    try:
        report = read_report(out / "report.json")
        same = report["settings"]["level"] == level
        ran = [check for check in report["checks"] if check["status"] in ("pass", "fail", "deviation")]
        return {check["id"]: float(check["seconds"]) for check in ran} if same else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _explain(args: dict[str, Any]) -> int:
    from .core.law import laws
    from .report import explain

    if args["id"] is None:
        lines = list(explain.table(list(laws().values())))
    else:
        found = explain.find(args["id"])
        path: Path = args["report"] or OUT / "report.json"
        report = explain.read_report(path) if args["report"] or path.is_file() else None
        lines = list(explain.explained(found[0], report) if len(found) == 1 else explain.table(found))
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
    from .report.terminal import Progress

    settings = Settings(platform=args["platform"], devices=args["devices"])
    content = env.gather(settings, Host(), Progress("starting JAX"), starts=not args["no_start"])
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

    here = Path("conformance")
    folder: Path = args["folder"] or (here if (here / "VERSION").is_file() and (here / "adapter.py").is_file() else KIT)
    if args["write"]:
        release.version(folder)
        print(release.write(folder))
        return 0
    examined = release.examine(folder)
    print("\n".join(release.lines(folder, examined)))
    return int(not examined.whole)


COMMAND = {
    "verify": _verify, "bench": bench.run, "env": _env, "report": _report, "explain": _explain, "compare": _compare,
    "doctor": _doctor,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of a copy of the kit: `python -m conformance verify`."""
    top = argparse.ArgumentParser(prog=f"python -m {PACKAGE}", description="Verify distributed training in JAX.")
    add_commands(top.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS)))
    args = vars(top.parse_args(argv))
    return run(args.pop("command"), args)
