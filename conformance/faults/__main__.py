"""`python -m sftref.conformance.faults`: seed faults and run the laws that must see them, in this process.

The scheduler starts it for the trials of a run; by hand it shows one fault at a time.
"""

import argparse
import contextlib
import dataclasses
import difflib
import faulthandler
import itertools
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..core.fault import changes, faults
from ..core.kit import PACKAGE
from ..core.law import LEVELS, check_id, laws, split_id
from ..core.settings import PLATFORMS, Settings, start_jax
from ..judge.mutation_score import laws_at, level_of
from ..workers.serve import Stream

EXAMPLES = """examples:
  python -m sftref.conformance.faults                              every seeded fault
  python -m sftref.conformance.faults --fault mean-of-means        one fault
  python -m sftref.conformance.faults --law operators.gelu         the faults that one law must see
  python -m sftref.conformance.faults --trial operators.gelu[fast-exp]   does a law see a fault that it need not see?
  python -m sftref.conformance.faults --read sums-of-one-size --level quick   what `verify` prints with this fault
  python -m sftref.conformance.faults --matrix selftest --level quick    every fault and every law: tables and a picture

exit code: 0 every fault was seen, 5 one was not seen or none was seeded, 2 wrong arguments; with --read, the verdict's
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog=f"python -m {PACKAGE}.faults",
        description="Seed faults, and see whether the laws see them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = top.add_argument
    choice = "a seeded fault, with --matrix also an equivalent change; repeatable (default: all)"
    add("--fault", action="append", default=[], metavar="ID", help=choice)
    add("--law", action="append", default=[], metavar="ID", help="run this law only; repeatable")
    add("--trial", action="append", default=[], metavar="LAW[FAULT]", help="one law and one fault; repeatable")
    add("--level", choices=LEVELS, default="full", help="the highest level of the laws (default full)")
    add("--platform", choices=PLATFORMS, help="the platform to use")
    add("--devices", type=int, metavar="N", help="at most N devices (default: all; 8 simulated ones on a CPU)")
    add("--seed", type=int, default=0, metavar="S", help="seed of all drawn values (default 0)")
    add("--matrix", type=Path, metavar="DIR", help="all laws with every fault and equivalent change; DIR keeps rows")
    add("--read", metavar="ID", help="run all laws with one fault, and print what `verify` would print")
    add("--sftref-stream", type=Path, help=argparse.SUPPRESS)
    return top


def trials_of(args: argparse.Namespace) -> list[str]:
    """The requested trials: ids of laws, each with a fault in brackets; none for a matrix, which has all laws.

    Raises:
        ValueError: there is no such fault or law, or no trial is left.
    """
    read = [args.read] if args.read else []
    entries = faults() if args.matrix is None else {**faults(), **changes()}
    for option, words, known in (("fault", args.fault, entries), ("law", args.law, laws()), ("read", read, faults())):
        for word in words:
            if word not in known:
                near = difflib.get_close_matches(word, known, 3) or list(known)[:3]
                raise ValueError(f"--{option} = {word}, must be one of {len(known)}, such as {', '.join(near)}")
    for word in args.trial:
        law, _, fault = word.partition("[")
        if law not in laws() or fault.removesuffix("]") not in faults():
            raise ValueError(f"--trial = {word}, must be a law with a seeded fault in brackets")
    if args.read and not laws_at(faults()[args.read], args.level):
        rule = f"a level at which it is seen; raise --level, which is {args.level}"
        raise ValueError(f"--read = {args.read}, must have {rule}")
    if args.trial or args.matrix is not None:
        return list(args.trial)
    trials = [
        check_id(law, fault.id)
        for fault in faults().values()
        if LEVELS.index(fault.level) <= LEVELS.index(args.level) and fault.id in (args.fault or faults())
        for law in fault.seen_by
        if law in (args.law or laws())
    ]
    if not trials:
        raise ValueError("no seeded fault is left; `sftref explain LAW` names those that a law must see")
    return trials


def run(requested: Sequence[str], settings: Settings, stream: Stream | None) -> Iterator[str]:
    """Run the trials; report them to the scheduler as events, or print a line for each. Gives their statuses."""
    from .trial import trials

    for name, several in itertools.groupby(requested, lambda trial: str(split_id(trial)[1])):
        fault, tried = faults()[name], [split_id(trial)[0] for trial in several]
        runs = [(law.id, dataclasses.replace(settings, level=level_of(settings.level, fault, law.id))) for law in tried]
        with contextlib.closing(trials(fault, runs)) as results:
            for law in tried:
                start = {"event": "start", "id": check_id(law.id, name), "deadline": law.deadline, "time": time.time()}
                if stream is not None:
                    stream.tell(start)
                result = next(results)
                if stream is not None:
                    stream.tell({"event": "result", **result.to_json()})
                else:
                    word = {"fail": "seen", "pass": "NOT SEEN", "not_run": "not run"}.get(result.status, result.status)
                    text = f"{name}  by {law.id}, {result.seconds:.1f} s: {result.message[:200]}"
                    print(f"{word:<8}  {text}", flush=True)
                yield result.status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        requested = trials_of(args)
        settings = Settings(level=args.level, platform=args.platform, devices=args.devices, seed=args.seed)
    except ValueError as error:
        print(f"{parser().prog}: {error}", file=sys.stderr)
        return 2
    if args.matrix is not None:
        from . import selftest

        return selftest.run(settings, args.matrix, args.fault)
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    start_jax(settings)
    if args.read is not None:
        from .reading import read

        return read(faults()[args.read], settings).exit_code
    statuses = list(run(requested, settings, args.sftref_stream and Stream(args.sftref_stream)))
    if args.sftref_stream is not None:
        return 0
    seen, idle = statuses.count("fail"), statuses.count("not_run")
    print(f"{seen} of {len(statuses)} trials saw the fault{f', {idle} not run' if idle else ''}")
    return 0 if seen and seen + idle == len(statuses) else 5


if __name__ == "__main__":
    sys.exit(main())
