"""Variants inside the network's blocks: attention, LayerNorm, linear layers, and what a layer adds up."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ...adapter import Arrays, HostBatch
from ..model import Network
from ..sharded import ShardedTrainer
from ..tape import Array, Back, Tape
from .network import identity, of_network, operator
from .table import Wrong, wrong

Scores = tuple[Array, Callable[[Array], tuple[Array, Array]]]


# What attention sees.


@of_network("last-token-hidden")
def _last_hidden(network: Network, batch: HostBatch) -> None:
    length = np.maximum(batch.attention_mask.sum(axis=1, keepdims=True) - 1, 1)
    network.visible = network.visible & (np.arange(batch.input_ids.shape[1]) < length)[:, None, None, :]


def _scores(entry: str) -> Callable[[Callable[..., Scores]], None]:
    """The decorated function gives scores and their backward pass: (network, q, k, scale, ...)."""

    def add(function: Callable[..., Scores]) -> None:
        @of_network(entry)
        def _changed(network: Network, _: HostBatch, **value: Any) -> None:
            def scores(q: Array, k: Array) -> Scores:
                return function(network, q, k, 1 / math.sqrt(q.shape[-1]), **value)

            network.scores = scores  # type: ignore[method-assign]

    return add


@_scores("mask-multiplied")
def _multiplied(network: Network, q: Array, k: Array, scale: float) -> Scores:
    seen = network.visible * scale
    return q @ k.swapaxes(-1, -2) * seen, lambda ds: ((ds * seen) @ k, (ds * seen).swapaxes(-1, -2) @ q)


@_scores("mask-adds-little")
def _adds_little(network: Network, q: Array, k: Array, scale: float, *, value: float) -> Scores:
    scores = q @ k.swapaxes(-1, -2) * scale - value * ~network.visible
    return scores, lambda ds: (ds @ k * scale, ds.swapaxes(-1, -2) @ q * scale)


@of_network("softmax-over-queries")
def _over_queries(network: Network, _: HostBatch) -> None:
    right = network.softmax

    def softmax(x: Array) -> tuple[Array, Back]:
        p, back = right(x.swapaxes(-1, -2))
        return p.swapaxes(-1, -2), lambda dp: back(dp.swapaxes(-1, -2)).swapaxes(-1, -2)

    network.softmax = softmax


# Heads, layers and what is added.


@of_network("heads-not-transposed")
def _not_transposed(network: Network, _: HostBatch) -> None:
    def unjoin(z: Array) -> Array:
        heads = network.case.num_attention_heads
        return z.reshape(z.shape[0], heads, z.shape[1], z.shape[2] // heads)

    network.join = lambda z: z.reshape(z.shape[0], z.shape[2], -1)  # type: ignore[method-assign]
    network.unjoin = unjoin  # type: ignore[method-assign]


@of_network("heads-interleaved")
def _interleaved(network: Network, _: HostBatch) -> None:
    def split(z: Array) -> Array:
        return z.reshape(*z.shape[:2], -1, network.case.num_attention_heads).transpose(0, 3, 1, 2)

    def join(z: Array) -> Array:
        return z.transpose(0, 2, 3, 1).reshape(z.shape[0], z.shape[2], -1)

    network.split = network.unjoin = split  # type: ignore[method-assign]
    network.join = network.unsplit = join  # type: ignore[method-assign]


@of_network("one-head")
def _one_head(network: Network, _: HostBatch) -> None:
    network.case = dataclasses.replace(network.case, num_attention_heads=1)


@of_network("last-layer-skipped")
def _skipped(network: Network, _: HostBatch) -> None:
    network.case = dataclasses.replace(network.case, num_hidden_layers=network.case.num_hidden_layers - 1)


@of_network("no-residual")
def _no_residual(network: Network, _: HostBatch, *, value: str) -> None:
    attention, feed_forward = network.residuals
    network.residuals = (0.0, feed_forward) if value == "attention" else (attention, 0.0)


@of_network("norm-before")
def _norm_before(network: Network, _: HostBatch) -> None:
    def layer(x: Array, number: int) -> tuple[Array, Back]:
        name, eps = f"bert.encoder.layer.{number}", network.case.layer_norm_eps
        y, first_back = network.tape.layer_norm(x, f"{name}.attention.output.LayerNorm", eps)
        a, attention_back = network._attention(y, number)
        z, second_back = network.tape.layer_norm(x + a, f"{name}.output.LayerNorm", eps)
        f, inner_back = network._feed_forward(z, number)

        def back(dy: Array) -> Array:
            d = dy + second_back(inner_back(dy))
            return d + first_back(attention_back(d))

        return x + a + f, back

    network._layer = layer  # type: ignore[method-assign, assignment]


# Operators.


def _normalised(right: Any, x: Array, name: str, eps: float, *, kind: str, tape: Tape) -> tuple[Array, Back]:
    """LayerNorm of another kind: y = u scale + bias, u = (x - mean) / root."""
    scale, bias, width = tape.params[f"{name}.weight"], tape.params[f"{name}.bias"], x.shape[-1]
    centred = x if kind == "root mean square" else x - x.mean(axis=-1, keepdims=True)
    squares = (centred**2).mean(axis=-1, keepdims=True)
    if kind == "unbiased":
        squares = squares * width / (width - 1)
    root = np.sqrt(squares) + eps if kind == "outside" else np.sqrt(squares + eps)
    u, shift = centred / root, 1.0 if kind == "one plus" else 0.0
    # How much of the term of the variance, and of that of the mean, the derivative has.
    spread: Any = {"unbiased": width / (width - 1), "outside": root / np.sqrt(squares)}.get(kind, 1.0)
    spread = 0.0 if "detached" in kind else spread
    mean = 0.0 if kind in ("root mean square", "statistics detached") else 1.0

    def back(dy: Array) -> Array:
        axes = tuple(range(dy.ndim - 1))
        tape.gradients[f"{name}.weight"] += (dy * u).sum(axis=axes)
        tape.gradients[f"{name}.bias"] += dy.sum(axis=axes)
        d = dy * (scale + shift)
        along = (d * u).mean(axis=-1, keepdims=True)
        return (d - mean * d.mean(axis=-1, keepdims=True) - spread * u * along) / root

    return u * (scale + shift) + bias, back


def _norms(entry: str, kind: str) -> None:
    @wrong(entry, "tape")
    def _tape(right: Wrong, _: ShardedTrainer, params: Arrays) -> Tape:
        tape: Tape = right(params)
        tape.layer_norm = functools.partial(_normalised, None, kind=kind, tape=tape)  # type: ignore[method-assign]
        return tape


for _entry, _kind in (
    ("variance-unbiased", "unbiased"), ("layer-norm-epsilon-outside", "outside"),
    ("root-mean-square", "root mean square"), ("scale-plus-one", "one plus"),
    ("variance-detached", "variance detached"), ("statistics-detached", "statistics detached"),
):  # fmt: skip
    _norms(_entry, _kind)

# What a cause calls linear layers -> the ends of their names.
LINEAR = {
    "query, key and value": ("self.query", "self.key", "self.value"), "attention's output": ("attention.output.dense",),
    "the feed-forward layers": ("intermediate.dense", ".output.dense"), "the pooler": ("pooler.dense",),
    "the classifier": ("classifier",),
}  # fmt: skip


@wrong("bias-left-out", "tape")
def _without_bias(right: Wrong, _: ShardedTrainer, params: Arrays, *, value: str) -> Tape:
    tape: Tape = right(params)
    add = tape.linear

    def linear(x: Array, name: str) -> tuple[Array, Back]:
        y, back = add(x, name)
        attention = name.endswith("attention.output.dense")
        if not name.endswith(LINEAR[value]) or attention != (value == "attention's output"):
            return y, back

        def without(dy: Array) -> Array:
            before = tape.gradients[f"{name}.bias"].copy()
            dx = back(dy)
            tape.gradients[f"{name}.bias"] = before
            return dx

        return y - tape.params[f"{name}.bias"], without

    tape.linear = linear  # type: ignore[method-assign]
    return tape


@wrong("weights-exchanged", "tape")
def _exchanged(right: Wrong, _: ShardedTrainer, params: Arrays, *, value: str) -> Tape:
    one, other = value.split(" and ")
    tape: Tape = right(params)
    add = tape.linear

    def linear(x: Array, name: str) -> tuple[Array, Back]:
        head, _, last = name.rpartition(".")
        return add(x, f"{head}.{ {one: other, other: one}[last] }" if last in (one, other) else name)

    tape.linear = linear  # type: ignore[method-assign]
    return tape


def elu(x: Array) -> tuple[Array, Back]:
    """X above 0, exp(x) - 1 below (Clevert et al., 2016)."""
    e = np.exp(np.minimum(x, 0))
    return np.where(x > 0, x, e - 1), lambda dy: dy * np.where(x > 0, 1.0, e)


def silu(x: Array) -> tuple[Array, Back]:
    """X sigmoid(x), also called swish."""
    s = 1 / (1 + np.exp(-x))
    return x * s, lambda dy: dy * (s + x * s * (1 - s))


operator("elu", "gelu", elu)
operator("silu", "gelu", silu)
operator("no-activation", "gelu", identity)


def _pooler_out(right: Any, x: Array, name: str) -> tuple[Array, Back]:
    return identity(x) if name == "bert.pooler.dense" else right(x, name)


@wrong("pooler-left-out", "tape")
def _no_pooler(right: Wrong, _: ShardedTrainer, params: Arrays) -> Tape:
    tape: Tape = right(params)
    tape.tanh = identity  # type: ignore[method-assign]
    tape.linear = functools.partial(_pooler_out, tape.linear)  # type: ignore[method-assign]
    return tape


def _scaled_rows(right: Any, ids: npt.NDArray[np.integer], name: str, *, kind: str, by: float | None) -> Any:
    value, back = right(ids, name)
    if kind not in name:
        return value, back
    factor = math.sqrt(value.shape[-1]) if by is None else by
    return value * factor, lambda dy: back(dy * factor)


for _entry, _kind, _by in (
    ("words-scaled", "word", None), ("positions-left-out", "position", 0.0), ("types-left-out", "token_type", 0.0),
):  # fmt: skip
    operator(_entry, "embedding", functools.partial(_scaled_rows, kind=_kind, by=_by))


@wrong("word-0-does-not-learn", "tape")
def _padding_index(right: Wrong, _: ShardedTrainer, params: Arrays) -> Tape:
    tape: Tape = right(params)
    look_up = tape.embedding

    def embedding(ids: npt.NDArray[np.integer], name: str) -> tuple[Array, Callable[[Array], None]]:
        value, back = look_up(ids, name)
        return value, lambda dy: back(dy * (ids != 0)[..., None] if "word" in name else dy)

    tape.embedding = embedding  # type: ignore[method-assign]
    return tape
