"""Which process of how many this is -> JAX's processes joined (`jax.distributed`), agreed on what they run.

Nothing here is home-made: JAX's coordination service joins the processes, watches their heartbeats and ends those that
are left when one is lost. What is added is what a person needs: one that is lost is named, nobody waits for ever, and
no step is taken before all processes have compared what they are about to run.
"""

from __future__ import annotations

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

# Seconds in which all processes must have come. JAX's own default: a cluster may start its nodes minutes apart.
WAIT = 300
# Seconds without a sign of life after which a process is lost. JAX's default is 100; a partition of the network that
# lasts 4 s heals within 10 (measured). At the end the others wait as long as JAX lets them, while the first one writes.
HEARTBEAT = 10
# The exit code of a run that lost a process, as that of the kit's verdict UNRESPONSIVE.
LOST = 3
# How JAX's client says that nobody answers it any more: at once, or after a time without an answer.
SERVICE_GONE = (
    r"(?is)coordination[ _]?service.{0,600}(socket closed|connection (reset|refused)|failed to connect)"
    r"|deadline exceeded\s+RPC: \S*CoordinationService/Heartbeat"
)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """How the processes of a run find each other; nothing in it changes a number that is computed.

    Attributes:
        auto: have JAX find out: Slurm, Open MPI, Kubernetes, Cloud TPU.
        coordinator: HOST:PORT of process 0, with the two below, where JAX cannot find out.
        num_processes: P.
        process_id: of this one, 0 .. P - 1.
        wait: seconds in which all must have come.

    Raises:
        ConfigError: the three are not given together, or beside `auto`, or are out of range.
    """

    auto: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    wait: int = WAIT

    def __post_init__(self) -> None:
        by_hand = {
            "--coordinator": self.coordinator,
            "--num-processes": self.num_processes,
            "--process-id": self.process_id,
        }
        given = [name for name, value in by_hand.items() if value is not None]
        missing = [name for name, value in by_hand.items() if value is None]
        require(
            not (given and missing),
            f"{', '.join(given)} without {' and '.join(missing)}: all three go together; or give --distributed auto",
        )
        require(
            not (self.auto and given),
            f"--distributed auto with {', '.join(given)}: JAX finds them out, or you say them; leave one out",
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
        """Whether there is anything to join."""
        return self.auto or self.coordinator is not None


def join(cluster: Cluster) -> int:
    """Join the processes, before JAX starts a backend; the number of processes. Once in a process's life.

    Raises:
        ConfigError: JAX finds no cluster, or not all came in time.
    """
    import jax

    if not cluster.several:
        return 1
    # Before JAX 0.6 it must be asked for; from then on it is the default.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    limits: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT}
    known = inspect.signature(jax.distributed.initialize).parameters
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.num_processes,
            cluster.process_id,
            initialization_timeout=cluster.wait,
            **{name: value for name, value in limits.items() if name in known},
        )
    except (ValueError, RuntimeError) as error:  # the latter of XLA: a deadline, an address in use
        raise ConfigError(_not_joined(cluster, " ".join(str(error).split())[:300])) from error
    # JAX says how many there are only once its backend runs; the number of simulated devices depends on it.
    from jax._src import distributed

    return int(distributed.global_state.num_processes or 1)


def _not_joined(cluster: Cluster, reason: str) -> str:
    if cluster.auto:
        return (
            f"--distributed auto: JAX cannot join a cluster here ({reason}); start it by srun, mpirun or Kubernetes, "
            "or give --coordinator, --num-processes and --process-id"
        )
    return (
        f"--coordinator {cluster.coordinator}: process {cluster.process_id} did not join the "
        f"{cluster.num_processes} processes within --wait {cluster.wait} s ({reason}); start them all, with an address "
        "that each of them reaches"
    )


def compiler_flags() -> list[str]:
    """What XLA_FLAGS says, but for the number of simulated devices: processes may differ in it."""
    words = os.environ.get("XLA_FLAGS", "").split()
    return sorted(word for word in words if "xla_force_host_platform_device_count" not in word)


def digest(value: Any) -> bytes:
    """32 bytes that tell values apart: of arrays, or of anything that JSON can hold."""
    found = hashlib.sha256()
    if isinstance(value, np.ndarray):
        found.update(f"{value.dtype} {value.shape}".encode())
        found.update(np.ascontiguousarray(value).data)
    else:
        found.update(json.dumps(value, sort_keys=True, default=str).encode())
    return found.digest()


def agree(values: Mapping[str, bytes]) -> None:
    """Compare what each process is about to run; the same names on all of them, a digest each.

    Raises:
        ConfigError: on every process, naming the first thing that differs and the processes that differ from most.
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


def broadcast(text: str) -> str:
    """The text of process 0, at most 4,096 bytes, on every process."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return text
    data = text.encode()
    require(len(data) <= 4096, f"text of {len(data)} bytes, must be at most 4096")
    padded = np.frombuffer(data.ljust(4096, b"\0"), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))).rstrip(b"\0").decode()


def lost(words: str) -> list[int]:
    """The processes that JAX's coordination service names in these lines as lost, by number.

    It is process 0 if the service itself is out of reach: it runs there.
    """
    found = set[int]()
    for named in re.findall(r"stopped sending heartbeats\):\s+((?:\S*\d+\s+)+?)The tasks", words):
        found |= {int(number) for number in re.findall(r"(\d+)\s", named)}
    if not found and re.search(SERVICE_GONE, words):
        found = {0}
    return sorted(found)
