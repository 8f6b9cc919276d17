"""The laws of operators and of their gradients see seeded faults, and a bound is as large as derived."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from kit import run_law
from sftref.conformance.core.check import Check, LawBroken, NotRun
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.backend.primitives import cut
from sftref.conformance.laws.machine import test_3_indices as indices
from sftref.conformance.laws.machine import test_3_matmul as matmul
from sftref.conformance.laws.support import operators
from sftref.conformance.oracle import bounds_derived, draws

pytestmark = pytest.mark.jax

TWO = Settings(level="quick", devices=2)


@pytest.fixture(autouse=True)
def _one_small_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few shapes, since compilation takes most of the time."""
    monkeypatch.setitem(draws.EXAMPLES, "quick", 1)
    monkeypatch.setitem(draws.EXAMPLES, "standard", 1)
    monkeypatch.setitem(matmul.SHAPES, "quick", ((33, 65, 7), (1, 64, 2)))
    monkeypatch.setitem(indices.POWERS, "quick", (10,))


def in_force(bits: int, *, rows: int | None = None, context: bool = True) -> Callable[..., tuple[Any, ...]]:
    """Products in fewer bits, except under the context `highest` if that counts; only of that many rows."""

    def products(*operands: Any) -> tuple[Any, ...]:
        exact = context and jax.config.jax_default_matmul_precision == "highest"
        return highest(*(cut(x, 23 if exact or rows not in (None, len(operands[0])) else bits) for x in operands))

    return products


highest = matmul.highest
WAYS = {
    "TF32": ("in_force", in_force(10), None, "the precision in force: 'tensorfloat32', should be 'float32'"),
    "bfloat16": ("in_force", in_force(7), None, "the precision in force: 'bfloat16', should be 'float32'"),
    "a row alone": ("in_force", in_force(7, rows=1), None, "of a row alone: 'bfloat16', should be 'float32'"),
    "HIGHEST ignored": ("highest", in_force(10), None, "with argument HIGHEST: 'tensorfloat32', should be 'float32'"),
    "context ignored": ("in_force", in_force(10, context=False), None, "with context highest: 'tensorfloat32', should"),
    "declared and not used": ("fastest", in_force(10), "high", "in force: 'float32', should be 'bfloat16_3x"),
    "less than declared": ("in_force", in_force(7), "high", "in force: 'bfloat16', should be 'bfloat16_3x"),
}


@pytest.mark.parametrize("way", WAYS)
def test_another_precision_than_requested_is_seen(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, wrong, declared, message = WAYS[way]
    monkeypatch.setattr(matmul, name, wrong)
    with jax.default_matmul_precision(declared), pytest.raises(LawBroken, match=message):
        run_law("operators.precision", TWO)


def test_a_lower_precision_that_is_declared_and_used_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "in_force", in_force(10))
    monkeypatch.setattr(matmul, "fastest", in_force(10))
    with jax.default_matmul_precision("high"):
        check = run_law("operators.precision", TWO)
    assert check.facts["precision"]["in force"] == "tensorfloat32"
    assert check.facts["less_than_float32_exists_here"]


def test_an_error_below_that_of_the_precision_is_seen() -> None:
    """The probe measured TF32, and another kernel made the product, as an autotuner may choose."""
    a, b = (np.random.default_rng(i).standard_normal((64, 64), np.float32) for i in range(2))
    with pytest.raises(LawBroken, match="should be at least"):
        matmul._two_sided(Check(laws()["operators.precision"], "quick", 0), "x W", a @ b, a, b, "tensorfloat32")


def test_one_device_does_not_check_collectives() -> None:
    with pytest.raises(NotRun, match="needs 2 devices, found 1"):
        run_law("autodiff.collectives", devices=jax.devices()[:1])


def test_every_device_runs_from_the_standard_level_on() -> None:
    check = run_law("operators.tanh", Settings(devices=3))
    assert {one.what.partition(" on ")[2] for one in check.comparisons} == {"", *map(str, jax.devices()[:3])}


@pytest.mark.parametrize("n", [64, 1000])
def test_the_bound_of_sums_of_random_signs_is_for_adding_one_after_the_other(n: int) -> None:
    """The error is 0.42 u of the walk on average, in the order that the bound is derived for."""
    terms = np.random.default_rng(0).standard_normal((4000, n), np.float32)
    error = np.add.accumulate(terms, axis=1)[:, -1] - terms.sum(axis=1, dtype=np.float64)
    walk = bounds_derived.U * np.sqrt((n + 1) / 2 * (terms.astype(np.float64) ** 2).sum(axis=1))
    assert np.sqrt(((error / walk) ** 2).mean()) == pytest.approx(0.42, abs=0.04)
    limit = bounds_derived.random_signs((terms.astype(np.float64) ** 2).sum(axis=1), n)
    assert 0.05 < (np.abs(error) / limit).max() < 0.5


def test_an_intermittent_fault_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis reruns a failure; a machine that then computes rightly has failed all the same."""
    once = iter([np.float32(1.01)])
    run = operators.Machine.run

    def sometimes(*args: Any, **options: Any) -> Any:
        factor = next(once, np.float32(1))
        return [(where, tuple(out * factor for out in outputs)) for where, outputs in run(*args, **options)]

    monkeypatch.setattr(operators.Machine, "run", sometimes)
    with pytest.raises(LawBroken, match="tanh: error") as error:
        run_law("operators.tanh", TWO)
    assert "passed when rerun" in " ".join(error.value.__notes__)


def test_the_slope_of_attention_is_far_from_its_control() -> None:
    """Along random directions the slope was 30 to 4000 bounds, and in one of some thousand draws less than one."""
    for seed in range(5):
        check = run_law("autodiff.attention", Settings(level="quick", seed=seed, devices=1))
        slopes = [one for one in check.comparisons if "direction" in one.what]
        assert slopes
        assert all(slope.control is not None and slope.control > 1e4 * slope.bound.value for slope in slopes)
