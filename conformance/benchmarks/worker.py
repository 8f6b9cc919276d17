"""One side of a paired comparison: a process that prepares benchmarks and runs rounds of them when `side.py` calls it.

It needs jax, numpy, scipy and what the trainers need, but no pytest: the environment compared with may be an old one.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from ..core.settings import Settings


class Timer:
    """The methods. What they return needs no JAX to be read.

    Args:
        settings: of the kit.
        size: of the model.
        only: what is timed.
        label: the name of its one trainer, the same on both sides; None for its own name.
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
        """The versions and devices of this side, and the benchmarks that it has: (id, group)."""
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
        """Run one; its seconds by the clock, of the processor, and of each part."""
        from .measuring.timing import rounded

        timed = rounded(self.prepared.run, self.repeat)
        parts = {} if self.prepared.parts is None else dict(self.prepared.parts())
        return {"wall": timed.wall, "cpu": timed.cpu, **parts}
