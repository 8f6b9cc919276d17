"""Which process of how many this is -> processes joined by `jax.distributed`, which have compared what they will run.

JAX's coordination service joins the processes, watches their heartbeats and ends the others when one is lost. This file
adds names and deadlines: a lost process is named, no process waits for ever, and all compare configuration, data and
program before the first step.
"""

import hashlib
import inspect
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sftref.config import ConfigError, require, require_range

# Seconds in which all processes must join. JAX's own default: a cluster may start its nodes minutes apart.
WAIT = 300
# Seconds without a heartbeat after which a process is lost. JAX's default is 100; a network cut for 4 s recovers within
# 10 (measured). At the end the others wait as long as JAX lets them, while the first one writes.
HEARTBEAT = 10
# The exit code of a run that lost a process, the same as of the kit's verdict UNRESPONSIVE.
LOST = 3
# JAX's client writes this when the coordination service is gone: at once, or after a time without an answer.
SERVICE_GONE = (
    r"(?is)coordination[ _]?service.{0,600}(socket closed|connection (reset|refused)|failed to connect)"
    r"|deadline exceeded\s+RPC: \S*CoordinationService/Heartbeat"
)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """How the processes of a run find each other; it changes no result.

    Attributes:
        auto: JAX finds the processes: Slurm, Open MPI, Kubernetes, Cloud TPU.
        coordinator: HOST:PORT of process 0, with the next two, where JAX cannot find them.
        num_processes: P.
        process_id: of this one, 0 .. P - 1.
        wait: seconds in which all must join.

    Raises:
        ConfigError: the three are given only in part, or with `auto`, or are out of range.
    """

    auto: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    wait: int = WAIT

    def __post_init__(self) -> None:
        options = {
            "--coordinator": self.coordinator,
            "--num-processes": self.num_processes,
            "--process-id": self.process_id,
        }
        present = [name for name, value in options.items() if value is not None]
        missing = [name for name, value in options.items() if value is None]
        require(
            not (present and missing),
            f"{', '.join(present)} without {' and '.join(missing)}: give all three, or --distributed auto",
        )
        require(
            not (self.auto and present),
            f"--distributed auto with {', '.join(present)}: give one or the other",
        )
        require_range("--wait", self.wait, 1)
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            return
        require(
            re.fullmatch(r"[^\s:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", self.coordinator) is not None,
            f"--coordinator = {self.coordinator!r}, must be HOST:PORT, a free port of the machine of process 0",
        )
        require_range("--num-processes", self.num_processes, 1)
        require_range("--process-id", self.process_id, 0, self.num_processes - 1)

    @property
    def several(self) -> bool:
        """Whether there are processes to join."""
        return self.auto or self.coordinator is not None


def join(cluster: Cluster) -> int:
    """Join the processes; their number. To be called once, before JAX starts a backend.

    Raises:
        ConfigError: JAX finds no cluster, or not all joined in time.
    """
    import jax

    if not cluster.several:
        return 1
    # The default from JAX 0.6 on.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    limits: dict[str, Any] = {"initialization_timeout": cluster.wait, "heartbeat_timeout_seconds": HEARTBEAT}
    known = inspect.signature(jax.distributed.initialize).parameters
    limits = {name: value for name, value in limits.items() if name in known}
    try:
        jax.distributed.initialize(cluster.coordinator, cluster.num_processes, cluster.process_id, **limits)
    except (ValueError, RuntimeError) as error:  # XLA raises the latter: a deadline, an address in use
        raise ConfigError(_not_joined(cluster, " ".join(str(error).split())[:300])) from error
    # `jax.process_count()` would start the backend, whose number of simulated devices depends on this number.
    from jax._src import distributed

    return int(distributed.global_state.num_processes or 1)


def _not_joined(cluster: Cluster, reason: str) -> str:
    if cluster.auto:
        return (
            f"--distributed auto: JAX cannot join a cluster here ({reason}); start with srun, mpirun or Kubernetes, "
            "or give --coordinator, --num-processes and --process-id"
        )
    return (
        f"--coordinator {cluster.coordinator}: process {cluster.process_id} did not join the "
        f"{cluster.num_processes} processes within --wait {cluster.wait} s ({reason}); start all of them, with an "
        "address that each can reach"
    )


def compiler_flags() -> list[str]:
    """The flags in XLA_FLAGS, without the number of simulated devices, which may differ between processes."""
    words = os.environ.get("XLA_FLAGS", "").split()
    return sorted(word for word in words if "xla_force_host_platform_device_count" not in word)


def digest(value: Any) -> bytes:
    """SHA-256 of an array, or of a value that JSON can hold: 32 bytes."""
    sha256 = hashlib.sha256()
    if isinstance(value, np.ndarray):
        sha256.update(f"{value.dtype} {value.shape}".encode())
        sha256.update(np.ascontiguousarray(value).data)
    else:
        sha256.update(json.dumps(value, sort_keys=True, default=str).encode())
    return sha256.digest()


def agree(values: Mapping[str, bytes]) -> None:
    """Compare what the processes are about to run.

    Args:
        values: name -> digest of 32 bytes; the same names in each process.

    Raises:
        ConfigError: in every process, naming the first value that differs and the processes that differ from most.
    """
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return
    mine = np.stack([np.frombuffer(value, np.uint8) for value in values.values()])
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    for k, name in enumerate(values):
        rows = [row.tobytes() for row in everyone[:, k]]
        usual = max(rows, key=rows.count)
        odd = [process for process, row in enumerate(rows) if row != usual]
        require(
            not odd,
            f"{name} of process {', '.join(map(str, odd))} differs from that of the other {len(rows) - len(odd)}; "
            "all processes must run the same: compare their logs, files and versions",
        )


def lost(words: str) -> list[int]:
    """The numbers of the processes that JAX's coordination service names as lost in these lines.

    If the service itself cannot be reached, it is process 0, where it runs.
    """
    numbers = set[int]()
    for tasks in re.findall(r"stopped sending heartbeats\):\s+((?:\S*\d+\s+)+?)The tasks", words):
        numbers |= {int(number) for number in re.findall(r"(\d+)\s", tasks)}
    if not numbers and re.search(SERVICE_GONE, words):
        numbers = {0}
    return sorted(numbers)
