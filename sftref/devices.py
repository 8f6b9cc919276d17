"""A wish -> JAX devices: starts the backend, once, with 8 simulated devices where there is only a CPU."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from sftref.config import TrainConfig, require

if TYPE_CHECKING:
    import jax

SIMULATED = 8
MOST_SIMULATED = 64


def start(config: TrainConfig) -> list[jax.Device]:
    """Start JAX for a run and return its devices; to be called before anything else touches JAX's devices.

    On a machine with a CPU only, `--devices` are simulated (8 unless said otherwise). With an accelerator they are
    real ones, and the count must be there.

    Raises:
        ConfigError: more devices are asked for than there are.
    """
    import jax

    jax.config.update("jax_enable_x64", config.precision == "float64")
    wanted = 1 if config.trainer == "single" else config.devices
    # A count in XLA_FLAGS is the user's own, and JAX refuses to have both.
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        simulated = max(SIMULATED, wanted or 0)
        require(
            simulated <= MOST_SIMULATED,
            f"--devices = {wanted}, must be at most {MOST_SIMULATED}, the most that are simulated; ask for fewer",
        )
        # Refused where a backend runs already, in a notebook for instance: then its devices are what there is.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", simulated)
    devices = jax.devices()
    count = len(devices) if wanted is None else wanted
    require(
        count <= len(devices),
        f"--devices = {count}, must be at most {len(devices)}, the {devices[0].platform} devices of this machine; "
        "ask for fewer",
    )
    return devices[:count]
