"""Wrong formulas of BERT, of several primitives each: what a fused kernel, a rewrite or a library computes.

The faults replace functions of `laws/support/operators.py`, since no single primitive has them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...core.kit import PACKAGE
from ...laws.support import operators
from .seeding import Decorator, SeededFaults

FAULTS = SeededFaults()
AUTODIFF = f"{PACKAGE}.laws.machine.test_4_autodiff"
SOFTMAX_FROM = 32


def _wrong(fault: str, name: str) -> Decorator:
    """Replace an operator of the kit by the decorated function, whose first argument is the right one."""
    return FAULTS.patched(fault, operators, name)


@jax.custom_jvp
def _gelu_with_slope_of_tanh(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


@_gelu_with_slope_of_tanh.defjvp
def _slope_of_tanh(primals: Any, tangents: Any) -> Any:
    slope = jax.jvp(lambda x: jax.nn.gelu(x, approximate=True), primals, tangents)[1]
    return _gelu_with_slope_of_tanh(*primals), slope


# Faults of one expression; `right` is the right function.
# In bfloat16 256 + 1 is 256: a sum that adds one term after the other stops there.
_wrong("sum-stalls-in-bfloat16", "total")(lambda right, x: jnp.minimum(right(x), 256).astype(x.dtype))
_wrong("softmax-drops-nan", "softmax")(lambda right, x: right(jnp.nan_to_num(x, nan=0.0)))
_wrong("fused-gelu-by-tanh", "gelu")(lambda right, x: jax.nn.gelu(x, approximate=True))
_wrong("gelu-with-the-slope-of-another", "gelu")(lambda right, x: _gelu_with_slope_of_tanh(x))
_wrong("nan-reaches-other-rows", "tanh")(lambda right, x: right(x) + 0 * x.sum())
_wrong("attention-mask-ignored", "attention")(lambda right, q, k, v, visible: right(q, k, v, jnp.ones_like(visible)))
_wrong("attention-without-its-keys-gradient", "attention")(
    lambda right, q, k, v, visible: right(q, lax.stop_gradient(k), v, visible)
)
_wrong("heads-for-tokens", "attention_products")(
    lambda right, q, k, p, v: right(q, k.swapaxes(1, 2) if k.shape[1] == k.shape[2] else k, p, v)
)
_wrong("tanh-differs-in-eager-code", "tanh")(
    lambda right, x: right(x) if isinstance(x, jax.core.Tracer) else right(x) * np.float32(1.00001)
)
_wrong("tanh-differs-when-compiled", "tanh")(
    lambda right, x: right(x) * np.float32(1.00001) if isinstance(x, jax.core.Tracer) else right(x)
)
_wrong("loss-by-probabilities", "cross_entropy")(
    lambda right, x, labels: -jnp.log(jnp.take_along_axis(jax.nn.softmax(x), labels[:, None], axis=-1)[:, 0])
)
_wrong("bias-gradient-misses-a-row", "linear")(
    lambda right, x, w, b: operators.dot(x, w) + jnp.where(jnp.arange(len(x))[:, None] > 0, b, lax.stop_gradient(b))
)
_wrong("recomputed-from-other-values", "feed_forward_again")(
    lambda right, x, *w: operators.feed_forward(x, *w) + 1e-4 * x[:, : w[-1].shape[1]]
)
_wrong("three-axes-kept-in-bfloat16", "feed_forward_of_examples")(
    lambda right, x, *w: operators.feed_forward_again(lax.reduce_precision(x, 8, 7), *w)
)
_wrong("nan-from-an-untaken-branch", "guarded_losses")(
    lambda right, x, seen: jnp.where(seen, (jax.nn.softmax(x) * x).sum(-1), 0.0)
)
FAULTS.patched("branch-taken-for-all-devices", AUTODIFF, "branching_gradient")(
    lambda right, w, x: lax.psum(jax.grad(lambda w: (x * w).sum())(w), "data")
)


@_wrong("scale-misses-the-bias", "linear_forms")
def _scale(right: Any, x: Any, w: Any, dy: Any, bias: Any, alpha: Any, *how: Any) -> Any:
    *products, _ = right(x, w, dy, bias, alpha, *how)
    return *products, alpha * products[0] + bias


@_wrong("softmax-without-its-maximum", "softmax")
def _softmax(right: Any, x: Any) -> Any:
    e = jnp.exp(x)
    return e / e.sum(-1, keepdims=True)


@_wrong("softmax-short-of-long-rows", "softmax")
def _long_rows(right: Any, x: Any) -> Any:
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return e / e[..., :SOFTMAX_FROM].sum(-1, keepdims=True)


@_wrong("fused-layer-norm-in-one-pass", "layer_norm")
def _one_pass(right: Any, x: Any, scale: Any, bias: Any) -> Any:
    mean = x.mean(-1, keepdims=True)
    variance = jnp.maximum((x * x).mean(-1, keepdims=True) - mean * mean, 0.0)
    return (x - mean) * lax.rsqrt(variance + 1e-12) * scale + bias


@_wrong("layer-norm-with-another-epsilon", "layer_norm")
def _epsilon(right: Any, x: Any, scale: Any, bias: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


@_wrong("variance-taken-as-constant", "layer_norm")
def _constant(right: Any, x: Any, scale: Any, bias: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    inverse = lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return centred * lax.stop_gradient(inverse) * scale + bias


@_wrong("softmax-sum-taken-as-constant", "softmax")
def _constant_sum(right: Any, x: Any) -> Any:
    y = jnp.exp(x - lax.stop_gradient(jax.nn.logsumexp(x, -1, keepdims=True)))
    # The value is right, its derivative is not.
    return y + lax.stop_gradient(right(x) - y)


@_wrong("attention-mask-of-infinities", "attention")
def _infinite_mask(right: Any, q: Any, k: Any, v: Any, visible: Any) -> Any:
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.float32(np.sqrt(q.shape[-1]))
    p = jax.nn.softmax(jnp.where(visible[:, None, None, :], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", p, v)


@_wrong("cotangents-of-equal-ids-lost", "gather")
def _last_wins(right: Any, table: Any, ids: Any) -> Any:
    return _gather_where_the_last_wins(table, ids) if table.dtype == np.float32 else right(table, ids)


@jax.custom_vjp
def _gather_where_the_last_wins(table: Any, ids: Any) -> Any:
    return table[ids]


_gather_where_the_last_wins.defvjp(
    lambda table, ids: (table[ids], (table, ids)),
    lambda kept, cotangent: (jnp.zeros_like(kept[0]).at[kept[1]].set(cotangent), None),
)


@FAULTS.patched("summed-inside-of-the-derivative", AUTODIFF, "gradient_of_sum")
def _within(right: Any, w: Any, x: Any, y: Any, weights: Any) -> Any:
    return jax.value_and_grad(lambda w: lax.psum((weights * (x @ w - y) ** 2).sum() / 2, "data"))(w)
