"""One process of several that `jax.distributed` joins: the methods that `process_group.py` calls in each."""

import atexit
import contextlib
import importlib
import inspect
import os
import time
from typing import Any

from ...core.kit import PACKAGE
from .messages import CALLS, sent

# Seconds without a sign of life after which JAX takes a process for lost, where that can be set (from 0.7 on).
HEARTBEAT = 10
JOINING = 60


class Rank:
    """The methods. What they return can be pickled: NumPy arrays, no JAX ones."""

    def __init__(self) -> None:
        self.mesh: Any = None
        self.subject: Any = None
        self.case: Any = None

    def join(self, coordinator: str, ranks: int, number: int, devices: int, *, light: bool) -> None:
        """Start JAX with so many simulated devices, one process of `ranks`; `light`: compile without optimization."""
        import jax

        from .compilation import OPTION

        # JAX's own exit waits for the other processes. This comes first: it is registered last.
        atexit.register(os._exit, 0)
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
        # The default from JAX 0.6 on.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.config.update(OPTION, light)
        known = inspect.signature(jax.distributed.initialize).parameters
        limits: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT}
        limits = {name: value for name, value in limits.items() if name in known}
        jax.distributed.initialize(coordinator, ranks, number, initialization_timeout=JOINING, **limits)

    def devices(self) -> dict[str, Any]:
        """Which process this is of how many, and the devices that it sees: (number, process that has it)."""
        import jax

        def named(devices: list[Any]) -> list[tuple[int, int]]:
            return [(device.id, device.process_index) for device in devices]

        return {
            "process": jax.process_index(),
            "processes": jax.process_count(),
            "all": named(jax.devices()),
            "own": named(jax.local_devices()),
        }

    def collective(self, operation: str, axes: tuple[str, ...], data: Any) -> dict[int, Any]:
        """A collective over some axes of (process, local): what each device of this process has afterwards.

        Args:
            operation: its name in `messages.CALLS`.
            axes: over which it goes.
            data: [N, size], a row for each device of all processes.
        """
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        from ...machine.meshes import shard_map

        if self.mesh is None:
            self.mesh = _by_process(jax.devices())
        rows = PartitionSpec(self.mesh.axis_names)
        program = jax.jit(shard_map(lambda x: CALLS[operation](x[0], axes)[None], self.mesh, rows, rows, check=False))
        return sent(program, NamedSharding(self.mesh, rows), data)

    def spin(self, seconds: float) -> int:
        """Add up over all devices again and again, as a training loop does; how often."""
        import numpy as np

        until, count = time.monotonic() + seconds, 0
        data = np.ones((self.mesh.size, 1024), np.float32)
        while time.monotonic() < until:
            self.collective("psum", self.mesh.axis_names, data)
            count += 1
        return count

    def load(self, adapter: str) -> None:
        """Make the trainer under test."""
        from ...adapter import load_adapter

        self.subject = load_adapter(adapter)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the trainer under test."""
        from .trainer_checks import precision

        if method == "start":
            self.case = arguments[0]
        with precision(self.case):
            return getattr(self.subject, method)(*arguments)


# A fault that is seeded until the process ends.
_SEEDED = contextlib.ExitStack()


def make(number: int, fault: str | None) -> Rank:
    """A rank; with a seeded fault, in a process where that fault is present."""
    if fault is not None:
        faults = importlib.import_module(f"{PACKAGE}.faults.trainers.processes")
        _SEEDED.enter_context(faults.wrong(fault, number))
    return Rank()


def _by_process(devices: list[Any]) -> Any:
    """A mesh with axes process and local."""
    import numpy as np
    from jax.sharding import Mesh

    processes = sorted({device.process_index for device in devices})
    return Mesh(np.array([[d for d in devices if d.process_index == p] for p in processes]), ("process", "local"))
