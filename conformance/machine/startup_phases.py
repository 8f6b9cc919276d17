"""The phases of JAX's start, in the process that runs them; `startup.py` calls one after the other.

If a driver hangs, it hangs in one of these phases; the name of the phase says where to look for the cause.
"""

import importlib.metadata
from typing import Any

from ..core.settings import Settings, start_jax

# Phase -> seconds that it may take. The first device of a large machine takes a minute, the first compilation more.
# If these are too short or too long, the variable SFTREF_START_SECONDS replaces each of them.
PHASES = {
    "import": 120.0,
    "plugin": 60.0,
    "first device": 240.0,
    "first compile": 240.0,
    "first run": 120.0,
    "first collective": 240.0,
}


class Phases:
    """The phases of one start; each phase uses the results of the phases before it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def ready(self) -> None:
        """Return nothing: an answer shows that Python runs, and has imported this file."""

    def run(self, phase: str) -> None:
        """Go through a phase of `PHASES`."""
        getattr(self, f"_{phase.replace(' ', '_')}")()

    def live(self) -> dict[str, Any]:
        """Devices and settings of JAX, as `snapshot.live` returns them."""
        from . import snapshot

        return snapshot.live(self.settings.devices)

    def leave(self) -> None:
        """Exit in the normal way, so that JAX's exit handlers run."""
        raise SystemExit(0)

    def _import(self) -> None:
        import jax  # noqa: F401

    def _plugin(self) -> None:
        # Only import the plugins: JAX registers them itself when it looks for devices.
        for entry in importlib.metadata.entry_points(group="jax_plugins"):
            entry.load()

    def _first_device(self) -> None:
        import jax

        start_jax(self.settings)
        self.devices = jax.devices()[: self.settings.devices]

    def _first_compile(self) -> None:
        import jax
        import numpy as np

        self.x = jax.device_put(np.ones((128, 128), np.float32), self.devices[0])
        self.program = jax.jit(lambda x: (x @ x).sum()).lower(self.x).compile()

    def _first_run(self) -> None:
        total = float(self.program(self.x))
        if total != 128.0**3:
            raise RuntimeError(f"the sum of a product of ones is {total:g}, must be {128.0**3:g}")

    def _first_collective(self) -> None:
        import jax
        import numpy as np
        from jax import lax
        from jax.sharding import NamedSharding, PartitionSpec

        from .meshes import mesh_of, shard_map

        count = len(self.devices)
        mesh = mesh_of(self.devices)
        rows = PartitionSpec("data")
        x = jax.device_put(np.arange(count, dtype=np.float32), NamedSharding(mesh, rows))
        total = np.asarray(jax.jit(shard_map(lambda x: lax.psum(x, "data"), mesh, rows, rows, check=False))(x))
        if not (total == count * (count - 1) / 2).all():
            raise RuntimeError(f"the sum over {count} devices is {total}, must be {count * (count - 1) / 2:g}")
