"""Families of operators, for laws that check all of them: arguments -> the float64 value and each element's allowance.

The laws of single operators draw harder values. Here each family has one small shape that shows its structure:
independent rows, ids that occur twice, a masked key.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...core.comparison import Array
from ...oracle import bounds_derived
from ...oracle.tape import softmax as softmax_64
from . import operators
from .operators import Exact

Args = tuple[Array, ...]


@dataclass(frozen=True)
class Family:
    """One operator, at one shape."""

    name: str  # of the formula in `operators`
    draw: Callable[[np.random.Generator], Args]  # a generator -> arguments
    exact: Callable[..., Exact]  # arguments -> the value and its allowance
    by_id: bool = False  # whether row i of the output is read from row args[1][i] of args[0]

    @property
    def formula(self) -> operators.Formula:
        """The function in `operators`, looked up at each use, so that a fault seeded there is tested."""
        formula: operators.Formula = getattr(operators, self.name)
        return formula


def normal(g: np.random.Generator, *shape: int) -> Array:
    """Random numbers of mean zero and variance one."""
    return g.standard_normal(shape, np.float32)


def tail(x: Array) -> Array:
    """The upper tail of the normal distribution at |x|, from the C library's erfc."""
    z = np.abs(np.asarray(x, np.float64)) / math.sqrt(2.0)
    return 0.5 * np.fromiter(map(math.erfc, z.ravel()), np.float64, z.size).reshape(z.shape)


def matmul(x: Array, w: Array) -> Exact:
    """The product x W."""
    a, b = x.astype(np.float64), w.astype(np.float64)
    return Exact(a @ b, bounds_derived.product(a, b))


def softmax(x: Array) -> Exact:
    """Softmax over the last axis."""
    p = softmax_64(x.astype(np.float64))[0]
    return Exact(p, bounds_derived.softmax(x.astype(np.float64), p))


def layer_norm(x: Array, scale: Array, bias: Array) -> Exact:
    """LayerNorm with epsilon 1e-12."""
    s, b = scale.astype(np.float64), bias.astype(np.float64)
    norm = bounds_derived.LayerNorm(x.astype(np.float64), 1e-12)
    return Exact(norm.unit * s + b, norm.forward(s, b))


def gelu(x: Array) -> Exact:
    """GELU, x Phi(x)."""
    wide, t = x.astype(np.float64), tail(x)
    return Exact(wide * np.where(wide > 0, 1.0 - t, t), bounds_derived.gelu(wide, t))


def gelu_slope(x: Array) -> Exact:
    """Phi(x) + x phi(x)."""
    wide, t = x.astype(np.float64), tail(x)
    bell = wide * np.exp(-0.5 * wide**2) / math.sqrt(2.0 * math.pi)
    return Exact(np.where(wide > 0, 1.0 - t, t) + bell, bounds_derived.gelu_slope(wide, t))


def tanh(x: Array) -> Exact:
    """The C library's tanh."""
    y = np.tanh(x.astype(np.float64))
    return Exact(y, bounds_derived.tanh(y))


def cross_entropy(logits: Array, labels: Array) -> Exact:
    """Log sum exp minus the label's logit."""
    x, at = logits.astype(np.float64), (np.arange(len(labels)), labels)
    top = x.max(axis=-1, keepdims=True)
    losses = np.log(np.exp(x - top).sum(axis=-1)) + (top - x)[at]
    return Exact(losses, bounds_derived.cross_entropy(x, losses, at))


def added(table: Array, ids: Array, updates: Array) -> Array:
    """A copy of the table, in its dtype, with each row of `updates` added to the row that its id names."""
    total = table.copy()
    np.add.at(total, ids, updates)
    return total


def gather(table: Array, ids: Array) -> Exact:
    """Rows of a table, exactly."""
    return Exact(table[ids].astype(np.float64), np.zeros(1))


