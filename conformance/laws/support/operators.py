"""The operators under test, written as a JAX model of BERT writes them, and ways to run one on the devices.

They are plain `jnp`, `jax.nn` and `lax`, since that is what a Flax BERT compiles. Sizes: M rows, K contracted, N
columns; B examples, L tokens, H heads, D features of a head; V rows of a table.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ...core.check import Check
from ...core.comparison import Array
from ...machine.meshes import shard_map
from ...oracle.bounds_derived import allowed

Formula = Callable[..., Any]
HIGHEST = lax.Precision.HIGHEST


def dot(a: Any, b: Any, over: tuple[int, int] = (1, 0), precision: Any = HIGHEST, out: Any = None) -> Any:
    """One contraction of two matrices over the axes `over`."""
    dims = (((over[0],), (over[1],)), ((), ()))
    return lax.dot_general(a, b, dims, precision=precision, preferred_element_type=out)


def linear_forms(x: Any, w: Any, dy: Any, bias: Any, alpha: Any, precision: Any = HIGHEST) -> tuple[Any, ...]:
    """A linear layer's products x W, dy W^T and x^T dy, and alpha * (x W + bias), in one program."""
    forward = dot(x, w, (1, 0), precision)
    return forward, dot(dy, w, (1, 1), precision), dot(x, dy, (0, 0), precision), alpha * (forward + bias)


def attention_products(q: Any, k: Any, p: Any, v: Any) -> tuple[Any, Any]:
    """Attention's batched products: scores of q and k [B, L, H, D], and the mixture of v by p [B, H, L, L]."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=HIGHEST)
    return scores, jnp.einsum("bhqk,bkhd->bqhd", p, v, precision=HIGHEST)


def low_precision_forms(a: Any, b: Any) -> tuple[Any, Any]:
    """A product of half-precision operands, in float32 and in their own format."""
    return dot(a, b, out=jnp.float32), dot(a, b)


# A linear layer's products at the precision in force; the product x W, a sum and tanh; exact GELU; softmax over the
# last axis; rows of a table, as `flax.linen.Embed` reads them.
linear_forms_by_default = functools.partial(linear_forms, precision=None)
matmul, total, tanh = dot, jnp.sum, jnp.tanh
gelu = functools.partial(jax.nn.gelu, approximate=False)
softmax = functools.partial(jax.nn.softmax, axis=-1)
gather = functools.partial(jnp.take, axis=0)


def linear(x: Any, w: Any, b: Any) -> Any:
    """The affine map x W + b."""
    return dot(x, w) + b


def layer_norm(x: Any, scale: Any, bias: Any) -> Any:
    """LayerNorm over the last axis, in two passes, with BERT's epsilon 1e-12."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred * lax.rsqrt(variance + 1e-12) * scale + bias


def tanh_of_prefixes(x: Any) -> tuple[Any, ...]:
    """The tanh of the first element, of the first two, and so on; a vector unit divides few of these lengths."""
    return tuple(tanh(x[:n]) for n in range(1, len(x) + 1))


