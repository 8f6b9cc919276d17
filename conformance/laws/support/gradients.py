"""Cotangent, arguments of an operator -> float64 gradients by the oracle's backward passes, with their allowances."""

import math

import numpy as np

from ...core.comparison import Array
from ...oracle import bounds_derived
from ...oracle.tape import Tape
from ...oracle.tape import gelu as gelu_64
from ...oracle.tape import softmax as softmax_64
from .families import added, attention_parts, cross_entropy, gelu_slope, tail
from .operators import Exact

U = bounds_derived.U


def _times(a: Array, a_off: Array, b: Array) -> Exact:
    """The product a @ b, where a errs by up to `a_off`."""
    return Exact(a @ b, bounds_derived.product_of(a, a_off, b, np.zeros_like(b)))


def linear(dy: Array, x: Array, w: Array, b: Array) -> list[Exact]:
    """Gradients of x W + b with respect to x, W and b; the oracle's weight is (out, in)."""
    wide = [leaf.astype(np.float64) for leaf in (dy, x, w)]
    tape = Tape({"l.weight": w.T, "l.bias": b})
    dx = tape.linear(wide[1], "l")[1](wide[0])
    of_bias = bounds_derived.random_signs((wide[0] ** 2).sum(axis=0), len(dy))
    return [
        Exact(dx, bounds_derived.product(wide[0], wide[2].T)),
        Exact(tape.gradients["l.weight"].T, bounds_derived.product(wide[1].T, wide[0])),
        Exact(tape.gradients["l.bias"], of_bias),
    ]


def softmax(dp: Array, x: Array) -> list[Exact]:
    """Gradient of softmax with respect to the logits."""
    wide, d = x.astype(np.float64), dp.astype(np.float64)
    p, back = softmax_64(wide)
    return [Exact(back(d), bounds_derived.softmax_backward(wide, p, d))]


def layer_norm(dy: Array, x: Array, scale: Array, bias: Array) -> list[Exact]:
    """Gradients of LayerNorm with respect to input, scale and bias; the latter two are sums over rows."""
    wide, d = x.astype(np.float64), dy.astype(np.float64)
    tape = Tape({"n.weight": scale, "n.bias": bias})
    dx = tape.layer_norm(wide, "n", 1e-12)[1](d)
    norm = bounds_derived.LayerNorm(wide, 1e-12)
    terms, rows = np.abs(d * norm.unit), len(x)
    of_scale = bounds_derived.one_sign(terms.sum(axis=0), rows) + (np.abs(d) * norm.unit_off).sum(axis=0)
    of_scale = of_scale + U * terms.sum(axis=0)
    of_bias = bounds_derived.random_signs((d**2).sum(axis=0), rows)
    return [
        Exact(dx, norm.backward(d * scale.astype(np.float64))),
        Exact(tape.gradients["n.weight"], of_scale),
        Exact(tape.gradients["n.bias"], of_bias),
    ]


def gelu(dy: Array, x: Array) -> list[Exact]:
    """Gradient of GELU; the product with the cotangent adds one rounding."""
    slope = gelu_slope(x)
    d = np.abs(dy.astype(np.float64))
    value = gelu_64(x.astype(np.float64))[1](dy.astype(np.float64))
    # The oracle's own Phi = (1 + erf) / 2 has an absolute error of 2^-53, which is far below u for |x| < 5.
    return [Exact(value, d * slope.allowance + U * np.abs(value) + 2.0**-52 * d)]


def embedding(dy: Array, table: Array, ids: Array) -> list[Exact]:
    """Gradient of a gather with respect to the table: each row sums the cotangents with its id; 0 without any."""
    tape = Tape({"e.weight": table})
    tape.embedding(ids, "e")[1](dy.astype(np.float64))
    size = added(np.zeros(table.shape), ids, np.abs(dy.astype(np.float64)))
    count = np.bincount(ids, minlength=len(table))
    limit = np.where(count[:, None] > 1, bounds_derived.LAMBDA * U * np.sqrt(count)[:, None] * size, 0.0)
    return [Exact(tape.gradients["e.weight"], limit)]


