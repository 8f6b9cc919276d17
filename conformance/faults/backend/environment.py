"""Wrong installations and placements: versions, devices and kernels that a run must not accept."""

import dataclasses
import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp

from ...core.kit import PACKAGE
from ...core.settings import Settings
from .lowering import CannotSeedError
from .seeding import Fixtures, SeededFaults, patch

FAULTS = SeededFaults()
seed, seeded_ids = FAULTS.seed, FAULTS.seeded_ids
# A line that XLA writes where two kernels disagree.
DISAGREE = b"E0000 gemm_fusion_autotuner.cc:1060] Results mismatch between different kernels (seeded by sftref)\n"


FAULTS["another-jax-on-the-path"] = lambda: patch(jax, "__version__", "0.4.99")


def _rung0() -> Any:
    return importlib.import_module(f"{PACKAGE}.laws.machine.test_0_environment")


def _with_version(**changed: str) -> Iterator[None]:
    rung0 = _rung0()
    right = rung0.static

    def wrong() -> dict[str, Any]:
        snapshot = right()
        versions = {name.replace("_", "-"): version for name, version in changed.items()}
        return snapshot | {"versions": snapshot["versions"] | versions}

    with patch(rung0, "static", wrong):
        yield


@FAULTS.context("plugin-of-another-release")
def _plugin() -> Iterator[None]:
    yield from _with_version(jax_rocm7_plugin="0.4.1", jax_rocm7_pjrt="0.4.1")


@FAULTS.context("jaxlib-of-another-release")
def _jaxlib() -> Iterator[None]:
    import jaxlib

    with patch(jaxlib, "__version__", "0.1.0"):
        yield from _with_version(jaxlib="0.1.0")


@FAULTS.context("cpu-poses-as-accelerator")
def _cpu() -> Iterator[Fixtures]:
    # The settings name a platform that JAX did not find: a GPU on a TPU machine, a TPU elsewhere.
    platform = "gpu" if jax.default_backend() == "tpu" else "tpu"
    yield {"settings": dataclasses.replace(Settings(), platform=platform)}


@FAULTS.context("eager-results-on-the-cpu")
def _eager() -> Iterator[Fixtures]:
    """The last device plays the accelerator; only results of eager operations are on another device."""
    rung0, devices = _rung0(), jax.devices()
    if len(devices) < 2:
        raise CannotSeedError("needs 2 devices, found 1")
    first, last = devices[0], devices[-1]
    asarray = jnp.asarray
    with ExitStack() as stack:
        stack.enter_context(patch(rung0, "names_of", lambda d: ["cpu"] if d == first else ["gpu", "rocm"]))
        stack.enter_context(patch(jax, "devices", lambda *_: [last]))
        stack.enter_context(jax.default_device(last))
        stack.enter_context(patch(jnp, "asarray", lambda x: jax.device_put(asarray(x), first)))
        yield {"settings": dataclasses.replace(Settings(), platform="rocm")}


@FAULTS.context("fewer-devices-than-asked-for")
def _fewer() -> Iterator[Fixtures]:
    yield {"settings": dataclasses.replace(Settings(), devices=len(jax.devices()) + 1)}


@FAULTS.context("one-device-twice")
def _twice() -> Iterator[Fixtures]:
    yield {"devices": [jax.devices()[0]] * 2}


@FAULTS.context("kernels-that-disagree")
def _disagree() -> Iterator[None]:
    rung0 = _rung0()
    right = rung0._product

    def says(a: Any, b: Any) -> Any:
        os.write(2, DISAGREE)
        return right(a, b)

    with patch(rung0, "_product", says):
        yield
