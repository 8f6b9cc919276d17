"""Wrong installations and placements: versions, devices and kernels that a run must not accept."""

import importlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ...core.kit import PACKAGE
from ...core.settings import Settings
from .lowering import CannotSeedError
from .seeding import Fixtures, SeededFaults, patch

FAULTS = SeededFaults()
RUNG_0 = f"{PACKAGE}.laws.machine.test_0_environment"
# A line that XLA writes where two kernels disagree.
DISAGREE = b"E0000 gemm_fusion_autotuner.cc:1060] Results mismatch between different kernels (seeded by sftref)\n"

FAULTS["another-jax-on-the-path"] = lambda: patch(jax, "__version__", "0.4.99")
FAULTS.fixtures("fewer-devices-than-asked-for")(lambda: {"settings": Settings(devices=len(jax.devices()) + 1)})
FAULTS.fixtures("one-device-twice")(lambda: {"devices": [jax.devices()[0]] * 2})
# The settings name a platform that JAX did not find: a GPU on a TPU machine, a TPU elsewhere.
FAULTS.fixtures("cpu-poses-as-accelerator")(
    lambda: {"settings": Settings(platform="gpu" if jax.default_backend() == "tpu" else "tpu")}
)


def _with_versions(snapshot: dict[str, Any], **changed: str) -> dict[str, Any]:
    return snapshot | {"versions": snapshot["versions"] | changed}


FAULTS.patched("plugin-of-another-release", RUNG_0, "static")(
    lambda right: _with_versions(right(), **{"jax-cuda12-plugin": "0.4.1", "jax-cuda12-pjrt": "0.4.1"})
)


@FAULTS.context("jaxlib-of-another-release")
def _jaxlib() -> Iterator[None]:
    rung_0 = importlib.import_module(RUNG_0)
    snapshot = _with_versions(rung_0.static(), jaxlib="0.1.0")
    with patch(importlib.import_module("jaxlib"), "__version__", "0.1.0"), patch(rung_0, "static", lambda: snapshot):
        yield


@FAULTS.context("eager-results-on-the-cpu")
def _eager() -> Iterator[Fixtures]:
    """The last device plays the accelerator; only results of eager operations are on another device."""
    rung_0, devices = importlib.import_module(RUNG_0), jax.devices()
    if len(devices) < 2:
        raise CannotSeedError("needs 2 devices, found 1")
    first, last = devices[0], devices[-1]
    asarray = jnp.asarray
    with (
        patch(rung_0, "names_of", lambda d: ["cpu"] if d == first else ["gpu", "rocm"]),
        patch(jax, "devices", lambda *_: [last]),
        jax.default_device(last),
        patch(jnp, "asarray", lambda x: jax.device_put(asarray(x), first)),
    ):
        yield {"settings": Settings(platform="rocm")}


@FAULTS.patched("kernels-that-disagree", RUNG_0, "_product")
def _disagree(right: Any, a: Any, b: Any) -> Any:
    os.write(2, DISAGREE)
    return right(a, b)
