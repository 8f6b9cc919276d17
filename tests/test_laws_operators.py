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

# As they stand before anything is planted.
right = {name: value for name, value in vars(operators).items() if inspect.isfunction(value)}
dot = operators.dot


def ask(function: Callable[..., None], level: str = "quick", n: int = 2) -> Check:
    [mark] = function.pytestmark  # type: ignore[attr-defined]
    check = Check(laws()[mark.args[0]], level, 0)
    known = {"check": check, "rng": np.random.default_rng(0), "devices": jax.devices()[:n]}
    function(**{name: known[name] for name in inspect.signature(function).parameters})
    return check


def cut(x: Any, bits: int) -> Any:
    """Operands as TF32 (10 bits beside the leading one) or bfloat16 (7) hold them."""
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits)


def linear_forms(change: Callable[..., Any]) -> Callable[..., Any]:
    """All three products, and the last form, made from the first product that `change` returns."""

    def wrong(x: Any, w: Any, dy: Any, bias: Any, alpha: Any) -> Any:
        forward, back, outer, _ = right["linear_forms"](x, w, dy, bias, alpha)
        return change(forward), back, outer, alpha * (change(forward) + bias)

    return wrong


def misses_bias(x: Any, w: Any, dy: Any, bias: Any, alpha: Any) -> Any:
    *products, _ = right["linear_forms"](x, w, dy, bias, alpha)
    return *products, alpha * products[0] + bias


def cut_outer(x: Any, w: Any, dy: Any, bias: Any, alpha: Any) -> Any:
    """Only x^T dy in TF32, as where the autotuner picks one kernel of three."""
    forward, back, _, both = right["linear_forms"](x, w, dy, bias, alpha)
    return forward, back, dot(cut(x, 10), cut(dy, 10), (0, 0)), both


def heads_for_tokens(q: Any, k: Any, p: Any, v: Any) -> Any:
    return right["attention_products"](q, k.swapaxes(1, 2) if k.shape[1] == k.shape[2] else k, p, v)


def narrow_sums(a: Any, b: Any) -> Any:
    """Half of the terms in float32, rounded, and then the other half."""
    half = a.shape[1] // 2
    first, second = dot(a[:, :half], b[:half]), dot(a[:, half:], b[half:])
    return (first + second).astype(jnp.float32), first + second


def no_maximum(x: Any) -> Any:
    e = jnp.exp(x)
    return e / e.sum(-1, keepdims=True)


def sum_without_the_last(x: Any) -> Any:
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return e / e[..., :4096].sum(-1, keepdims=True)


def one_pass(x: Any, scale: Any, bias: Any) -> Any:
    mean = x.mean(-1, keepdims=True)
    variance = jnp.maximum((x * x).mean(-1, keepdims=True) - mean * mean, 0.0)
    return (x - mean) * lax.rsqrt(variance + 1e-12) * scale + bias


def another_epsilon(x: Any, scale: Any, bias: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


@jax.custom_jvp
def gelu_with_slope_of_tanh(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


@gelu_with_slope_of_tanh.defjvp
def _slope_of_tanh(primals: Any, tangents: Any) -> Any:
    slope = jax.jvp(lambda x: jax.nn.gelu(x, approximate=True), primals, tangents)[1]
    return gelu_with_slope_of_tanh(*primals), slope


def rest_computed_otherwise(x: Any) -> Any:
    return tuple(jnp.tanh(x[:n]).at[n - n % 8 :].multiply(1.00001) for n in range(1, len(x) + 1))


def log_of_softmax(logits: Any, labels: Any) -> Any:
    return -jnp.log(jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], axis=-1)[:, 0])


def infinite_mask(q: Any, k: Any, v: Any, visible: Any) -> Any:
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.float32(np.sqrt(q.shape[-1]))
    p = jax.nn.softmax(jnp.where(visible[:, None, None, :], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", p, v)


def lanes_of_32(sizes: tuple[int, ...]) -> Callable[..., Any]:
    """Sums of half of the lanes, from 1024 elements on."""

    def wrong(whole: Any, integers: Any, parts: Any) -> Any:
        found = list(right_reductions(sizes)(whole, integers, parts))
        for i, n in enumerate(sizes):
            if n >= 1024:
                found[5 * i] = jnp.where(jnp.arange(n) % 64 < 32, whole[:n], 0).sum()
        return tuple(found)

    return wrong


right_reductions = operators.reductions


def constant_variance(x: Any, scale: Any, bias: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    inverse = lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return centred * lax.stop_gradient(inverse) * scale + bias


@jax.custom_vjp
def gather_where_the_last_wins(table: Any, ids: Any) -> Any:
    return table[ids]


gather_where_the_last_wins.defvjp(
    lambda table, ids: (table[ids], (table, ids)),
    lambda kept, cotangent: (jnp.zeros_like(kept[0]).at[kept[1]].set(cotangent), None),
)


def eager_only(x: Any) -> Any:
    return jnp.tanh(x) if isinstance(x, jax.core.Tracer) else jnp.tanh(x) * np.float32(1.00001)


def compiled_only(x: Any) -> Any:
    return jnp.tanh(x) * np.float32(1.00001) if isinstance(x, jax.core.Tracer) else jnp.tanh(x)


def fast_softmax(x: Any) -> Any:
    return right["softmax"](jnp.nan_to_num(x, nan=0.0))


def leaking_tanh(x: Any) -> Any:
    return jnp.tanh(x) + 0 * x[0, 0] + 0 * x[-1, 0] + 0 * x.sum()


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
