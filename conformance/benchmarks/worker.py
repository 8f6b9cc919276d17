"""One side of a paired comparison: a process that prepares benchmarks and runs rounds of them when it is asked to.

    python -m sftref.conformance.benchmarks.worker --level quick --adapter MODULE:FACTORY

Reads one JSON object a line from its standard input, and answers each with one on its standard output:

    {"do": "describe"}                      {"versions": ..., "devices": ..., "ids": [...]}
    {"do": "prepare", "id": "step[mesh]"}   {"rates": ..., "exact": ..., "repeat": 4}
    {"do": "round"}                         {"wall": 0.01, "cpu": 0.02, parts}
    anything that goes wrong                {"error": "..."}

It needs jax, numpy, scipy and what the trainers need, but no pytest: the environment compared with may be an old one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..core.settings import DEFAULT_ADAPTERS, PLATFORMS, Settings


class Worker:
    """Answers.

    Args:
        settings: of the kit.
        size: of the model.
        only: what is timed.
        label: what its one trainer is called; None for its own name.
    """

    def __init__(self, settings: Settings, size: str | None, only: Sequence[str], label: str | None) -> None:
        from .measuring.bench import Bench, find_devices
        from .measuring.suite import suite

        sys.path.append(os.getcwd())
        devices = find_devices(settings)
        subjects = settings.subjects if label is None else {label: settings.adapters[0]}
        self.bench = Bench(devices, subjects, size, settings.seed)
        self.entries = {entry.id: entry for entry in suite(self.bench, settings.level, only)}

    def describe(self) -> dict[str, Any]:
        """Where this runs, and what it can time."""
        from ..machine import snapshot
        from .judging.stored_runs import described

        versions = snapshot.static()["versions"]
        platform = self.bench.devices[0].platform
        entries = [(entry.id, entry.group) for entry in self.entries.values()]
        where = described(self.bench.devices, self.bench.size)
        return {"versions": versions, "devices": where, "platform": platform, "entries": entries}

    def prepare(self, name: str) -> dict[str, Any]:
        """Compile and check one benchmark; rounds are of it from now on."""
        from .measuring.rounds import guard
        from .measuring.timing import repeats

        self.prepared = self.entries[name].build(self.bench)
        self.repeat = 1
        if not self.prepared.once:
            self.repeat = repeats(self.prepared.run)
            guard(self.prepared.run, self.repeat)
        return {"work": dict(self.prepared.work), "exact": dict(self.prepared.exact), "once": self.prepared.once}

    def round(self) -> dict[str, float]:
        """Run one."""
        from .measuring.timing import rounded

        found = rounded(self.prepared.run, self.repeat)
        parts = {} if self.prepared.parts is None else dict(self.prepared.parts())
        return {"wall": found.wall, "cpu": found.cpu, **parts}

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """One question."""
        if asked["do"] == "describe":
            return self.describe()
        return self.prepare(asked["id"]) if asked["do"] == "prepare" else self.round()


def main() -> int:
    """Answer until nobody asks any more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--level", default="quick")
    parser.add_argument("--adapter", action="append", default=[])
    parser.add_argument("--platform", choices=PLATFORMS)
    parser.add_argument("--devices", type=int)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--size")
    parser.add_argument("--label", help="what the one trainer is called, on both sides the same")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    # What libraries print is not an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = None
    for line in sys.stdin:
        try:
            if worker is None:
                settings = Settings(
                    level=given.level, adapters=tuple(given.adapter) or DEFAULT_ADAPTERS, platform=given.platform,
                    devices=given.devices, seed=given.seed,
                )  # fmt: skip
                worker = Worker(settings, given.size, given.only, given.label)
            said = worker.answer(json.loads(line))
        except Exception as error:  # the other side tells the user, whatever it is
            said = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(said) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