def cross_entropy(logits: Any, labels: Any) -> Any:
    """The loss of each row."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]


def scatter_add(start: Any, ids: Any, updates: Any) -> Any:
    """The table with rows added by id: the backward pass of `gather`."""
    return start.at[ids].add(updates)


def attention(q: Any, k: Any, v: Any, visible: Any) -> Any:
    """Multi-head attention over [B, L, H, D]; keys that are not `visible` [B, L] are masked as in Flax."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=HIGHEST) / np.sqrt(q.shape[-1]).astype(np.float32)
    scores = jnp.where(visible[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v, precision=HIGHEST)


def feed_forward(x: Any, w_in: Any, b_in: Any, w_out: Any) -> Any:
    """The feed-forward block gelu(x W_in + b_in) W_out."""
    return dot(gelu(linear(x, w_in, b_in)), w_out)


# `feed_forward` whose backward pass recomputes the intermediate values.
feed_forward_again = jax.checkpoint(feed_forward)


def feed_forward_of_examples(x: Any, *weights: Any) -> Any:
    """`feed_forward_again` of x as two examples [2, tokens, features]: the shape that is kept for the backward pass."""
    again = jax.checkpoint(lambda x, *weights: feed_forward(x.reshape(-1, x.shape[-1]), *weights))
    return again(x.reshape(2, -1, x.shape[-1]), *weights)


def guarded_losses(x: Any, seen: Any) -> Any:
    """A loss for each row; `where` replaces the rows that are not `seen` by zeros."""
    safe = jnp.where(seen[:, None], x, 0.0)
    return (jax.nn.softmax(safe) * safe).sum(axis=-1)


@functools.cache
def reductions(names: tuple[str, ...], axis: int = 0) -> Formula:
    """A function of several arrays -> the reductions `names` of each over one axis, in one program."""
    return lambda *arrays: [reduced(name, x, axis) for x in arrays for name in names]


def reduced(name: str, x: Any, axis: int) -> Any:
    """A reduction of an array of JAX or NumPy over an axis: `sum`, `mean`, `max`, `argmax` or another method."""
    return getattr(x, name)(axis)


# The model's operators of two arrays, and its reductions.
BINARY = ("add", "subtract", "multiply", "divide", "maximum", "less")
REDUCTIONS = ("sum", "max", "argmax")
# Number of axes of an array -> axes that another operand has: a bias, positions, a mean over features; the masks of
# padded and of packed rows, a maximum over keys.
AXES = {3: ((2,), (1, 2), (0, 1)), 4: ((0, 3), (0, 2, 3), (0, 1, 2))}
Results = dict[str, Any]


@functools.cache
def on_squares(xp: Any) -> Formula:
    """A function of matrices x, y [n, n] and a row [n] -> name -> what each operator gives along each axis.

    If all axes have one length, a result along the wrong axis has the right shape. `xp` is `jnp` or `np`.
    """

    def forms(x: Any, y: Any, row: Any) -> Results:
        out = {"x < its transpose": x < x.T, "x + transpose of y": x + y.T, "a column below a row": row[:, None] < row}
        for side, r in {"row": row, "column": row[:, None]}.items():
            out |= {f"{name} of a matrix and a {side}": getattr(xp, name)(x, r) for name in BINARY}
            out |= {f"{name} of a {side} and a matrix": getattr(xp, name)(r, x) for name in ("subtract", "divide")}
            out[f"where a {side} is positive"] = xp.where(r > 0, x, y)
        for axis in (0, 1):
            out |= {f"{name} over axis {axis}": reduced(name, x, axis) for name in REDUCTIONS}
            out |= {
                f"x - its {name} over axis {axis}": x - getattr(x, name)(axis, keepdims=True) for name in ("sum", "max")
            }
        return out

    return forms


@functools.cache
def chains_on_squares(xp: Any) -> Formula:
    """`on_squares` in fewer results: a chain of all operators with a row, and with a column; sums and maxima."""

    def chain(x: Any, y: Any, r: Any) -> Any:
        return xp.where(r > 0, xp.maximum((x + r) * r - r, r) / r, xp.where(x < r, y, xp.minimum(y, r)))

    def forms(x: Any, y: Any, row: Any) -> Results:
        out = {"a chain on rows": chain(x, y, row), "a chain on columns": chain(x, y, row[:, None]), "transpose": x.T}
        return out | {f"{name} over axis {axis}": reduced(name, x, axis) for name in ("sum", "max") for axis in (0, 1)}

    return forms


@functools.cache
def on_cubes(axes: tuple[tuple[int, tuple[int, ...]], ...], reduced_axes: tuple[tuple[int, int], ...]) -> Formula:
    """A function of x [n, n, n, n] -> for each (rank, kept), x of that rank plus an array with the axes `kept`.

    For each (rank, axis) of `reduced_axes`, it also gives the sum and the maximum of x of that rank over the axis.
    """

    def forms(x: Any) -> Results:
        n, out = len(x), {}
        for rank, kept in axes:
            small = x.reshape(-1)[: n ** len(kept)].reshape([n if axis in kept else 1 for axis in range(rank)])
            out[f"an operand with axes {kept} of {rank}"] = x[(0,) * (4 - rank)] + small
        for (rank, axis), name in itertools.product(reduced_axes, ("sum", "max")):
            out[f"{name} over axis {axis} of {rank}"] = reduced(name, x[(0,) * (4 - rank)], axis)
        return out

    return forms


@functools.cache
def vjp(formula: Formula, wrt: int) -> Formula:
    """A function (cotangent, *arguments) -> gradients with respect to the first `wrt` arguments."""

    def backward(cotangent: Any, *args: Any) -> Any:
        return jax.vjp(lambda *first: formula(*first, *args[wrt:]), *args[:wrt])[1](cotangent)

    return backward


@functools.cache
def jitted(formula: Formula) -> Formula:
    """The formula compiled, once for all draws."""
    return jax.jit(formula)


@functools.cache
def everywhere(formula: Formula, devices: tuple[Any, ...]) -> Formula:
    """One program that runs the formula with the same arguments on each device; its outputs are stacked by device."""

    def alone(*args: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[None], formula(*args))

    mesh, every = Mesh(np.array(devices), ("device",)), PartitionSpec()
    compiled = jax.jit(shard_map(alone, mesh, every, PartitionSpec("device"), check=False))

    def call(*args: Any) -> Any:
        return compiled(*jax.device_put(args, NamedSharding(mesh, every)))

    return call


class Exact(NamedTuple):
    """A value in float64, and how far each element of a computed result may be from it."""

    value: Array
    allowance: Array


class Machine:
    """Runs formulas for one check: on the first device, and from the standard level on also on every device."""

    def __init__(self, check: Check, devices: Sequence[Any]) -> None:
        self.devices = tuple(devices)
        self._spreads = check.at("standard") and len(devices) > 1
        self._spread: set[Any] = set()

    def run(self, formula: Formula, *args: Any, spread: bool = True) -> list[tuple[str, tuple[Array, ...]]]:
        """(where, outputs) on the first device, and, once for each shape to save time, on every device."""
        placed = jax.device_put(args, self.devices[0])
        results = [("", _leaves(jitted(formula)(*placed)))]
        key = formula, tuple(np.shape(leaf) for leaf in args)
        if self._spreads and spread and key not in self._spread:
            self._spread.add(key)
            stacked = _leaves(everywhere(formula, self.devices)(*args))
            results += [(f" on {one}", tuple(leaf[i] for leaf in stacked)) for i, one in enumerate(self.devices)]
        return results

    def first(self, formula: Formula, *args: Any) -> Any:
        """The compiled formula's outputs on the first device, in the formula's structure."""
        return jax.tree.map(np.asarray, jitted(formula)(*jax.device_put(args, self.devices[0])))

    def compare(self, check: Check, what: str, formula: Formula, args: tuple[Any, ...], exact: Exact, why: str) -> None:
        """Compare the formula's one output, on each device where `run` runs it, with the exact value."""
        for where, (got,) in self.run(formula, *args):
            check.within(f"{what}{where}", got, exact.value, exact.allowance, allowed(why))


def _leaves(outputs: Any) -> tuple[Array, ...]:
    return tuple(np.asarray(leaf) for leaf in jax.tree.leaves(outputs))
