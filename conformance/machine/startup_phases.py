"""JAX's start in phases, as the process that goes through them; `startup.py` calls one after the other.

A driver that hangs does so in one of these phases, and which one says where to look.
"""

import importlib.metadata
from typing import Any

from ..core.settings import Settings, start_jax

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


class Phases:
    """The phases of a start with some settings. A phase uses what those before it left."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def ready(self) -> None:
        """Python runs, and has imported this file."""

    def run(self, phase: str) -> None:
        """Go through a phase of `PHASES`."""
        getattr(self, f"_{phase.replace(' ', '_')}")()

    def live(self) -> dict[str, Any]:
        """Devices and settings, as `snapshot.live` gives them."""
        from . import snapshot

        return snapshot.live(self.settings.devices)

    def leave(self) -> None:
        """Exit as Python does: what JAX registered for that runs."""
        raise SystemExit(0)

    def _import(self) -> None:
        import jax  # noqa: F401

    def _plugin(self) -> None:
        # Their modules only: JAX registers them when it looks for devices.
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