def scatter_add(start: Array, ids: Array, updates: Array) -> Exact:
    """`added` in float64. The allowance of a row is for a sum of as many terms as have its id, in any order."""
    table, wide = start.astype(np.float64), updates.astype(np.float64)
    size, count = added(np.abs(table), ids, np.abs(wide)), np.bincount(ids, minlength=len(start))
    return Exact(added(table, ids, wide), bounds_derived.LAMBDA * bounds_derived.U * np.sqrt(count)[:, None] * size)


class Attention(NamedTuple):
    """The parts of attention in float64, by head [B, H, L, ...]."""

    q: Array
    k: Array
    v: Array
    visible: Array
    p: Exact
    out: Exact


def attention_parts(q: Array, k: Array, v: Array, visible: Array) -> Attention:
    """All parts of attention. Scores err by their product and two roundings, which exp turns into a relative error.

    Masked keys have probability zero; in a fully masked row all keys have exactly the same probability.
    """
    q, k, v = (leaf.astype(np.float64).transpose(0, 2, 1, 3) for leaf in (q, k, v))
    root = math.sqrt(q.shape[-1])
    seen = np.broadcast_to(visible[:, None, None, :], (*q.shape[:3], k.shape[2]))
    some = seen.any(axis=-1, keepdims=True)
    raw = q @ k.swapaxes(-1, -2) / root
    scores = np.where(seen, raw, np.where(some, -np.inf, 0.0))
    off = bounds_derived.product(q, k.swapaxes(-1, -2)) / root + 3 * bounds_derived.U * np.abs(raw)
    # The probabilities of a row share one sum, so each errs by its own score's error and by the row's largest error.
    off = np.where(seen, off, 0.0)
    off = off + off.max(axis=-1, keepdims=True)
    p = softmax_64(scores)[0]
    p_off = p * (off + bounds_derived.softmax_relative(scores)) + bounds_derived.TINY["float32"]
    out = Exact(p @ v, bounds_derived.product_of(p, p_off, v, np.zeros_like(v)))
    return Attention(q, k, v, seen, Exact(p, p_off), out)


def attention(q: Array, k: Array, v: Array, visible: Array) -> Exact:
    """Attention over [B, L, H, D]."""
    return Exact(*(leaf.transpose(0, 2, 1, 3) for leaf in attention_parts(q, k, v, visible).out))


def draw_attention(rng: np.random.Generator, b: int, length: int, h: int, d: int) -> Args:
    """Queries, keys, values, and a ragged mask [B, L]; the first example is unmasked, the last fully masked."""
    q, k, v = 2 * normal(rng, b, length, h, d), normal(rng, b, length, h, d), normal(rng, b, length, h, d)
    lengths = rng.integers(1, length + 1, b)
    lengths[0], lengths[-1] = length, 0
    return q, k, v, np.arange(length) < lengths[:, None]


def _ids(g: np.random.Generator, below: int, n: int) -> Array:
    return g.integers(0, below, n).astype(np.int32)


FAMILIES = (
    Family("matmul", lambda g: (normal(g, 9, 48), normal(g, 48, 17)), matmul),
    Family("softmax", lambda g: (4 * normal(g, 9, 33),), softmax),
    Family("layer_norm", lambda g: (normal(g, 9, 33) + 3, normal(g, 33), normal(g, 33)), layer_norm),
    Family("gelu", lambda g: (3 * normal(g, 9, 33),), gelu),
    Family("tanh", lambda g: (2 * normal(g, 9, 33),), tanh),
    Family("cross_entropy", lambda g: (9 * normal(g, 9, 33), _ids(g, 33, 9)), cross_entropy),
    Family("gather", lambda g: (normal(g, 19, 33), _ids(g, 19, 23)), gather, by_id=True),
    Family("scatter_add", lambda g: (normal(g, 9, 33), _ids(g, 9, 23), normal(g, 23, 33)), scatter_add),
    Family("attention", lambda g: draw_attention(g, 4, 6, 3, 5), attention),
)
