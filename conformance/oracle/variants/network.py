"""Variants of the network: activations, embeddings, attention, normalisation, pooler."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ...adapter import Arrays, HostBatch
from ..masks import Masks
from ..model import Network
from ..sharded import ShardedTrainer
from ..tape import Array, Back, Tape
from .table import Wrong, wrong


def gelu_by_tanh(x: Array) -> tuple[Array, Back]:
    """GELU as x (1 + tanh z) / 2, z = sqrt(2 / pi) (x + 0.044715 x^3): Hendrycks and Gimpel's approximation (2016)."""
    tanh = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return x * (1 + tanh) / 2, lambda dy: dy * ((1 + tanh) / 2 + x * (1 - tanh**2) * inner / 2)


def gelu_by_sigmoid(x: Array) -> tuple[Array, Back]:
    """GELU as x sigmoid(1.702 x), the other approximation of Hendrycks and Gimpel (2016)."""
    s = 1 / (1 + np.exp(-1.702 * x))
    return x * s, lambda dy: dy * (s + 1.702 * x * s * (1 - s))


def relu(x: Array) -> tuple[Array, Back]:
    """The larger of x and 0."""
    return np.maximum(x, 0), lambda dy: dy * (x > 0)


def identity(x: Array) -> tuple[Array, Back]:
    """X itself."""
    return x, lambda dy: dy


def operator(entry: str, name: str, function: Callable[..., Any]) -> None:
    """An operator of the tape is replaced: an activation by `function(x)`, another by `function(right, *arguments)`."""
    simple = name in ("gelu", "tanh")

    @wrong(entry, "tape")
    def _tape(right: Wrong, _: ShardedTrainer, params: Arrays) -> Tape:
        tape: Tape = right(params)
        setattr(tape, name, function if simple else functools.partial(function, getattr(tape, name)))
        return tape


operator("gelu-by-tanh", "gelu", gelu_by_tanh)
operator("gelu-by-sigmoid", "gelu", gelu_by_sigmoid)
operator("relu", "gelu", relu)
operator("pooler-without-tanh", "tanh", identity)
operator("pooler-with-relu", "tanh", relu)


# Other operators.


def _query_times(right: Any, x: Array, name: str, *, factor: Callable[[int], float]) -> tuple[Array, Back]:
    y, back = right(x, name)
    if not name.endswith("self.query"):
        return y, back
    by = factor(x.shape[-1])
    return y * by, lambda dy: back(dy * by)


@wrong("scores-not-scaled", "tape")
def _not_scaled(right: Wrong, self: ShardedTrainer, params: Arrays) -> Tape:
    return _scaled_queries(right(params), math.sqrt(self.case.hidden_size / self.case.num_attention_heads))


@wrong("scores-scaled-by-width", "tape")
def _scaled_by_width(right: Wrong, self: ShardedTrainer, params: Arrays) -> Tape:
    return _scaled_queries(right(params), 1 / math.sqrt(self.case.num_attention_heads))


def _scaled_queries(tape: Tape, by: float) -> Tape:
    tape.linear = functools.partial(_query_times, tape.linear, factor=lambda _: by)  # type: ignore[method-assign]
    return tape


def _embedding_at(
    right: Any, ids: npt.NDArray[np.integer], name: str, *, kind: str, at: Callable[[Any], Any]
) -> tuple[Array, Callable[[Array], None]]:
    out: tuple[Array, Callable[[Array], None]] = right(at(ids) if kind in name else ids, name)
    return out


for _entry, _kind, _at in (
    ("token-types-ignored", "token_type", lambda ids: ids * 0),
    ("positions-ignored", "position", lambda ids: ids * 0),
    ("positions-shifted", "position", lambda ids: np.minimum(ids + 1, ids.max())),
):
    operator(_entry, "embedding", functools.partial(_embedding_at, kind=_kind, at=_at))


def _norm_left_out(right: Any, x: Array, name: str, eps: float, *, out: str) -> tuple[Array, Back]:
    return identity(x) if name == out else right(x, name, eps)


operator("embeddings-not-normalised", "layer_norm", functools.partial(_norm_left_out, out="bert.embeddings.LayerNorm"))


@wrong("last-layer-norm-left-out", "tape")
def _last_norm(right: Wrong, self: ShardedTrainer, params: Arrays) -> Tape:
    tape: Tape = right(params)
    last = f"bert.encoder.layer.{self.case.num_hidden_layers - 1}.output.LayerNorm"
    tape.layer_norm = functools.partial(_norm_left_out, tape.layer_norm, out=last)  # type: ignore[method-assign]
    return tape


