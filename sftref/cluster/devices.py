"""Configuration -> JAX devices: starts the backend once, with simulated devices on a machine with a CPU only.

By default one process simulates as many devices as it may use cores, 2 to 8. More devices than cores compute nothing
faster, and each has its own parameters, moments and gradients: with MiniLM on two cores, 8 devices took 1.5 times as
long for an update of 32 examples as one device, and 3 times the memory (`tests/studies/waits`). Several processes
simulate 8 devices in all, the same number each.
"""

from __future__ import annotations

import contextlib
import math
import os
from typing import TYPE_CHECKING

from sftref.cluster.distributed import Cluster, join
from sftref.config import ConfigError, TrainConfig, one_line, require

if TYPE_CHECKING:
    import jax

SIMULATED = 8
MOST_SIMULATED = 64
ALONE = Cluster()
LENIENT = {
    "jax_transfer_guard": "allow", "jax_numpy_dtype_promotion": "standard", "jax_numpy_rank_promotion": "allow",
}  # fmt: skip


def start(config: TrainConfig, cluster: Cluster = ALONE) -> list[jax.Device]:
    """Start JAX for a run and return its devices; to be called before any other use of JAX's devices.

    On a machine with a CPU only, the devices are simulated.

    Args:
        config: gives precision, trainer, mesh and number of devices.
        cluster: how several processes find each other; they join first.

    Raises:
        ConfigError: too few devices are available, or the processes cannot share them, or do not join.
    """
    import jax

    jax.config.update("jax_enable_x64", config.precision == "float64")
    # Debugging aids which a shell may set for other programs; Flax, optax and the placing of batches do not pass them.
    for name, value in LENIENT.items():
        jax.config.update(name, value)
    shape = config.mesh_shape
    wanted = 1 if config.trainer == "single" else config.devices if shape is None else math.prod(shape.values())
    processes = join(cluster)
    require(
        processes == 1 or config.trainer != "single",
        f"--trainer single with {processes} processes: this trainer uses one device; choose --trainer pmap or mesh",
    )
    require(
        (wanted or SIMULATED) % processes == 0,
        f"--devices = {wanted or SIMULATED}, must be a multiple of the {processes} processes",
    )
    # If the user set a number of simulated devices, it is kept: JAX accepts no other number beside that of XLA_FLAGS.
    if not _own_number():
        simulated = max(SIMULATED, wanted or 0)
        require(
            simulated <= MOST_SIMULATED,
            f"--devices = {wanted}, must be at most {MOST_SIMULATED} simulated devices",
        )
        # JAX raises an error if a backend already runs, as in a notebook; then the devices of that backend are used.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", (wanted or SIMULATED) // processes if processes > 1 else simulated)
    devices = _devices()
    if processes > 1:
        return _shares(devices, wanted, processes)
    default = by_default() if devices[0].platform == "cpu" and not _own_number() else len(devices)
    count = min(default, len(devices)) if wanted is None else wanted
    source = f" that {_own_number()} sets" if _own_number() and devices[0].platform == "cpu" else " of this machine"
    require(
        count <= len(devices),
        f"--devices = {count}, must be at most {len(devices)}, the {devices[0].platform} devices{source}",
    )
    return devices[:count]


def by_default() -> int:
    """The number of simulated devices of one process: one for each core that it may use, 2 to `SIMULATED`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(SIMULATED, max(2, cores))


def _own_number() -> str:
    """The variable in which the user set a number of simulated devices, if any."""
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return "XLA_FLAGS"
    return "JAX_NUM_CPU_DEVICES" if os.environ.get("JAX_NUM_CPU_DEVICES") else ""


def _devices() -> list[jax.Device]:
    """JAX's devices; starts the backend.

    Raises:
        ConfigError: the backend does not start, as with a JAX_PLATFORMS that this machine lacks.
    """
    import jax

    try:
        return jax.devices()
    except RuntimeError as error:
        names = [name for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME") if os.environ.get(name)]
        variables = ", ".join(f"{name}={os.environ[name]}" for name in names)
        way = f"unset {' and '.join(names)}, or install what it names" if names else "`sftref env` examines the machine"
        raise ConfigError(f"{variables or 'JAX'}: no backend starts ({one_line(error)}); {way}") from error


def _shares(devices: list[jax.Device], wanted: int | None, processes: int) -> list[jax.Device]:
    """The first devices of each process, the same number from each, in the order of the processes."""
    by_process = [[d for d in devices if d.process_index == process] for process in range(processes)]
    counts = [len(several) for several in by_process]
    require(
        len(set(counts)) == 1 or wanted is not None,
        f"all processes must see the same number of devices; got {', '.join(map(str, counts))}: give --devices, or "
        "compare the variables that hide devices (such as CUDA_VISIBLE_DEVICES)",
    )
    each = counts[0] if wanted is None else wanted // processes
    require(
        each <= min(counts),
        f"--devices = {wanted}, must be at most {processes * min(counts)}: {min(counts)} in each of the {processes} "
        "processes",
    )
    return [device for several in by_process for device in several[:each]]
