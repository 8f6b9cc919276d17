"""The laws of operators and of their gradients see planted faults, and bounds hold what they are derived for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from sftref.conformance import operators, precision, strategies, tolerances
from sftref.conformance.catalogue import laws
from sftref.conformance.check import Check, LawBroken, NotRun
from sftref.conformance.laws import test_3_families as families
from sftref.conformance.laws import test_3_indices as indices
from sftref.conformance.laws import test_3_matmul as matmul
from sftref.conformance.laws import test_3_operators as rung3
from sftref.conformance.laws import test_4_autodiff as rung4
from wrong_operators import (
    another_epsilon,
    compiled_only,
    constant_variance,
    cut,
    cut_outer,
    dot,
    eager_only,
    fast_softmax,
    gather_where_the_last_wins,
    gelu_with_slope_of_tanh,
    heads_for_tokens,
    infinite_mask,
    lanes_of_32,
    leaking_tanh,
    linear_forms,
    log_of_softmax,
    misses_bias,
    narrow_sums,
    no_maximum,
    one_pass,
    rest_computed_otherwise,
    right,
    sum_without_the_last,
)


def ask(function: Callable[..., None], level: str = "quick", n: int = 2) -> Check:
    [mark] = function.pytestmark  # type: ignore[attr-defined]
    check = Check(laws()[mark.args[0]], level, 0)
    known = {"check": check, "rng": np.random.default_rng(0), "devices": jax.devices()[:n]}
    function(**{name: known[name] for name in inspect.signature(function).parameters})
    return check


PLANTS = {
    "a product whose tile stays zero": (
        matmul.test_matmul,
        "linear_forms",
        linear_forms(lambda y: y.at[:8, :8].set(0)),
    ),
    "a product of one row that is zero": (
        matmul.test_matmul,
        "linear_forms",
        linear_forms(lambda y: y * (y.shape[0] > 1)),
    ),
    "a scale that misses the bias": (matmul.test_matmul, "linear_forms", misses_bias),
    "one backward form in TF32": (matmul.test_matmul, "linear_forms", cut_outer),
    "heads taken for tokens": (matmul.test_batched_matmul, "attention_products", heads_for_tokens),
    "half-precision sums": (matmul.test_low_precision, "low_precision_forms", narrow_sums),
    "a sum that stalls": (matmul.test_low_precision, "total", lambda x: jnp.minimum(x.sum(), 256).astype(x.dtype)),
    "softmax without its maximum": (rung3.test_softmax, "softmax", no_maximum),
    "softmax of a long row short of its end": (rung3.test_softmax, "softmax", sum_without_the_last),
    "LayerNorm in one pass": (rung3.test_layer_norm, "layer_norm", one_pass),
    "LayerNorm with another epsilon": (rung3.test_layer_norm, "layer_norm", another_epsilon),
    "GELU by tanh": (rung3.test_gelu, "gelu", functools.partial(jax.nn.gelu, approximate=True)),
    "GELU with the slope of the form by tanh": (rung3.test_gelu, "gelu", gelu_with_slope_of_tanh),
    "tanh cut at 4": (rung3.test_tanh, "tanh", lambda x: jnp.tanh(jnp.clip(x, -4, 4))),
    "tanh of what is left beside vectors": (rung3.test_tanh, "tanh_of_prefixes", rest_computed_otherwise),
    "the log of softmax": (rung3.test_cross_entropy, "cross_entropy", log_of_softmax),
    "a mask that is ignored": (
        rung3.test_attention,
        "attention",
        lambda q, k, v, seen: right["attention"](q, k, v, jnp.ones_like(seen)),
    ),
    "a mask of infinities": (rung3.test_attention, "attention", infinite_mask),
    "ids of 7 bits": (indices.test_gather, "gather", lambda t, i: t[i & 0x7F]),
    "the last row out of reach": (indices.test_gather, "gather", lambda t, i: t[jnp.minimum(i, len(t) - 2)]),
    "the last of equal ids wins": (indices.test_scatter_add, "scatter_add", lambda s, i, u: s.at[i].set(s[i] + u)),
    "a row that no id names": (indices.test_scatter_add, "scatter_add", lambda s, i, u: s.at[i].add(u).at[0].add(1)),
    "lanes of 32 out of 64": (indices.test_reductions, "reductions", lanes_of_32),
    "sums of columns in bfloat16": (
        indices.test_reductions,
        "sums_by_axis",
        lambda x: (x.astype(jnp.bfloat16).sum(0).astype(jnp.float32), x.sum(1)),
    ),
    "a kernel that only eager code uses": (families.test_eager_and_jit, "tanh", eager_only),
    "a rewrite that only compiled code sees": (families.test_eager_and_jit, "tanh", compiled_only),
    "a NaN that is swallowed": (families.test_special_values, "softmax", fast_softmax),
    "a NaN that reaches other rows": (families.test_special_values, "tanh", leaking_tanh),
    "a bias gradient that misses rows": (
        rung4.test_linear,
        "linear",
        lambda x, w, b: dot(x, w) + jnp.where(jnp.arange(len(x))[:, None] > 0, b, lax.stop_gradient(b)),
    ),
    "softmax's sum taken as constant": (
        rung4.test_softmax,
        "softmax",
        lambda x: jnp.exp(x - lax.stop_gradient(jax.nn.logsumexp(x, -1, keepdims=True))),
    ),
    "LayerNorm's variance taken as constant": (rung4.test_layer_norm, "layer_norm", constant_variance),
    "the slope of GELU by tanh": (rung4.test_gelu, "gelu", gelu_with_slope_of_tanh),
    "cotangents of equal ids lost": (rung4.test_embedding, "gather", gather_where_the_last_wins),
    "a loss by the log of softmax": (rung4.test_cross_entropy, "cross_entropy", log_of_softmax),
    "attention without the gradient of its keys": (
        rung4.test_attention,
        "attention",
        lambda q, k, v, seen: right["attention"](q, lax.stop_gradient(k), v, seen),
    ),
    "values recomputed from other ones": (
        rung4.test_remat,
        "feed_forward_again",
        lambda x, a, b, c: right["feed_forward"](x, a, b, c) + 1e-4 * x[:, : c.shape[1]],
    ),
    "NaN from an untaken branch": (
        rung4.test_nan,
        "guarded_losses",
        lambda x, seen: jnp.where(seen, (jax.nn.softmax(x) * x).sum(-1), 0.0),
    ),
}


@pytest.fixture(autouse=True)
def _one_small_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilation is what takes time: few shapes."""
    monkeypatch.setitem(strategies.EXAMPLES, "quick", 1)
    monkeypatch.setitem(strategies.EXAMPLES, "standard", 1)
    monkeypatch.setitem(matmul.SHAPES, "quick", ((33, 65, 7), (1, 64, 2)))
    monkeypatch.setitem(indices.POWERS, "quick", (10,))


