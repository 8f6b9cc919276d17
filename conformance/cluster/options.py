"""Options, or a launcher's variables -> how the processes of a run find process 0."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The seconds in which all processes must come: a cluster may start nodes minutes apart.
WAIT = 300
# Options by name -> their type; each can also be set by a variable such as SFTREF_WAIT, as for `sftref train`.
TYPES: dict[str, type] = {"distributed": str, "coordinator": str, "num_processes": int, "process_id": int, "wait": int}
ADDRESS = re.compile(r"([^\s:\[\]]+|\[[0-9a-fA-F:]+\]):(\d{1,5})")
# Launcher -> a variable by which JAX recognizes it (jax/_src/clusters/).
LAUNCHERS = {
    "slurm": "SLURM_PROCID", "openmpi": "OMPI_COMM_WORLD_RANK", "kubernetes": "KUBERNETES_SERVICE_HOST",
    "tpu": "TPU_WORKER_ID",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One process of a run, and how it finds the others.

    Raises:
        ValueError: a number is out of range, or the address has no port.
    """

    coordinator: str  # HOST:PORT of process 0
    processes: int  # P, the number of processes
    process: int  # the number of this process, 0 to P - 1
    wait: int = WAIT  # seconds in which all processes must come
    pairs: int | None = None  # the most rounds of pairs; None plays all P - 1
    launcher: str = "options"  # what started the processes: one of `LAUNCHERS`, or options
    local_devices: tuple[int, ...] = ()  # numbers of the devices that JAX gives this process; empty means all

    def __post_init__(self) -> None:
        if not ADDRESS.fullmatch(self.coordinator):
            raise ValueError(
                f"--coordinator = {self.coordinator!r}, must be HOST:PORT, a free port on process 0's host"
            )
        if self.processes < 2:
            raise ValueError(f"--num-processes = {self.processes}, must be at least 2")
        if not 0 <= self.process < self.processes:
            raise ValueError(f"--process-id = {self.process}, must be 0 to {self.processes - 1}")
        for name in ("wait", "pairs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} = {value}, must be at least 1")

    @property
    def host(self) -> str:
        """The name or address of process 0's host, without brackets."""
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port on which process 0 listens."""
        return int(self.coordinator.rpartition(":")[2])


def cluster_of(args: Mapping[str, Any], variables: Mapping[str, str]) -> Cluster | None:
    """The cluster that options and variables describe; None without any.

    Raises:
        ValueError: some of the options are missing, contradict each other, or no launcher is found.
    """
    values: dict[str, Any] = {}
    for name, kind in TYPES.items():
        value, variable = args.get(name), f"SFTREF_{name.upper()}"
        if value is None and (text := variables.get(variable)):
            if kind is int and not text.isdecimal():
                raise ValueError(f"{variable} = {text!r}, must be a whole number")
            value = kind(text)
        if value is not None:
            values[name] = value
    auto, common = values.pop("distributed", None), {"wait": values.pop("wait", WAIT), "pairs": args.get("pairs")}
    three = [name for name in TYPES if name not in ("distributed", "wait")]
    given = [f"--{name.replace('_', '-')}" for name in three if name in values]
    missing = [f"--{name.replace('_', '-')}" for name in three if name not in values]
    if auto not in (None, "auto"):
        raise ValueError(f"SFTREF_DISTRIBUTED = {auto!r}, must be auto")
    if auto and given:
        raise ValueError(f"--distributed auto with {', '.join(given)}: give one or the other")
    if given and missing:
        raise ValueError(f"{', '.join(given)} without {' and '.join(missing)}: give all three, or --distributed auto")
    if auto:
        return Cluster(**detected(common["wait"], variables), **common)
    if not given:
        if args.get("pairs") is not None:
            raise ValueError("--pairs needs several processes: give --distributed auto, or --coordinator and so on")
        return None
    return Cluster(
        coordinator=values["coordinator"], processes=values["num_processes"], process=values["process_id"], **common
    )


def detected(wait: int, variables: Mapping[str, str]) -> dict[str, Any]:
    """The values of `Cluster` that JAX gets from Slurm, Open MPI, Kubernetes or a TPU pod.

    Raises:
        ValueError: JAX finds no launcher, or a variable of the launcher has a wrong value.
    """
    from jax._src.clusters import ClusterEnv  # what `jax.distributed.initialize` calls; JAX has no public name for it

    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, wait)
    # JAX raises KeyError and others if a variable is missing or has no value that it expects.
    except (ValueError, RuntimeError, LookupError, TypeError, OSError) as error:
        raise ValueError(_none_found(" ".join(f"{type(error).__name__}: {error}".split())[:300])) from error
    coordinator, processes, process, local = found
    if coordinator is None or processes is None or process is None:
        raise ValueError(_none_found("no launcher's variables are set"))
    names = (name for name, variable in LAUNCHERS.items() if variable in variables)
    return {
        "coordinator": str(coordinator), "processes": int(processes), "process": int(process),
        "local_devices": tuple(local or ()), "launcher": next(names, "options"),
    }  # fmt: skip


def _none_found(reason: str) -> str:
    return (
        f"--distributed auto: JAX finds no cluster ({reason}); start with srun, mpirun or Kubernetes, or give "
        "--coordinator, --num-processes and --process-id"
    )


def slurm_hosts(variables: Mapping[str, str], processes: int) -> list[str]:
    """The host of each process under Slurm's block distribution; empty if Slurm's variables do not tell.

    Only a process that never came needs this: the others report their host themselves.
    """
    nodes, counts = variables.get("SLURM_STEP_NODELIST"), variables.get("SLURM_STEP_TASKS_PER_NODE")
    scontrol = shutil.which("scontrol")
    if not (nodes and counts and scontrol):
        return []
    shown = subprocess.run([scontrol, "show", "hostnames", nodes], capture_output=True, text=True, check=False)
    # As in `2(x3),1`: two tasks on each of three nodes, one on the fourth.
    each: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts):
        each += [int(count)] * int(times or 1)
    names = shown.stdout.split()
    hosts = [name for name, count in zip(names, each, strict=False) for _ in range(count)]
    return hosts if len(hosts) == processes else []
