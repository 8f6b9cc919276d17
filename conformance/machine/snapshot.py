"""This machine and interpreter -> everything that affects the computed numbers: versions, variables, devices, settings.

`static` does not import JAX. `live` starts JAX's backend, so it is called only when such a start is known to succeed.
"""

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .versions import release

# Installed packages that compute, place or move numbers, or that run the checks.
PACKAGES = re.compile(
    r"(jax|jaxlib|jax[-_].*|libtpu.*|nvidia[-_].*|.*rocm.*|flax|optax|orbax[-_]checkpoint|numpy|scipy|ml[-_]dtypes"
    r"|hypothesis|pytest|sftref)",
    re.IGNORECASE,
)
# Packages that may add a platform to JAX without an entry point for plugins.
ACCELERATOR = re.compile(r"jax[-_].*(plugin|pjrt|metal).*|libtpu.*", re.IGNORECASE)
PREFIXES = (
    "JAX_", "XLA_", "TF_", "ROCM_", "HIP_", "HSA_", "ROCR_", "AMD_", "MIOPEN_", "NCCL_", "RCCL_", "CUDA_", "NVIDIA_",
    "GPU_", "TPU_", "LIBTPU_", "OMP_", "DEBUG_HIP_", "ROCPROFILER_", "SFTREF_",
)  # fmt: skip
NAMES = ("LD_LIBRARY_PATH", "LD_PRELOAD", "LLVM_PATH", "NPROC", "PYTHONPATH", "PYTHONHASHSEED")
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY", re.IGNORECASE)
DRIVERS = {"amdgpu": Path("/sys/module/amdgpu/version"), "nvidia": Path("/proc/driver/nvidia/version")}
# The first release of JAX whose compilation cache is used. With 0.5.3, programs for eight CPU devices that another
# process had compiled crashed (SIGSEGV; SIGABRT with "corrupted double-linked list") in 10 of 24 checks of rung 7, and
# one gave a wrong loss. The same checks passed without the cache, and with a cache under 0.6.2, 0.7.2 and later.
KEEPS_PROGRAMS = (0, 6)
CONFIG = (
    "jax_default_matmul_precision", "jax_threefry_partitionable", "jax_default_prng_impl", "jax_enable_x64",
    "jax_numpy_dtype_promotion", "jax_platforms", "jax_pmap_shmap_merge",
)  # fmt: skip


def static(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Versions, the machine, and the variables of the environment that reach JAX and its plugins."""
    environment = os.environ if variables is None else variables
    versions = {"python": platform.python_version()}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name and PACKAGES.fullmatch(name):
            # Of two packages with the same name, Python imports the first one on its path.
            versions.setdefault(name.lower().replace("_", "-"), distribution.version)
    drivers = {name: path.read_text(errors="replace").split("\n")[0].strip()
               for name, path in DRIVERS.items() if path.is_file()}  # fmt: skip
    return {
        "versions": dict(sorted(versions.items())),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": cores()},
        "drivers": drivers,
        "variables": {
            name: "(hidden)" if SECRET.search(name) else value
            for name, value in sorted(environment.items())
            if name.startswith(PREFIXES) or name in NAMES
        },
    }


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def live(limit: int | None) -> dict[str, Any]:
    """The first `limit` devices (None: all) and JAX's settings; starts JAX's backend if it is not started yet."""
    import jax

    devices = jax.devices()[:limit]
    client = devices[0].client
    names = platform_names(devices[0].platform, str(client.platform_version))
    return {
        "platforms": names,
        "simulated": names == ["cpu"],
        "platform_version": str(client.platform_version).strip(),
        "devices": [
            {"id": d.id, "kind": d.device_kind, "platform": d.platform, "capability": capability(d)} for d in devices
        ],
        "pmap": pmap_is(jax.__version__, getattr(jax.config, "jax_pmap_shmap_merge", None)),
        "config": {name: _plain(getattr(jax.config, name, None)) for name in CONFIG},
    }


def capability(device: Any) -> str:
    """The architecture of a device: gfx942 of an MI300X, 9.0 of an H100; empty if it has none."""
    return str(getattr(device, "compute_capability", None) or "").split(":")[0]


def is_kind(device: Any, kind: str) -> bool:
    """Whether `kind`, as in --expect rocm:8:gfx942, is a part of a device's name, or is its architecture.

    An NVIDIA architecture can be written as 9.0, sm_90 or sm90.
    """
    wanted, architecture = kind.lower(), capability(device).lower()
    number = architecture.replace(".", "")
    return wanted in str(device.device_kind).lower() or wanted in (architecture, f"sm_{number}", f"sm{number}")


def keeps_programs(versions: Mapping[str, str]) -> bool:
    """Whether the installed JAX can run programs that another process compiled and cached."""
    return "jax" in versions and release(versions["jax"]) >= KEEPS_PROGRAMS


def pmap_is(version: str, merged: bool | None) -> str:
    """How `jax.pmap` is implemented: from JAX 0.8 on as `jit` of `shard_map`, unless an option selects the older way.

    Source: https://docs.jax.dev/en/latest/migrate_pmap.html. A library can set that option: optax did before 0.2.8
    (https://newreleases.io/project/github/google-deepmind/optax/release/v0.2.8).
    """
    if merged is False or (merged is None and release(version) < (0, 8)):
        return "an implementation of its own, independent of jit of a mesh"
    return "jit of shard_map"


def foreseen(platform: str | None) -> list[str]:
    """["cpu"] if JAX can only choose the CPU; empty if only a start of JAX can tell. Does not start JAX."""
    wanted = platform or os.environ.get("JAX_PLATFORMS") or None
    names = {each.metadata["Name"] or "" for each in importlib.metadata.distributions()}
    accelerated = bool(importlib.metadata.entry_points(group="jax_plugins")) or any(map(ACCELERATOR.fullmatch, names))
    return ["cpu"] if wanted == "cpu" or (wanted is None and not accelerated) else []


def platform_names(name: str, version: str) -> list[str]:
    """The names of a platform, from general to exact: cpu, tpu, or gpu and its vendor's."""
    if name not in ("gpu", "cuda", "rocm"):
        return [name]
    return ["gpu", "rocm" if name == "rocm" or "rocm" in version.lower() else "cuda"]


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
