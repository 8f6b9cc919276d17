"""Wrong installations and placements: what a user's machine has when a run answers a question that nobody asked."""

from __future__ import annotations

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
from .seeding import Instead, SeededFaults, patch

FAULTS = SeededFaults()
seed, seeded_ids = FAULTS.seed, FAULTS.seeded_ids
DISAGREE = b"E0000 gemm_fusion_autotuner.cc:1060] Results mismatch between different kernels (seeded by sftref)\n"


def _rung0() -> Any:
    return importlib.import_module(f"{PACKAGE}.laws.machine.test_0_environment")


def _with_version(**changed: str) -> Iterator[None]:
    rung0 = _rung0()
    right = rung0.static

    def wrong() -> dict[str, Any]:
        found = right()
        return found | {"versions": found["versions"] | {name.replace("_", "-"): v for name, v in changed.items()}}

    with patch(rung0, "static", wrong):
        yield


@FAULTS.given("plugin-of-another-release")
def _plugin() -> Iterator[None]:
    yield from _with_version(jax_rocm7_plugin="0.4.1", jax_rocm7_pjrt="0.4.1")


@FAULTS.given("jaxlib-of-another-release")
def _jaxlib() -> Iterator[None]:
    import jaxlib

    with patch(jaxlib, "__version__", "0.1.0"):
        yield from _with_version(jaxlib="0.1.0")


@FAULTS.given("another-jax-on-the-path")
def _another_jax() -> Iterator[None]:
    with patch(jax, "__version__", "0.4.99"):
        yield


@FAULTS.given("cpu-poses-as-accelerator")
def _cpu() -> Iterator[Instead]:
    # What is asked for is not what JAX found: on a TPU a GPU is asked for, elsewhere a TPU.
    asked = "gpu" if jax.default_backend() == "tpu" else "tpu"
    yield {"settings": dataclasses.replace(Settings(), platform=asked)}


@FAULTS.given("eager-results-on-the-cpu")
def _eager() -> Iterator[Instead]:
    """The last device plays the accelerator, on which all is but what an eager operation leaves."""
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


@FAULTS.given("fewer-devices-than-asked-for")
def _fewer() -> Iterator[Instead]:
    yield {"settings": dataclasses.replace(Settings(), devices=len(jax.devices()) + 1)}


@FAULTS.given("one-device-twice")
def _twice() -> Iterator[Instead]:
    yield {"devices": [jax.devices()[0]] * 2}


@FAULTS.given("kernels-that-disagree")
def _disagree() -> Iterator[None]:
    rung0 = _rung0()
    right = rung0._product

    def says(a: Any, b: Any) -> Any:
        os.write(2, DISAGREE)
        return right(a, b)

    with patch(rung0, "_product", says):
        yield
