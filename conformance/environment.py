"""This machine and this interpreter -> what decides the numbers computed here: versions, variables, devices, settings.

`static` imports no JAX and starts nothing; `live` asks JAX, and is called where JAX is known to answer.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Distributions that compute, place or move numbers, and those that run the checks.
PACKAGES = re.compile(
    r"(jax|jaxlib|jax[-_].*|libtpu.*|nvidia[-_].*|.*rocm.*|flax|optax|orbax[-_]checkpoint|numpy|scipy|ml[-_]dtypes"
    r"|hypothesis|pytest|sftref)",
    re.IGNORECASE,
)
# Those that bring JAX a platform; others announce themselves as an entry point.
ACCELERATOR = re.compile(r"jax[-_].*(plugin|pjrt|metal).*|libtpu.*", re.IGNORECASE)
PREFIXES = (
    "JAX_", "XLA_", "TF_", "ROCM_", "HIP_", "HSA_", "ROCR_", "AMD_", "MIOPEN_", "NCCL_", "RCCL_", "CUDA_", "NVIDIA_",
    "GPU_", "TPU_", "LIBTPU_", "OMP_", "SFTREF_",
)  # fmt: skip
NAMES = ("LD_LIBRARY_PATH", "LD_PRELOAD", "NPROC", "PYTHONPATH", "PYTHONHASHSEED")
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY", re.IGNORECASE)
DRIVERS = {"amdgpu": Path("/sys/module/amdgpu/version"), "nvidia": Path("/proc/driver/nvidia/version")}
CONFIG = (
    "jax_default_matmul_precision", "jax_threefry_partitionable", "jax_default_prng_impl", "jax_enable_x64",
    "jax_numpy_dtype_promotion", "jax_platforms",
)  # fmt: skip


def static(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Versions, the machine, and the variables of the environment that reach JAX and its plugins."""
    given = os.environ if variables is None else variables
    versions = {"python": platform.python_version()}
    for found in importlib.metadata.distributions():
        name = found.metadata["Name"]
        if name and PACKAGES.fullmatch(name):
            # The first one on the path is the one that is imported.
            versions.setdefault(name.lower().replace("_", "-"), found.version)
    drivers = {}
    for name, path in DRIVERS.items():
        if path.is_file():
            drivers[name] = path.read_text(errors="replace").split("\n")[0].strip()
    return {
        "versions": dict(sorted(versions.items())),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": cores()},
        "drivers": drivers,
        "variables": {
            name: "(hidden)" if SECRET.search(name) else value
            for name, value in sorted(given.items())
            if name.startswith(PREFIXES) or name in NAMES
        },
    }


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def live(limit: float) -> dict[str, Any]:
    """The devices that are verified, at most `limit`, and JAX's settings; starts JAX's backend if nothing did yet."""
    import jax

    devices = jax.devices()
    devices = devices[: int(min(limit, len(devices)))]
    client = devices[0].client
    names = platform_names(devices[0].platform, str(client.platform_version))
    return {
        "platforms": names,
        "simulated": names == ["cpu"],
        "platform_version": str(client.platform_version).strip(),
        "devices": [{"id": d.id, "kind": d.device_kind, "platform": d.platform} for d in devices],
        "config": {name: _plain(getattr(jax.config, name, None)) for name in CONFIG},
    }


def foreseen(asked: str | None) -> list[str]:
    """["cpu"] where JAX can only choose the CPU, before it is started; empty where it takes a start to know."""
    wanted = asked or os.environ.get("JAX_PLATFORMS") or None
    names = {found.metadata["Name"] or "" for found in importlib.metadata.distributions()}
    accelerated = bool(importlib.metadata.entry_points(group="jax_plugins")) or any(map(ACCELERATOR.fullmatch, names))
    return ["cpu"] if wanted == "cpu" or (wanted is None and not accelerated) else []


def platform_names(name: str, version: str) -> list[str]:
    """What a platform is called, from the most general name to the most exact one: cpu, tpu, or gpu and its maker's."""
    if name not in ("gpu", "cuda", "rocm"):
        return [name]
    maker = "rocm" if name == "rocm" or "rocm" in version.lower() else "cuda"
    return ["gpu", maker]


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