def loss(weights: Array, logits: Array, labels: Array) -> list[Exact]:
    """Gradient of weighted cross-entropy with respect to the logits: the weight times p, or p - 1 at the label."""
    wide, at = logits.astype(np.float64), (np.arange(len(labels)), labels)
    p, w = softmax_64(wide)[0], weights.astype(np.float64)[:, None]
    # exp(log-softmax): the log errs by u of its own size and of x - max, and exp makes that a relative error.
    of_log = np.abs(cross_entropy(logits, labels).value)[:, None] + bounds_derived.LOG
    off = bounds_derived.softmax_relative(wide) + U * of_log
    limit = np.abs(w) * (p * off + 2 * bounds_derived.TINY["float32"])
    p[at] -= 1.0
    return [Exact(w * p, limit + 3 * U * np.abs(w))]


def attention(dy: Array, q: Array, k: Array, v: Array, visible: Array) -> list[Exact]:
    """Gradients of attention with respect to q, k and v; allowances add up to first order, in the worst direction.

    A masked score has zero gradient, also in a fully masked row.
    """
    a = attention_parts(q, k, v, visible)
    p, p_off = a.p
    d = dy.astype(np.float64).transpose(0, 2, 1, 3)
    root = math.sqrt(q.shape[-1])
    turned = lambda x: x.swapaxes(-1, -2)  # noqa: E731
    dv = _times(turned(p), turned(p_off), d)
    dp, dp_off = d @ turned(a.v), bounds_derived.product(d, turned(a.v))
    mean = (dp * p).sum(axis=-1, keepdims=True)
    mixed = np.abs(dp) * p
    mean_off = (np.abs(dp) * p_off + dp_off * p).sum(axis=-1, keepdims=True)
    mean_off = mean_off + bounds_derived.one_sign(mixed.sum(axis=-1, keepdims=True), q.shape[1])
    gap = np.abs(dp) + np.abs(mean)
    ds = np.where(a.visible, p * (dp - mean), 0.0) / root
    ds_off = np.where(a.visible, p_off * gap + p * (dp_off + mean_off + 4 * U * gap), 0.0) / root
    exact = [_times(ds, ds_off, a.k), _times(turned(ds), turned(ds_off), a.q), dv]
    return [Exact(value.transpose(0, 2, 1, 3), limit.transpose(0, 2, 1, 3)) for value, limit in exact]


def feed_forward(dy: Array, x: Array, w_in: Array, b_in: Array, w_out: Array) -> list[Exact]:
    """Gradients of gelu(x W_in + b_in) W_out, four in all. GELU's second derivative is at most 2 phi(0) = 0.8."""
    d, a, w, b, out = (leaf.astype(np.float64) for leaf in (dy, x, w_in, b_in, w_out))
    h = a @ w + b
    h_off = bounds_derived.product(a, w) + U * np.abs(h)
    tails = tail(h)
    g, back = gelu_64(h)
    g_off = bounds_derived.gelu(h, tails) + 1.13 * h_off
    dg, dg_off = d @ out.T, bounds_derived.product(d, out.T)
    slope_off = bounds_derived.gelu_slope(h, tails) + 0.8 * h_off
    dh = back(dg)
    dh_off = np.abs(dg) * slope_off + 1.13 * dg_off + 2 * U * np.abs(dh)
    return [
        _times(dh, dh_off, w.T),
        Exact(a.T @ dh, bounds_derived.product_of(a.T, np.zeros_like(a.T), dh, dh_off)),
        Exact(dh.sum(axis=0), bounds_derived.one_sign(np.abs(dh).sum(axis=0), len(x)) + dh_off.sum(axis=0)),
        _times(g.T, g_off.T, d),
    ]
