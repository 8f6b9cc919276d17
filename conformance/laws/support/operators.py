"""Arrays -> arrays: the operators of BERT as a JAX model writes them, and the ways to run one. These are under test.

Nothing clever stands here: what a Flax BERT compiles is `jnp`, `jax.nn` and `lax`, so that is what the laws ask.
Shapes are written with M rows, K contracted, N columns; B examples, L tokens, H heads, D features of a head; V rows of
a table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ...core.check import Check
from ...core.meshes import shard_map

Array = npt.NDArray[Any]
Formula = Callable[..., Any]
HIGHEST = lax.Precision.HIGHEST


def dot(a: Any, b: Any, over: tuple[int, int] = (1, 0), precision: Any = HIGHEST, out: Any = None) -> Any:
    """One contraction of two matrices over the axes `over`."""
    dims = (((over[0],), (over[1],)), ((), ()))
    return lax.dot_general(a, b, dims, precision=precision, preferred_element_type=out)


def linear_forms(x: Any, w: Any, dy: Any, bias: Any, alpha: Any, precision: Any = HIGHEST) -> tuple[Any, ...]:
    """A linear layer's three products, x W, dy W^T and x^T dy, and alpha * (x W + bias), in one program."""
    forward = dot(x, w, (1, 0), precision)
    return forward, dot(dy, w, (1, 1), precision), dot(x, dy, (0, 0), precision), alpha * (forward + bias)


def linear_forms_by_default(x: Any, w: Any, dy: Any, bias: Any, alpha: Any) -> tuple[Any, ...]:
    """`linear_forms` at the precision in force."""
    return linear_forms(x, w, dy, bias, alpha, None)


def attention_products(q: Any, k: Any, p: Any, v: Any) -> tuple[Any, Any]:
    """Attention's batched products: scores of q and k [B, L, H, D], and the mixture of v by p [B, H, L, L]."""
    return (
        jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=HIGHEST),
        jnp.einsum("bhqk,bkhd->bqhd", p, v, precision=HIGHEST),
    )


def low_precision_forms(a: Any, b: Any) -> tuple[Any, Any]:
    """A product of half-precision operands, asked for in float32 and in their own format."""
    return dot(a, b, out=jnp.float32), dot(a, b)


def total(x: Any) -> Any:
    """The sum, in the format of x."""
    return jnp.sum(x)


def matmul(x: Any, w: Any) -> Any:
    """X W."""
    return dot(x, w)


def linear(x: Any, w: Any, b: Any) -> Any:
    """The affine map x W + b."""
    return dot(x, w) + b


def softmax(x: Any) -> Any:
    """Over the last axis."""
    return jax.nn.softmax(x, axis=-1)


def layer_norm(x: Any, scale: Any, bias: Any) -> Any:
    """Over the last axis, variance in two passes, epsilon 1e-12 as in BERT."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred * lax.rsqrt(variance + 1e-12) * scale + bias


def gelu(x: Any) -> Any:
    """GELU by the error function."""
    return jax.nn.gelu(x, approximate=False)


def tanh(x: Any) -> Any:
    """As in BERT's pooler."""
    return jnp.tanh(x)


def tanh_of_prefixes(x: Any) -> tuple[Any, ...]:
    """Of the first element, the first two, and so on: lengths that leave a rest beside any vector unit."""
    return tuple(tanh(x[:n]) for n in range(1, len(x) + 1))


