"""The test set-up: 8 simulated devices, no network; done once, before JAX starts."""

import os
import signal
import sys
from collections.abc import Iterator

# Hubs are out of reach in tests, and code that asks them must say so at once instead of retrying.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# pytest reads this file before it knows that it is to time the machine instead, on whatever that has.
if "--benchmark" not in sys.argv:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

DEVICES = 8

# A failed assertion there shows its values too, as in the test files themselves.
pytest.register_assert_rewrite("checkpoints", "wordpieces")

jax.config.update("jax_num_cpu_devices", DEVICES)
# Most of the time of these tests is compilation. tox asks for programs without XLA's optimizations in the environments
# that run every test, and for optimized ones in the one that runs what depends on the release of JAX (py312).
UNOPTIMIZED = "jax_disable_most_optimizations"
jax.config.update(UNOPTIMIZED, os.environ.get("SFTREF_TESTS_UNOPTIMIZED") == "1")


@pytest.fixture(scope="session", autouse=True)
def _eight_devices() -> None:
    assert len(jax.devices()) == DEVICES, f"{len(jax.devices())} devices, must be {DEVICES}"


@pytest.fixture
def optimized() -> Iterator[None]:
    """Compile this test's programs with XLA's optimizations, whatever the others do."""
    before = jax.config.values[UNOPTIMIZED]
    jax.config.update(UNOPTIMIZED, False)
    yield
    jax.config.update(UNOPTIMIZED, before)


@pytest.fixture
def rng() -> object:
    """A NumPy generator with a fixed seed."""
    import numpy as np

    return np.random.default_rng(20240125)


@pytest.fixture
def sigint() -> Iterator[None]:
    """Ctrl-C as at a keyboard: tests that run in the background have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
