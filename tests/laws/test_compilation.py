"""Which checks compile without optimizations, and under which of JAX's options; an option ends with the check."""

import contextlib
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import pytest
from sftref.conformance.core.check import Check
from sftref.conformance.core.law import laws
from sftref.conformance.laws.support import compilation
from sftref.conformance.machine.meshes import mesh_of

pytestmark = [pytest.mark.jax, pytest.mark.usefixtures("optimized")]


@pytest.mark.parametrize(
    ("law", "level", "platform", "light"),
    [
        ("step.update", "quick", "cpu", True),
        ("operators.gelu", "quick", "cpu", False),
        ("step.update", "quick", "gpu", False),
        ("step.update", "standard", "cpu", False),
        ("equivalence.device_counts", "standard", "cpu", True),
        ("equivalence.device_counts", "standard", "tpu", False),
        ("equivalence.device_counts", "full", "cpu", False),
    ],
)
def test_only_trainers_on_simulated_devices_are_compiled_lightly(
    law: str, level: str, platform: str, light: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(compilation.OPTION.upper(), raising=False)
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(platform=platform)])
    check = Check(laws()[law], level, 0)
    with compilation.of(check):
        assert option() is light
    assert check.facts == ({"optimized": False} if light else {})


def option() -> object:
    return jax.config.values[compilation.OPTION]


def test_the_option_ends_with_the_check_even_if_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compilation.OPTION.upper(), raising=False)
    check = Check(laws()["step.update"], "quick", 0)
    seen = []

    def fails() -> None:
        with compilation.of(check):
            seen.append(option())
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert [*seen, option()] == [True, False]
    assert check.facts == {"optimized": False}


@pytest.mark.parametrize(
    ("name", "value"), [("JAX_DISABLE_MOST_OPTIMIZATIONS", "0"), ("XLA_FLAGS", "--xla_backend_optimization_level=3")]
)
def test_a_users_own_setting_stays(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    check = Check(laws()["step.update"], "quick", 0)
    with compilation.of(check):
        assert option() is False
    assert check.facts == {}


def test_the_seconds_of_each_stage() -> None:
    x = jax.numpy.ones(3)
    double = jax.jit(lambda x: 2 * x)
    with compilation.stages() as first:
        double(x)
    with compilation.stages() as second:
        double(x)
    assert set(first) == {"trace", "lower", "compile"}
    assert min(first.values()) > 0
    assert set(second.values()) == {0.0}


def test_kept_programs_are_found_again_in_the_context_only(tmp_path: Path) -> None:
    def tripled() -> float:
        return float(jax.jit(lambda x: x * 3)(2.0))

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    with compilation.kept_in(tmp_path) as hits:
        assert (tripled(), hits) == (6.0, [])
        kept = set(tmp_path.iterdir())
        assert (tripled(), hits) == (6.0, [compilation.CACHE_HIT])
    assert tripled() == 6.0
    assert hits == [compilation.CACHE_HIT]
    assert kept
    assert {path for path in tmp_path.iterdir() if path not in kept and not path.name.endswith("-atime")} == set()
    assert [getattr(jax.config, name) for name in names] == before


# What the module of an adapter may do when it is imported.
MESHED = """
import jax
from sftref.conformance.faults.trainers import NumpyTrainer

jax.set_mesh(jax.make_mesh((2, 4), ("data", "model")))
jax.config.update("jax_debug_nans", True)
jax.config.update("jax_transfer_guard", "disallow")
jax.config.update("jax_default_device", jax.devices()[3])
"""


def set_mesh(mesh: Any) -> contextlib.AbstractContextManager[Any]:
    home: Any = jax if hasattr(jax, "set_mesh") else jax.sharding
    return getattr(home, "set_mesh" if home is jax else "use_mesh")(mesh)


@pytest.mark.filterwarnings("ignore:.with mesh.*:DeprecationWarning")
@pytest.mark.parametrize("enter", [set_mesh, lambda mesh: mesh], ids=["set_mesh", "with mesh"])
def test_a_law_of_the_machine_runs_apart_from_what_an_adapter_has_set(enter: Any) -> None:
    private = sys.modules["jax._src.mesh"]

    def state() -> tuple[bool, bool, object, object]:
        legacy = private.thread_resources.env.physical_mesh  # type: ignore[attr-defined]
        names = ("jax_debug_nans", "jax_default_matmul_precision")
        return jax.sharding.get_abstract_mesh().empty, legacy.empty, *(jax.config.values[name] for name in names)

    compilation.options.cache_clear()
    before, changed = compilation.options(), {"jax_debug_nans": True, "jax_default_matmul_precision": "bfloat16"}
    for name, value in changed.items():
        jax.config.update(name, value)
    try:
        with enter(mesh_of(jax.devices(), 2, 4)):
            now = state()
            assert (all(now[:2]), now[2:]) == (False, (True, "bfloat16"))
            with compilation.apart_from_adapters(Check(laws()["operators.gelu"], "quick", 0)):
                assert state() == (True, True, before["jax_debug_nans"], before["jax_default_matmul_precision"])
            with compilation.apart_from_adapters(Check(laws()["step.update"], "quick", 0)):
                assert state() == now
            assert state() == now
    finally:
        for name in changed:
            jax.config.update(name, before[name])
        compilation.options.cache_clear()


@pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="the adapter calls jax.set_mesh")
def test_an_adapter_that_sets_a_mesh_when_it_is_imported(tmp_path: Path) -> None:
    """Four laws were in error, and the verdict was SETUP or NONCONFORMANT: arrays were not on the mesh's devices."""
    (tmp_path / "meshed.py").write_text(MESHED)
    words = ["--level", "quick", "--adapter", "meshed:NumpyTrainer", "--no-self-test"]
    words += [word for law in ("environment.kernels", "copies.sharded", "autodiff.nan") for word in ("--only", law)]
    command = [sys.executable, "-m", "sftref.conformance", "verify", *words]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "CONFORMANT: 3 of 3 checks passed" in ended.stdout