@pytest.mark.parametrize("fault", PLANTS)
def test_a_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, name, wrong = PLANTS[fault]
    monkeypatch.setattr(families, "FAMILIES", [family for family in families.FAMILIES if family.name == name])
    monkeypatch.setattr(operators, name, wrong)
    with pytest.raises(LawBroken):
        ask(function)


def in_force(bits: int, *, rows: int | None = None, context: bool = True) -> Callable[..., tuple[Any, ...]]:
    """Products in fewer bits unless `highest` is in force, if the context is heard; of that many rows only."""

    def asked(*operands: Any) -> tuple[Any, ...]:
        exact = context and jax.config.jax_default_matmul_precision == "highest"
        return highest(*(cut(x, 23 if exact or rows not in (None, len(operands[0])) else bits) for x in operands))

    return asked


highest = precision.highest
WAYS = {
    "TF32": ("in_force", in_force(10), None, "the precision in force: 'tensorfloat32', should be 'float32'"),
    "bfloat16": ("in_force", in_force(7), None, "the precision in force: 'bfloat16', should be 'float32'"),
    "a row alone": ("in_force", in_force(7, rows=1), None, "of a row alone: 'bfloat16', should be 'float32'"),
    "HIGHEST ignored": ("highest", in_force(10), None, "with argument HIGHEST: 'tensorfloat32', should be 'float32'"),
    "context ignored": ("in_force", in_force(10, context=False), None, "with context highest: 'tensorfloat32', should"),
    "declared and not used": (
        "fastest",
        in_force(10),
        "high",
        "the precision in force: 'float32', should be 'bfloat16_3x",
    ),
    "less than declared": (
        "in_force",
        in_force(7),
        "high",
        "the precision in force: 'bfloat16', should be 'bfloat16_3x",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_another_precision_than_asked_for_is_seen(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, wrong, declared, message = WAYS[way]
    monkeypatch.setattr(precision, name, wrong)
    with jax.default_matmul_precision(declared), pytest.raises(LawBroken, match=message):
        ask(matmul.test_precision)


def test_a_lower_precision_that_is_declared_and_used_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "in_force", in_force(10))
    monkeypatch.setattr(precision, "fastest", in_force(10))
    with jax.default_matmul_precision("high"):
        check = ask(matmul.test_precision)
    assert check.facts["precision"]["in force"] == "tensorfloat32"
    assert check.facts["less_than_float32_exists_here"]


def test_an_error_below_that_of_the_precision_is_seen() -> None:
    """The probe met TF32, and another kernel made the product: an autotuner's choice."""
    a, b = (np.random.default_rng(i).standard_normal((64, 64), np.float32) for i in range(2))
    with pytest.raises(LawBroken, match="should be at least"):
        matmul._two_sided(Check(laws()["operators.precision"], "quick", 0), "x W", a @ b, a, b, "tensorfloat32")


def gradient_within(w: Any, x: Any, y: Any, weights: Any) -> tuple[Any, Any]:
    """The sum over devices inside of what is differentiated."""
    return jax.value_and_grad(lambda w: lax.psum((weights * (x @ w - y) ** 2).sum() / 2, "data"))(w)


def gradient_unsummed(w: Any, x: Any, y: Any, weights: Any) -> tuple[Any, Any]:
    value, slope = jax.value_and_grad(lambda w: (weights * (x @ w - y) ** 2).sum() / 2)(w)
    return lax.psum(value, "data"), slope


@pytest.mark.parametrize("wrong", [gradient_within, gradient_unsummed])
def test_a_sum_over_devices_out_of_place_is_seen(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rung4, "gradient_of_sum", wrong)
    with pytest.raises(LawBroken, match="the gradient on every device"):
        ask(rung4.test_collectives)


def test_one_device_says_nothing_of_collectives() -> None:
    with pytest.raises(NotRun, match="needs 2 devices, found 1"):
        ask(rung4.test_collectives, n=1)


def test_every_device_is_asked_from_the_standard_level_on() -> None:
    check = ask(rung3.test_tanh, "standard", n=3)
    assert {what.what.partition(" on ")[2] for what in check.comparisons} == {"", *map(str, jax.devices()[:3])}


@pytest.mark.parametrize("n", [64, 1000])
def test_the_bound_of_sums_of_random_signs_is_what_one_after_the_other_makes(n: int) -> None:
    """0.42 u of the walk on average, in the order that the bound is derived for."""
    terms = np.random.default_rng(0).standard_normal((4000, n), np.float32)
    error = np.add.accumulate(terms, axis=1)[:, -1] - terms.sum(axis=1, dtype=np.float64)
    walk = tolerances.U * np.sqrt((n + 1) / 2 * (terms.astype(np.float64) ** 2).sum(axis=1))
    assert np.sqrt(((error / walk) ** 2).mean()) == pytest.approx(0.42, abs=0.04)
    limit = tolerances.random_signs((terms.astype(np.float64) ** 2).sum(axis=1), n)
    assert 0.05 < (np.abs(error) / limit).max() < 0.5


def test_a_fault_that_comes_and_goes_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis asks again what failed; a machine that then computes rightly has failed all the same."""
    once = iter([np.float32(1.01)])
    run = operators.Machine.run

    def sometimes(machine: Any, formula: Any, *args: Any, **options: Any) -> Any:
        factor = next(once, np.float32(1))
        return [
            (where, tuple(out * factor for out in found)) for where, found in run(machine, formula, *args, **options)
        ]

    monkeypatch.setattr(operators.Machine, "run", sometimes)
    with pytest.raises(LawBroken, match="tanh: error") as error:
        ask(rung3.test_tanh)
    assert "it did not fail" in " ".join(error.value.__notes__)


def test_the_slope_of_attention_is_far_from_its_control() -> None:
    """Along random directions it came out at 30 bounds to 4000, and once in some thousand draws within its bound."""
    for seed in range(5):
        check = Check(laws()["autodiff.attention"], "quick", seed)
        rung4.test_attention(check, jax.devices()[:1])
        slopes = [found for found in check.comparisons if "direction" in found.what]
        assert slopes
        assert all(found.control is not None and found.control > 1e4 * found.bound.value for found in slopes)
