"""Wrong operators for the kit's own tests: what a bad kernel, rewrite or derivative rule computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from sftref.conformance import operators

# As they stand before anything is planted.
right = {name: value for name, value in vars(operators).items() if inspect.isfunction(value)}
dot = operators.dot


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
