"""A process that starts JAX step by step and tells each one: `python -m sftref.conformance.machine.startup_phases`.

A driver that hangs does so in one of these phases, and which one says where to look. `starting.py` waits for it.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.metadata
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..core.settings import PLATFORMS, Settings, device_limit, start_jax

# Phase -> seconds that it may take. The first device of a large machine takes a minute, the first compilation more.
# SFTREF_START_SECONDS in the environment is the time of each, where that is too short or too long.
PHASES = {
    "import": 120.0,
    "plugin": 60.0,
    "first device": 240.0,
    "first compile": 240.0,
    "first run": 120.0,
    "first collective": 240.0,
}


def phases(settings: Settings) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each phase with what it does, in order; a phase finds what those before it left."""
    found: dict[str, Any] = {}

    def load() -> None:
        import jax  # noqa: F401

    def plugin() -> None:
        # Their modules only: JAX registers them when it looks for devices.
        for entry in importlib.metadata.entry_points(group="jax_plugins"):
            entry.load()

    def device() -> None:
        import jax

        start_jax(settings)
        limit = device_limit(settings)
        found["devices"] = jax.devices()[: int(min(limit, jax.device_count()))]

    def compiled() -> None:
        import jax
        import numpy as np

        found["x"] = jax.device_put(np.ones((128, 128), np.float32), found["devices"][0])
        found["program"] = jax.jit(lambda x: (x @ x).sum()).lower(found["x"]).compile()

    def run() -> None:
        got = float(found["program"](found["x"]))
        if got != 128.0**3:
            raise RuntimeError(f"the sum of a product of ones is {got:g}, must be {128.0**3:g}")

    def collective() -> None:
        import jax
        import numpy as np
        from jax import lax
        from jax.sharding import NamedSharding, PartitionSpec

        from ..core.meshes import mesh_of, shard_map

        devices = found["devices"]
        mesh = mesh_of(devices)
        rows = PartitionSpec("data")
        x = jax.device_put(np.arange(len(devices), dtype=np.float32), NamedSharding(mesh, rows))
        total = jax.jit(shard_map(lambda x: lax.psum(x, "data"), mesh, rows, rows, check=False))(x)
        want = len(devices) * (len(devices) - 1) / 2
        if not (np.asarray(total) == want).all():
            raise RuntimeError(f"the sum over {len(devices)} devices is {np.asarray(total)}, must be {want:g}")

    acts = (load, plugin, device, compiled, run, collective)
    yield from zip(PHASES, acts, strict=True)


def main() -> int:
    """Go through the phases; the stream has an event for the start and one for the end of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--platform", choices=PLATFORMS)
    parser.add_argument("--devices", type=int)
    parser.add_argument("--sftref-stream", default="/dev/stdout")
    given = parser.parse_args()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    with open(given.sftref_stream, "w", buffering=1) as stream:

        def tell(**event: Any) -> None:
            stream.write(json.dumps(event) + "\n")

        seconds = os.environ.get("SFTREF_START_SECONDS")
        for name, act in phases(Settings(platform=given.platform, devices=given.devices)):
            tell(event="start", id=name, deadline=float(seconds or PHASES[name]))
            began = time.monotonic()
            try:
                act()
            except Exception as error:  # whatever it is, its phase is to be told
                tell(event="failed", id=name, message=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
                return 1
            tell(event="result", id=name, seconds=round(time.monotonic() - began, 3))
        from . import snapshot

        tell(event="live", **snapshot.live(device_limit(Settings(devices=given.devices))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
