"""A process's number, the number of processes -> joined processes, which then compare what they are about to run.

JAX's coordination service joins the processes, watches their heartbeats and ends the others when one is lost. This file
adds three things: it names a lost process, it limits how long a process waits, and all processes compare configuration,
data and program before the first step.
"""

import contextlib
import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sftref.config import ConfigError, require, require_range

# Seconds in which all processes must join. This is JAX's default, because a cluster may start nodes minutes apart.
WAIT = 300
# Seconds without a heartbeat after which a process counts as lost. JAX's default is 100. After a network failure of 4
# seconds, heartbeats were back within 10 (measured). At the end of a run the others wait in JAX while process 0 writes.
HEARTBEAT = 10
# Variables by which JAX recognises a launcher (jax/_src/clusters/).
LAUNCHERS = (
    "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE",
    "KUBERNETES_SERVICE_HOST", "JAX_COORDINATOR_ADDRESS",
)  # fmt: skip
# The exit code of a run that lost a process; the kit's verdict UNRESPONSIVE has the same code.
LOST = 3
# What JAX's client writes when the coordination service is gone: at once, or after a time without an answer.
SERVICE_GONE = (
    r"(?is)coordination[ _]?service.{0,600}(socket closed|connection (reset|refused)|failed to connect)"
    r"|deadline exceeded\s+RPC: \S*CoordinationService/Heartbeat"
)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """How the processes of a run find each other. No result depends on this.

    Attributes:
        auto: JAX gets the next three values from Slurm, Open MPI, Kubernetes or Cloud TPU.
        coordinator: HOST:PORT of process 0.
        num_processes: P, the number of processes.
        process_id: the number of this process, 0 .. P - 1.
        wait: seconds in which all processes must join, and each step must end.

    Raises:
        ConfigError: only some of the three values are given, or they are given with `auto`, or one is out of range.
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
        """Whether this process must join others."""
        return self.auto or self.coordinator is not None


def join(cluster: Cluster) -> int:
    """Join the processes, and return their number. Call this once, before JAX starts a backend.

    Raises:
        ConfigError: JAX finds no cluster, or not all processes joined in time.
    """
    import jax

    if not cluster.several:
        return 1
    # This is JAX's default from 0.6 on.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    limits: dict[str, Any] = {"initialization_timeout": cluster.wait, "heartbeat_timeout_seconds": HEARTBEAT}
    known = inspect.signature(jax.distributed.initialize).parameters
    limits = {name: value for name, value in limits.items() if name in known}
    try:
        with without_proxies():
            jax.distributed.initialize(cluster.coordinator, cluster.num_processes, cluster.process_id, **limits)
    # XLA raises RuntimeError: deadline, address in use. JAX raises KeyError and others if a launcher's variable is
    # missing or has no value that it expects.
    except (ValueError, RuntimeError, LookupError, TypeError, OSError) as error:
        missing = f"{error.args[0]} is not set" if isinstance(error, KeyError) else " ".join(str(error).split())[:300]
        raise ConfigError(_not_joined(cluster, missing)) from error
    # `jax.process_count()` would start the backend before the number of simulated devices is set.
    from jax._src import distributed

    return int(distributed.global_state.num_processes or 1)


@contextlib.contextmanager
def without_proxies() -> Iterator[None]:
    """In the block, the environment names no proxy: gRPC would connect the processes through it, and hang.

    Processes of one run connect directly. JAX warns of any such variable, and advises to unset it
    (https://github.com/jax-ml/jax/issues/22995).
    """
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.lower().endswith("_proxy")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def launcher_variables(variables: Mapping[str, str]) -> list[str]:
    """The names of the variables by which JAX recognises a launcher, if they are set."""
    return [name for name in LAUNCHERS if name in variables]


def _not_joined(cluster: Cluster, reason: str) -> str:
    if cluster.auto:
        present = launcher_variables(os.environ)
        left = (
            f"; {', '.join(present)} may be left over from another job: unset {'it' if len(present) == 1 else 'them'}"
        )
        return (
            f"--distributed auto: JAX cannot join a cluster here ({reason}); start with srun, mpirun or Kubernetes, "
            f"or give --coordinator, --num-processes and --process-id{left if present else ''}"
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
    """Check that all processes are about to run the same configuration, data and program.

    Args:
        values: name -> digest of 32 bytes; the same names in each process.

    Raises:
        ConfigError: a value differs. All processes raise this error, which names the first such value and the processes
        in the minority.
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
    """The numbers of the processes that JAX's coordination service names as lost in `words`, a process's output.

    If the service cannot be reached, process 0 is lost, because the service runs there.
    """
    numbers = set[int]()
    for tasks in re.findall(r"stopped sending heartbeats\):\s+((?:\S*\d+\s+)+?)The tasks", words):
        numbers |= {int(number) for number in re.findall(r"(\d+)\s", tasks)}
    if not numbers and re.search(SERVICE_GONE, words):
        numbers = {0}
    return sorted(numbers)
