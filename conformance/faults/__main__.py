"""`python -m sftref.conformance.faults`: seed faults and ask the laws that must see them, in this process.

The runner calls it with the trials of a run; by hand it shows one fault at a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import faulthandler
import itertools
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.fault import faults
from ..core.kit import PACKAGE
from ..core.law import LEVELS, check_id, laws, split_id
from ..core.settings import PLATFORMS, Settings, start_jax
from ..judge.mutation_score import level_of
from ..workers.serve import Stream

EXAMPLES = """examples:
  python -m sftref.conformance.faults                              every seeded fault
  python -m sftref.conformance.faults --fault mean-of-means        one
  python -m sftref.conformance.faults --law operators.gelu         those that one law must see
  python -m sftref.conformance.faults --trial operators.gelu[fast-exp]   whether a law sees what it need not
  python -m sftref.conformance.faults --read sums-of-one-size --level quick   what a person reads who has it
  python -m sftref.conformance.faults --matrix selftest --level quick    all before all: tables and a picture

exit code: 0 every fault was seen, 5 one was not or none was seeded, 2 wrong arguments; of --read, the verdict's
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog=f"python -m {PACKAGE}.faults",
        description="Seed faults, and see whether the laws see them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("--fault", action="append", default=[], metavar="ID", help="a seeded fault; repeatable (default: all)")
    add("--law", action="append", default=[], metavar="ID", help="only before this law; repeatable")
    add("--trial", action="append", default=[], metavar="LAW[FAULT]", help="one law and one fault; repeatable")
    add("--level", choices=LEVELS, default="full", help="the highest level at which a law is asked (default full)")
    add("--platform", choices=PLATFORMS, help="where arrays must live")
    add("--devices", type=int, metavar="N", help="at most N devices (default: all; 8 simulated ones on a CPU)")
    add("--seed", type=int, default=0, metavar="S", help="of every value drawn (default 0)")
    add(
        "--matrix", type=Path, metavar="DIR", help="every fault and equivalent change before every law; files go to DIR"
    )
    add("--read", metavar="ID", help="a seeded fault before all laws, and what `verify` would print")
    add("--sftref-stream", type=Path, help=argparse.SUPPRESS)
    return found


def trials_of(args: argparse.Namespace) -> list[str]:
    """The trials that were asked for.

    Raises:
        ValueError: there is no such fault or law, or nothing is left.
    """
    read = [args.read] if args.read else []
    for option, given, known in (("fault", args.fault, faults()), ("law", args.law, laws()), ("read", read, faults())):
        for word in given:
            if word not in known:
                near = difflib.get_close_matches(word, known, 3) or list(known)[:3]
                raise ValueError(f"--{option} = {word}, must be one of {len(known)}, such as {', '.join(near)}")
    for word in args.trial:
        law, _, fault = word.partition("[")
        if law not in laws() or fault.removesuffix("]") not in faults():
            raise ValueError(f"--trial = {word}, must be a law with a seeded fault in brackets")
    if args.trial:
        return list(args.trial)
    found = [
        check_id(law, fault.id)
        for fault in faults().values()
        if LEVELS.index(fault.level) <= LEVELS.index(args.level) and fault.id in (args.fault or faults())
        for law in fault.seen_by
        if law in (args.law or laws())
    ]
    if not found:
        raise ValueError("no seeded fault is left; `sftref explain LAW` names those that a law must see")
    return found


class Teller:
    """Reports the trials: as events to the runner, or as lines to a person."""

    def __init__(self, path: Path | None) -> None:
        self.stream = None if path is None else Stream(path)

    def begin(self, trial: str) -> None:
        """A trial begins."""
        if self.stream is not None:
            deadline = split_id(trial)[0].deadline
            self.stream.tell({"event": "start", "id": trial, "deadline": deadline, "time": time.time()})

    def ended(self, record: Any) -> None:
        """A trial is over."""
        if self.stream is not None:
            self.stream.tell({"event": "result", **record.to_json()})
            return
        word = {"fail": "seen", "pass": "NOT SEEN", "not_run": "not run"}.get(record.status, record.status)
        print(
            f"{word:<8}  {record.subject}  by {record.law}, {record.seconds:.1f} s: {record.message[:200]}", flush=True
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Make the trials; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        asked = trials_of(args)
        settings = Settings(level=args.level, platform=args.platform, devices=args.devices, seed=args.seed)
    except ValueError as error:
        print(f"{parser().prog}: {error}", file=sys.stderr)
        return 2
    if args.matrix is not None:
        from .selftest import run

        return run(settings, args.matrix, args.fault)
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    start_jax(settings)
    if args.read is not None:
        from .reading import read

        return read(faults()[args.read], settings).exit_code
    from .trial import trials

    teller, statuses = Teller(args.sftref_stream), []
    for fault, several in itertools.groupby(asked, lambda trial: str(split_id(trial)[1])):
        entry = faults()[fault]
        names = [split_id(trial)[0].id for trial in several]
        levels = [dataclasses.replace(settings, level=level_of(args.level, entry, law)) for law in names]
        teller.begin(check_id(names[0], fault))
        for following, record in zip(
            [*names[1:], None], trials(entry, list(zip(names, levels, strict=True))), strict=True
        ):
            teller.ended(record)
            statuses.append(record.status)
            if following is not None:
                teller.begin(check_id(following, fault))
    if args.sftref_stream is not None:
        return 0
    seen, idle = statuses.count("fail"), statuses.count("not_run")
    print(f"{seen} of {len(statuses)} trials saw the fault{f', {idle} not run' if idle else ''}")
    return 0 if seen and seen + idle == len(statuses) else 5


if __name__ == "__main__":
    sys.exit(main())
