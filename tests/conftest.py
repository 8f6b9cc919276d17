"""The test set-up: 8 simulated devices, no network; done once, before JAX starts."""

import gc
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
from sftref.conformance.run.surroundings import check_flags

DEVICES = 8

try:
    check_flags(os.environ)
except ValueError as error:  # XLA would end this process, and pytest would print nothing
    pytest.exit(str(error), returncode=2)

# The import of Hugging Face's evaluate takes seconds; `test_glue_metric.py` takes this back.
sys.modules.setdefault("evaluate", None)  # type: ignore[arg-type]
# A failed assertion there shows its values too, as in the test files themselves.
pytest.register_assert_rewrite("checkpoints", "wordpieces")

jax.config.update("jax_num_cpu_devices", DEVICES)
# Tests that run `sftref train` in this process would keep its programs, and write each of them to a file.
jax.config.update("jax_enable_compilation_cache", False)
# Tracing makes many objects that live on; looking through them at Python's 700 took a tenth of the main thread's time.
gc.set_threshold(20_000)
# Most of the time of these tests is compilation. tox asks for programs without XLA's optimizations in the environments
# that run every test, and for optimized ones in the one that runs what depends on the release of JAX (py312).
UNOPTIMIZED = "jax_disable_most_optimizations"
jax.config.update(UNOPTIMIZED, os.environ.get("SFTREF_TESTS_UNOPTIMIZED") == "1")
# In JAX 0.10, the last for Python 3.11, XLA compiles the same programs in half the processor time with its older code
# generator, as one module each. Other releases do not have the first flag.
LIGHT = {}
if jax.config.values[UNOPTIMIZED]:
    LIGHT[UNOPTIMIZED.upper()] = "1"
    if jax.__version_info__[:2] == (0, 10):
        flags = ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
        LIGHT["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XLA_FLAGS", LIGHT["XLA_FLAGS"])
            jax.devices()  # XLA reads the variable once, when the backend starts


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
def light_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes compile as this process does, in a test whose property is not about how they compile."""
    for name, value in LIGHT.items():
        monkeypatch.setenv(name, value)


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
