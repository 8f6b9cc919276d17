"""One process of several that `jax.distributed` joins: it does what its pipe says, until that is closed.

`ranks.py` starts it as `python -m sftref.conformance.laws.support.rank PIPE PARENT` and asks its methods by name.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ...core.kit import PACKAGE
from ...workers.process import tied_to
from .messages import CALLS, sent

# Seconds without a sign of life after which JAX takes a process for lost, where it can be told (from 0.7 on).
HEARTBEAT = 10
JOINING = 60


class Rank:
    """What a process can be asked. Everything that comes back can be pickled: NumPy arrays, no JAX ones."""

    def __init__(self) -> None:
        self.mesh: Any = None
        self.subject: Any = None
        self.case: Any = None

    def join(self, coordinator: str, ranks: int, number: int, devices: int, *, light: bool) -> None:
        """Start JAX with so many simulated devices, one process of `ranks`; `light`: compile without optimization."""
        import jax

        from .compilation import OPTION

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
        # Before JAX 0.6 it must be asked for.
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
        """A collective of `messages.CALLS` over some axes of (process, local): what each own device has then.

        Args:
            operation: its name there.
            axes: over which it goes.
            data: [N, size], a row for each device of all processes.
        """
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        from ...core.meshes import shard_map

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
        """The trainer under test."""
        from ...adapter import load_adapter

        self.subject = load_adapter(adapter)

    def call(self, method: str, *arguments: Any) -> Any:
        """A method of the trainer under test."""
        from .trainer_checks import precision

        if method == "start":
            self.case = arguments[0]
        with precision(self.case):
            return getattr(self.subject, method)(*arguments)


def _by_process(devices: list[Any]) -> Any:
    """A mesh with axes process and local."""
    import numpy as np
    from jax.sharding import Mesh

    processes = sorted({device.process_index for device in devices})
    return Mesh(np.array([[d for d in devices if d.process_index == p] for p in processes]), ("process", "local"))


def serve(pipe: Connection, rank: Rank) -> None:
    """Answer (method, arguments, keywords) by (result, None) or (None, what went wrong), until the pipe is closed."""
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            method, arguments, keywords = pipe.recv()
            try:
                pipe.send((getattr(rank, method)(*arguments, **keywords), None))
            except Exception as error:  # it is the one who asked to whom this is to be told
                pipe.send((None, f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"))


def main() -> None:
    """Serve the pipe PIPE of the process PARENT; with a third word, wrongly: as a seeded fault says."""
    descriptor, parent, *fault = sys.argv[1:]
    tie = tied_to(int(parent))
    if tie is not None:
        tie()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    pipe = Connection(int(descriptor))
    # Not this file's class where it runs as __main__: faults are seeded in the one that others import.
    made: Callable[[], Rank] = importlib.import_module(f"{__package__}.rank").Rank
    seeded: Any = contextlib.nullcontext()
    if fault:
        seeded = importlib.import_module(f"{PACKAGE}.faults.trainers.processes").wrong(fault[0], int(fault[1]))
    with seeded:
        serve(pipe, made())
    # Without JAX's way out, which would wait for the others.
    os._exit(0)


if __name__ == "__main__":
    main()
