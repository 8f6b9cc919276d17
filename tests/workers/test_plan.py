"""The environment of a run's child processes, and the platform that is known before JAX starts."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest
from sftref.conformance.machine import snapshot
from sftref.conformance.workers.plan import LIGHT_FLAGS, keeps_bytecode, light_checks, units, variables


def test_a_compilation_cache_of_the_user_is_not_used() -> None:
    environment = {"JAX_COMPILATION_CACHE_DIR": "theirs"}
    assert variables(environment, None)["JAX_ENABLE_COMPILATION_CACHE"] == "false"
    assert variables(environment, Path("ours"))["JAX_COMPILATION_CACHE_DIR"] == "ours"


def test_hypothesis_writes_to_the_scratch_folder() -> None:
    assert variables({}, None, scratch=Path("mine"))["HYPOTHESIS_STORAGE_DIRECTORY"].startswith("mine")


@pytest.mark.parametrize(
    ("forbidden", "writable", "compiled", "kept"),
    [
        (False, True, False, True),
        (True, True, False, False),
        (False, False, False, False),
        (True, False, True, True),
    ],
)
def test_python_writes_bytecode_to_the_scratch_folder_if_nowhere_else(
    forbidden: bool, writable: bool, compiled: bool, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", forbidden)
    monkeypatch.setattr("os.access", lambda path, mode: writable)
    source, cached = tmp_path / "jax.py", tmp_path / "jax.pyc"
    source.touch()
    if compiled:
        cached.touch()
    spec = types.SimpleNamespace(origin=str(source), cached=str(cached))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert keeps_bytecode("jax") is kept
    environment = variables({"PYTHONDONTWRITEBYTECODE": "1"}, None, scratch=tmp_path)
    assert ("PYTHONDONTWRITEBYTECODE" in environment) is kept
    assert environment.get("PYTHONPYCACHEPREFIX") == (None if kept else str(tmp_path / "bytecode"))


@pytest.mark.parametrize(
    ("platform", "variable", "installed", "known"),
    [
        (None, None, [], ["cpu"]),
        ("cpu", None, ["jax-cuda13-plugin"], ["cpu"]),
        (None, "cpu", ["jax_rocm7_pjrt"], ["cpu"]),
        (None, None, ["jax-cuda13-plugin"], []),
        (None, None, ["libtpu"], []),
        ("gpu", None, [], []),
        (None, "rocm,cpu", [], []),
    ],
)
def test_the_cpu_is_foreseen_only_if_jax_can_choose_nothing_else(
    platform: str | None,
    variable: str | None,
    installed: list[str],
    known: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distributions = [types.SimpleNamespace(metadata={"Name": name}) for name in ("jax", "jaxlib", *installed)]
    monkeypatch.setattr(snapshot.importlib.metadata, "distributions", lambda: distributions)
    monkeypatch.setattr(snapshot.importlib.metadata, "entry_points", lambda group: [])
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if variable is not None:
        monkeypatch.setenv("JAX_PLATFORMS", variable)
    assert snapshot.foreseen(platform) == known


def test_a_plugin_that_announces_itself_is_not_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(snapshot.importlib.metadata, "entry_points", lambda group: [group])
    assert snapshot.foreseen(None) == []


def test_programs_that_are_not_optimized_are_compiled_cheaply() -> None:
    """Those of checks that need optimized programs get no flags, and neither do other releases of JAX."""
    ids = ["operators.matmul", "step.logits[mesh]", "training.settings[mesh]"]
    jax = {"jax": "0.10.2"}
    assert light_checks(ids, "quick", jax, {}) == set(ids[1:])
    assert light_checks(ids, "standard", jax, {}) == {"training.settings[mesh]"}
    assert light_checks(ids, "full", jax, {}) == set()
    assert light_checks(ids, "quick", {"jax": "0.12.0.1"}, {}) == set()
    assert light_checks(ids, "quick", jax, {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}) == set()


def test_light_programs_have_a_process_of_their_own_between_the_rungs_that_need_each_other() -> None:
    light = {"equivalence.packing[mesh]", "training.settings[mesh]", "training.settings[pmap]"}
    ids = ["copies.sharded", "step.update[mesh]", "step.update[pmap]", "equivalence.loss[mesh]", *sorted(light)]
    made = units([*ids, "training.decay[mesh]", "training.decay[pmap]"], light)
    assert [(unit.name, unit.light, unit.ids) for unit in made] == [
        ("rungs 0, 1, 2 and 5", False, ["copies.sharded"]),
        ("trainer mesh", False, ["step.update[mesh]", "equivalence.loss[mesh]"]),
        ("trainer pmap", False, ["step.update[pmap]", "training.decay[pmap]"]),
        ("trainer mesh", True, ["equivalence.packing[mesh]", "training.settings[mesh]"]),
        ("trainer pmap", True, ["training.settings[pmap]"]),
        ("trainer mesh", False, ["training.decay[mesh]"]),
    ]
    assert made[3].after == {"copies.sharded", "step.update[mesh]", "equivalence.loss[mesh]"}
    assert made[5].after == made[3].after | {"equivalence.packing[mesh]"}


def test_the_users_own_compiler_flags_come_last() -> None:
    """XLA takes the last value of a flag."""
    own = "--xla_cpu_use_fusion_emitters=true"
    assert variables({"XLA_FLAGS": own}, None, flags=LIGHT_FLAGS)["XLA_FLAGS"] == f"{LIGHT_FLAGS} {own}"
    assert "XLA_FLAGS" not in variables({}, None)
