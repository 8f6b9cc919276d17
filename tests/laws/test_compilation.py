"""Which checks compile without optimizations; the option ends with the check."""

import types
from pathlib import Path

import jax
import pytest
from sftref.conformance.core.check import Check
from sftref.conformance.core.law import laws
from sftref.conformance.laws.support import compilation

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
