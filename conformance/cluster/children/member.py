"""One member of a group of processes: joins the others on its own devices, and runs exact collectives with them.

It runs in a child of an agent (`agent.py`), so that a hang, a crash or an exception ends the child only.
"""

import atexit
import inspect
import os
import time
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax._src.distributed import global_state  # JAX has no public name for the store of joined processes
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ...core.settings import Settings, start_jax
from ...faults import cluster as faults
from ...laws.support.messages import AXES, COLLECTIVES, expected, groups, sent
from ...machine.meshes import coded, shard_map

# The most bytes of a message times devices: every process knows the data of all devices.
MOST_BYTES = 1 << 28
# Seconds that the others have to end their last task.
LEAVE = 30
# Seconds without a heartbeat after which JAX ends the members. The agents and process 0 notice a lost one earlier.
HEARTBEAT = 600


class Member:
    """The process `number` of the group `members`, which are numbers of processes of the run."""

    def __init__(self, members: Sequence[int], number: int, settings: Settings) -> None:
        self.members, self.number, self.settings = list(members), number, settings
        self.devices: list[Any] = []

    def join(self, coordinator: str, seconds: int) -> int:
        """Start JAX and join the others within `seconds`; returns the number of devices of this process.

        Raises:
            RuntimeError: the members have different numbers of devices, or did not all join.
        """
        # JAX's exit handler waits for the others. This one, registered later, ends the process first.
        atexit.register(os._exit, 0)
        start_jax(self.settings)
        # gloo is the default from JAX 0.6 on.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        known = inspect.signature(jax.distributed.initialize).parameters
        # Not the variables of the launcher, which describe the whole job.
        limits: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT, "cluster_detection_method": "deactivate"}
        limits = {name: value for name, value in limits.items() if name in known}
        jax.distributed.initialize(
            coordinator, len(self.members), self.number, initialization_timeout=seconds, **limits
        )
        most = self.settings.devices
        each = [[d for d in jax.devices() if d.process_index == k][:most] for k in range(len(self.members))]
        counts = [len(several) for several in each]
        if len(set(counts)) > 1:
            shown = ", ".join(f"{count} in process {k}" for k, count in zip(self.members, counts, strict=True))
            raise RuntimeError(f"all processes must have the same number of devices: {shown}; give --devices")
        self.devices = [device for several in each for device in several]
        return counts[0]

    def leave(self) -> None:
        """Wait until the others have ended their tasks too, since the first member's process serves JAX's store."""
        client: Any = global_state.client
        client.key_value_set(f"sftref/left/{self.number}", "1")
        for number in range(len(self.members)) if self.number == 0 else ():
            client.blocking_key_value_get(f"sftref/left/{number}", 1000 * LEAVE)

    def exchange(self, operation: str, size: int, width: int = 1, axes: Sequence[str] = AXES) -> dict[str, Any]:
        """Run one of `messages.COLLECTIVES` twice, and compare this process's results bit for bit with NumPy's.

        Args:
            operation: its name.
            size: bytes of a device's message, or of what it gathers; on many devices it is smaller.
            width: how many neighbouring processes form a row of the grid (rows, devices of a row).
            axes: the axes of that grid which the collective joins: `process` goes across rows, `local` along them.

        Returns:
            `bytes` of a message; `seconds` of the second run, without compilation; `wrong`: [sender, receiver, share of
            wrong elements] for each pair of processes with a wrong message; the sender is -1 where sums hide it.
        """
        n, each = len(self.devices), len(self.devices) // len(self.members)
        shape = len(self.members) // width, width * each
        own = min(size, MOST_BYTES // n) // (n if operation == "all_gather" else 1)
        count = -(-own // 4 // n) * n
        rng = np.random.default_rng([self.settings.seed, zlib.crc32(operation.encode()), size, width])
        data = coded(rng, n, count, np.dtype(np.float32))
        among = groups(shape, axes)
        want = expected(operation, data, among)
        mesh = Mesh(np.array(self.devices).reshape(shape), AXES)
        rows = PartitionSpec(AXES)
        collective = COLLECTIVES[operation][0]
        program = jax.jit(shard_map(lambda x: collective(x[0], tuple(axes))[None], mesh, rows, rows, check=False))
        place, wrong, seconds = NamedSharding(mesh, rows), dict[tuple[int, int], float](), 0.0
        for _ in range(2):
            began = time.monotonic()
            got = faults.received(sent(program, place, data), self, operation, size)
            seconds = time.monotonic() - began
            for row, values in got.items():
                group = next(group for group in among if row in group)
                for sender, share in self._wrong(operation, row, values, want[row], group, each):
                    wrong[sender, self.members[row // each]] = share
        found = [[sender, receiver, share] for (sender, receiver), share in sorted(wrong.items())]
        return {"bytes": count * 4, "seconds": seconds, "wrong": found}

    def _wrong(
        self, operation: str, row: int, got: Any, want: Any, group: list[int], each: int
    ) -> list[tuple[int, float]]:
        """(sender, share of wrong elements) for each sender from which the device `row` has something wrong."""
        if got.shape != want.shape:
            return [(-1, 1.0)]
        differs = got.view(np.uint32) != want.view(np.uint32)
        if not differs.any():
            return []
        processes = list(dict.fromkeys(self.members[member // each] for member in group))
        if operation in ("all_gather", "all_to_all"):
            blocks = differs.reshape(len(group), -1)
            senders = [self.members[member // each] for member in group]
            return [(sender, float(block.mean())) for sender, block in zip(senders, blocks, strict=True) if block.any()]
        if operation == "ppermute":
            return [(self.members[group[group.index(row) - 1] // each], float(differs.mean()))]
        # The other one of two; a sum over more does not show who sent what.
        others = [process for process in processes if process != self.members[row // each]]
        return [(others[0] if len(others) == 1 else -1, float(differs.mean()))]