def cross_entropy(logits: Any, labels: Any) -> Any:
    """The loss of each row."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]


def gather(table: Any, ids: Any) -> Any:
    """Rows of a table, as `flax.linen.Embed` reads them."""
    return jnp.take(table, ids, axis=0)


def scatter_add(start: Any, ids: Any, updates: Any) -> Any:
    """Rows added to the rows of a table, the backward pass of `gather`."""
    return start.at[ids].add(updates)


def attention(q: Any, k: Any, v: Any, visible: Any) -> Any:
    """Multi-head attention over [B, L, H, D], keys that are not `visible` [B, L] masked as Flax masks them."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=HIGHEST) / np.sqrt(q.shape[-1]).astype(np.float32)
    scores = jnp.where(visible[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v, precision=HIGHEST)


def feed_forward(x: Any, w_in: Any, b_in: Any, w_out: Any) -> Any:
    """X -> gelu(x W_in + b_in) W_out."""
    return dot(gelu(linear(x, w_in, b_in)), w_out)


def feed_forward_again(*args: Any) -> Any:
    """The same, with what lies between computed a second time in the backward pass."""
    return jax.checkpoint(feed_forward)(*args)


def guarded_losses(x: Any, seen: Any) -> Any:
    """A loss for each row, of nothing but zeros where a row is not `seen`."""
    safe = jnp.where(seen[:, None], x, 0.0)
    return (jax.nn.softmax(safe) * safe).sum(axis=-1)


@functools.cache
def reductions(sizes: tuple[int, ...]) -> Formula:
    """Of the first elements, as many as each size says: two sums, a maximum, its place and a sum, in one program."""

    def reduce(whole: Any, integers: Any, parts: Any) -> tuple[Any, ...]:
        cuts = [(whole[:n], integers[:n], parts[:n]) for n in sizes]
        return tuple(leaf for w, i, x in cuts for leaf in (w.sum(), i.sum(), x.max(), x.argmax(), x.sum()))

    return reduce


def sums_by_axis(x: Any) -> tuple[Any, Any]:
    """Of the columns and of the rows of a matrix."""
    return x.sum(axis=0), x.sum(axis=1)


@functools.cache
def vjp(formula: Formula, wrt: int) -> Formula:
    """(cotangent, *arguments) -> gradients by the first `wrt` arguments."""

    def backward(cotangent: Any, *args: Any) -> Any:
        return jax.vjp(lambda *first: formula(*first, *args[wrt:]), *args[:wrt])[1](cotangent)

    return backward


@functools.cache
def jitted(formula: Formula) -> Formula:
    """One compiled function for each formula, so that new values cost no new program."""
    return jax.jit(formula)


@functools.cache
def everywhere(formula: Formula, devices: tuple[Any, ...]) -> Formula:
    """The formula on every device at once, each with all of the arguments: one program; outputs are stacked."""

    def alone(*args: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[None], formula(*args))

    mesh, every = Mesh(np.array(devices), ("device",)), PartitionSpec()
    compiled = jax.jit(shard_map(alone, mesh, every, PartitionSpec("device"), check=False))

    def call(*args: Any) -> Any:
        return compiled(*jax.device_put(args, NamedSharding(mesh, every)))

    return call


class Machine:
    """Runs formulas for one check: on the first device, and from the standard level on also on every device.

    Args:
        check: its level decides.
        devices: to verify.
    """

    def __init__(self, check: Check, devices: Sequence[Any]) -> None:
        self.devices = tuple(devices)
        self._spreads = check.at("standard") and len(devices) > 1
        self._seen: set[Any] = set()

    def run(self, formula: Formula, *args: Any, spread: bool = True) -> list[tuple[str, tuple[Array, ...]]]:
        """(where, outputs) for each place; every device only at the first values of each shape, for its time."""
        placed = jax.device_put(args, self.devices[0])
        found = [("", _tuple(jitted(formula)(*placed)))]
        key = formula, tuple(np.shape(leaf) for leaf in args)
        if self._spreads and spread and key not in self._seen:
            self._seen.add(key)
            stacked = _tuple(everywhere(formula, self.devices)(*args))
            found += [(f" on {device}", tuple(leaf[i] for leaf in stacked)) for i, device in enumerate(self.devices)]
        return found

    def first(self, formula: Formula, *args: Any) -> Any:
        """The outputs on the first device, compiled, as the formula returns them."""
        return jax.tree.map(np.asarray, jitted(formula)(*jax.device_put(args, self.devices[0])))


def _tuple(out: Any) -> tuple[Array, ...]:
    return tuple(np.asarray(leaf) for leaf in jax.tree.leaves(out))