def _layers(entry: str, of: Callable[..., int]) -> None:
    """Each layer has the parameters of layer `of(its number, number of layers, the variant's value)`."""

    @wrong(entry, "tape")
    def _tape(right: Wrong, self: ShardedTrainer, params: Arrays, *, value: str = "") -> Tape:
        count, moved = self.case.num_hidden_layers, dict(params)
        for k in range(count):
            own, other = f".layer.{k}.", f".layer.{of(k, count, value)}."
            moved |= {name: params[name.replace(own, other)] for name in params if own in name}
        return right(moved)


_layers("layers-reversed", lambda k, count, _: count - 1 - k)
_layers("layers-alike", lambda _, count, value: 0 if value == "first" else count - 1)


# What a cause calls a square weight -> the end of its layer's name.
SQUARE = {
    "query": "self.query", "key": "self.key", "value": "self.value", "attention's output": "attention.output.dense",
    "the pooler": "pooler.dense",
}  # fmt: skip


@wrong("square-weights-transposed", "tape")
@wrong("weight-transposed", "tape")
def _transposed(right: Wrong, _: ShardedTrainer, params: Arrays, *, value: str = "") -> Tape:
    def turned(leaf: Any) -> Any:
        return leaf.T if leaf.ndim == 2 and leaf.shape[0] == leaf.shape[1] else leaf

    ends = tuple(SQUARE.values()) if not value else (SQUARE[value],)
    layers = [name.removesuffix(".weight") for name in params if name.removesuffix(".weight").endswith(ends)]
    tape: Tape = right({**params, **{f"{name}.weight": turned(params[f"{name}.weight"]) for name in layers}})
    add = tape.linear

    def linear(x: Array, name: str) -> tuple[Array, Back]:
        y, back = add(x, name)

        def turn_back(dy: Array) -> Array:
            weight = f"{name}.weight"
            before = tape.gradients[weight].copy()
            dx = back(dy)
            tape.gradients[weight] = before + turned(tape.gradients[weight] - before)
            return dx

        return y, turn_back if name in layers else back

    tape.linear = linear  # type: ignore[method-assign]
    return tape


# What attention sees, and what the pooler reads.


def of_network(entry: str) -> Callable[[Callable[..., None]], None]:
    """The decorated function changes the network that is ready for a batch."""

    def add(change: Callable[..., None]) -> None:
        @wrong(entry, "network")
        def _changed(right: Wrong, _: ShardedTrainer, batch: HostBatch, masks: Masks | None, **value: Any) -> Network:
            network: Network = right(batch, masks)
            change(network, batch, **value)
            return network

    return add


@of_network("mask-by-token-id")
def _by_token_id(network: Network, _: HostBatch) -> None:
    network.visible = network.visible & (network.ids[0] != 0)[:, None, None, :]


@of_network("mask-ignored")
def _mask_ignored(network: Network, _: HostBatch) -> None:
    network.visible = np.ones_like(network.visible)


@of_network("causal-attention")
def _causal(network: Network, batch: HostBatch) -> None:
    network.visible = network.visible & np.tri(batch.input_ids.shape[1], dtype=bool)


@of_network("pooler-reads-mean")
def _reads_mean(network: Network, batch: HostBatch) -> None:
    real = (batch.attention_mask > 0) / batch.attention_mask.sum(axis=1, keepdims=True)
    network.first = functools.partial(_weighted, share=real)  # type: ignore[method-assign]


@of_network("pooler-reads-last")
def _reads_last(network: Network, batch: HostBatch) -> None:
    last = np.arange(batch.input_ids.shape[1]) == batch.attention_mask.sum(axis=1, keepdims=True) - 1
    network.first = functools.partial(_weighted, share=last.astype(float))  # type: ignore[method-assign]


def _weighted(x: Array, *, share: Array) -> tuple[Array, Back]:
    return (x * share[:, :, None]).sum(axis=1, keepdims=True), lambda dy: dy * share[:, :, None]


def last_token_wins(tape: Tape) -> Tape:
    """The operators, except that a row of a table gets the gradient of the last token that reads it only."""

    def last_wins(ids: npt.NDArray[np.integer], name: str) -> tuple[Array, Callable[[Array], None]]:
        def back(dy: Array) -> None:
            tape.gradients[f"{name}.weight"][ids] = dy

        return tape.params[f"{name}.weight"][ids], back

    tape.embedding = last_wins  # type: ignore[method-assign]
    return tape


@wrong("duplicate-tokens-lost", "tape")
def _duplicates_lost(right: Wrong, _: ShardedTrainer, params: Arrays) -> Tape:
    return last_token_wins(right(params))
