"""One side of a paired comparison: a process that prepares benchmarks and runs rounds of them when `side.py` calls it.

It needs no pytest, only jax, numpy, scipy and what the trainers import, because the other environment may be old.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from ..core.settings import Settings
from ..machine import snapshot
from .judging.stored_runs import described
from .measuring.bench import Bench, find_devices
from .measuring.rounds import Work
from .measuring.suite import suite


class Timer:
    """Methods that run in the process; their results can be unpickled without JAX.

    `label` names the only trainer, so that both sides use one name; None keeps the trainers' own names.
    """

    def __init__(self, settings: Settings, size: str | None, only: Sequence[str], label: str | None) -> None:
        sys.path.append(os.getcwd())
        devices = find_devices(settings)
        subjects = settings.timed if label is None else {label: settings.adapters[0]}
        self.bench = Bench(devices, subjects, size, settings.seed)
        self.entries = {entry.id: entry for entry in suite(self.bench, settings.level, only)}

    def describe(self) -> dict[str, Any]:
        """The versions and devices of this side, and the ids of its benchmarks."""
        devices = self.bench.devices
        return {"versions": snapshot.static()["versions"], "devices": described(devices, self.bench.size),
                "platform": devices[0].platform, "entries": list(self.entries)}  # fmt: skip

    def prepare(self, name: str) -> dict[str, Any]:
        """Compile and check one benchmark, which `round` runs from now on."""
        self.work = Work(self.entries[name].build(self.bench))
        prepared = self.work.prepared
        return {"work": dict(prepared.work), "exact": dict(prepared.exact), "once": prepared.once}

    def round(self) -> dict[str, float]:
        """Run a round; returns its wall seconds, its processor seconds, and the seconds of each part."""
        return self.work.round()
