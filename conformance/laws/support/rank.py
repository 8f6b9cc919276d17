"""One of several processes that `jax.distributed` joins: the methods that `process_group.py` calls in it."""

import atexit
import contextlib
import importlib
import inspect
import os
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ...adapter import load_adapter
from ...core.kit import PACKAGE
from ...machine.meshes import shard_map
from .compilation import OPTION, precision
from .guarded import Guarded
from .messages import AXES, COLLECTIVES, sent

# Seconds without a heartbeat after which JAX considers a process lost (set from JAX 0.7 on), and seconds to join.
HEARTBEAT = 10
JOINING = 60


class Rank:
    """Methods that run in the process. Their results can be pickled: NumPy arrays, not JAX arrays."""

    def __init__(self) -> None:
        self.mesh: Any = None
        self.subject: Any = None
        self.case: Any = None

    def join(self, coordinator: str, ranks: int, number: int, devices: int, *, light: bool) -> None:
        """Start JAX with `devices` simulated devices as process `number` of `ranks`; `light`: no optimizations."""
        # JAX's exit handler waits for the other processes. This one, registered later, ends the process first.
        atexit.register(os._exit, 0)
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
        # gloo is the default from JAX 0.6 on.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.config.update(OPTION, light)
        known = inspect.signature(jax.distributed.initialize).parameters
        limits: dict[str, Any] = {name: HEARTBEAT for name in ("heartbeat_timeout_seconds",) if name in known}
        jax.distributed.initialize(coordinator, ranks, number, initialization_timeout=JOINING, **limits)

    def devices(self) -> dict[str, Any]:
        """This process's number, the number of processes, and the devices that it sees, as (number, process)."""

        def named(devices: list[Any]) -> list[tuple[int, int]]:
            return [(device.id, device.process_index) for device in devices]

        every, own = named(jax.devices()), named(jax.local_devices())
        return {"process": jax.process_index(), "processes": jax.process_count(), "all": every, "own": own}

    def collective(self, operation: str, axes: tuple[str, ...], data: Any) -> dict[int, Any]:
        """Run one of `messages.COLLECTIVES` over some axes of (process, local): results of this process's devices.

        `data` [N, size] has a row for each device of all processes.
        """
        if self.mesh is None:
            processes = range(jax.process_count())
            grid = [[device for device in jax.devices() if device.process_index == p] for p in processes]
            self.mesh = Mesh(np.array(grid), AXES)
        rows = PartitionSpec(self.mesh.axis_names)
        collective = COLLECTIVES[operation][0]
        program = jax.jit(shard_map(lambda x: collective(x[0], axes)[None], self.mesh, rows, rows, check=False))
        return sent(program, NamedSharding(self.mesh, rows), data)

    def spin(self, seconds: float) -> None:
        """Add up over all devices again and again, as a training loop does."""
        until = time.monotonic() + seconds
        data = np.ones((self.mesh.size, 1024), np.float32)
        while time.monotonic() < until:
            self.collective("psum", self.mesh.axis_names, data)

    def load(self, adapter: str) -> None:
        """Load the trainer under test."""
        self.subject = Guarded(load_adapter(adapter), adapter)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the trainer under test."""
        if method == "start":
            self.case = arguments[0]
        with precision(self.case):
            return getattr(self.subject, method)(*arguments)


# A fault that is seeded until the process ends.
_SEEDED = contextlib.ExitStack()


def make(number: int, fault: str | None = None) -> Rank:
    """The `Rank` of this process; if a fault is named, it is seeded in the process."""
    if fault is not None:
        faults = importlib.import_module(f"{PACKAGE}.faults.trainers.processes")
        _SEEDED.enter_context(faults.wrong(fault, number))
    return Rank()
