"""Trainers wrong within one device's part of the step: rows, operators, derivatives, precision, dropout."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ...adapter import Arrays, HostBatch
from ...oracle.draws import rows_of
from ...oracle.masks import Masks
from ...oracle.model import Network
from ...oracle.tape import Array, Back, Tape
from ...oracle.variants.network import gelu_by_tanh, last_token_wins
from ...oracle.variants.sums import with_padding
from ..backend.seeding import SeededFaults
from .numpy_trainer import NumpyTrainer, Sums, rounded

FAULTS = SeededFaults(NumpyTrainer)

# Trainers with one wrong method of one expression.
FAULTS.method("gradient-halved", "gradients")(
    lambda right, self, batch: {name: leaf / 2 for name, leaf in right(self, batch).items()}
)
FAULTS.method("bfloat16-ignored", "tape")(lambda right, self, params: Tape(params))
FAULTS.method("weights-ignored", "shards")(
    lambda right, self, batch: right(self, batch._replace(weights=(batch.weights > 0).astype(np.float32)))
)
FAULTS.method("regression-labels-cast-to-int", "losses")(
    lambda right, self, logits, batch: right(self, logits, batch._replace(labels=batch.labels.astype(np.int32)))
)
FAULTS.method("first-layer-has-the-seconds-weights", "tape")(
    lambda right, self, params: right(
        self, {k: params.get(k.replace(".layer.0.", ".layer.1."), p) for k, p in params.items()}
    )
)
FAULTS.method("another-layernorm-epsilon", "start")(
    lambda right, self, case, *rest: right(self, dataclasses.replace(case, layer_norm_eps=1e-5), *rest)
)
FAULTS.method("hidden-dropout-for-the-classifier", "start")(
    lambda right, self, case, *rest: right(
        self, dataclasses.replace(case, classifier_dropout=case.hidden_dropout), *rest
    )
)
FAULTS.method("odd-row-dropped", "sums")(
    lambda right, self, batch: right(self, rows_of(batch, np.arange(len(batch.weights) // 2 * 2)))
)
FAULTS.method("one-mask-for-all-steps", "masks")(lambda right, self, step: right(self, 0))
FAULTS.method("dropout-high-word-lost", "masks")(
    lambda right, self, step: Masks(self.case.seed & 0xFFFFFFFF, step) if self.case.dropout else None
)
FAULTS.method("dropout-in-evaluation", "evaluate")(
    lambda right, self, batch: self.forward(self.network(batch, Masks(0, 0)))[0]
)


@FAULTS.method("padding-counts", "shards")
def _padding_counts(right: Any, self: NumpyTrainer, batch: HostBatch) -> list[HostBatch]:
    return right(self, with_padding(self.case, batch))


@FAULTS.method("gelu-by-tanh", "tape")
def _by_tanh(right: Any, self: NumpyTrainer, params: Arrays) -> Tape:
    tape: Tape = right(self, params)
    tape.gelu = gelu_by_tanh  # type: ignore[method-assign]
    return tape


@FAULTS.method("softmax-without-maximum", "network")
def _without_maximum(right: Any, self: NumpyTrainer, *rest: Any) -> Network:
    network = right(self, *rest)
    network.softmax = plain_softmax
    return network


def plain_softmax(x: Array) -> tuple[Array, Back]:
    """exp(x) / sum exp(x), whose exp overflows as in float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.where(x > np.log(np.finfo(np.float32).max), np.inf, np.exp(x))
        p = e / e.sum(axis=-1, keepdims=True)
    return p, lambda dp: p * (dp - (dp * p).sum(axis=-1, keepdims=True))


@FAULTS.method("softmax-in-float32", "network")
def _narrow_softmax(right: Any, self: NumpyTrainer, *rest: Any) -> Network:
    network = right(self, *rest)
    softmax = network.softmax

    def narrow(x: Array) -> tuple[Array, Back]:
        p, back = softmax(rounded(x, np.float32))
        return rounded(p, np.float32), back

    if self.case.precision == "float64":
        network.softmax = narrow
    return network


@FAULTS.method("layernorm-in-one-pass", "tape")
def _in_one_pass(right: Any, self: NumpyTrainer, params: Arrays) -> Tape:
    """LayerNorm with variance E[x^2] - E[x]^2 in float32: the error of the variance is added to epsilon."""
    tape = right(self, params)
    layer_norm = tape.layer_norm

    def one_pass(x: Array, name: str, eps: float) -> tuple[Array, Back]:
        narrow = x.astype(np.float32)
        variance = (narrow**2).mean(axis=-1, keepdims=True) - narrow.mean(axis=-1, keepdims=True) ** 2
        return layer_norm(x, name, eps + variance - x.var(axis=-1, keepdims=True))

    tape.layer_norm = one_pass
    return tape


@FAULTS.method("mask-ignored", "network")
def _mask_ignored(right: Any, self: NumpyTrainer, batch: HostBatch, masks: Masks | None) -> Network:
    ids, types = (np.where(batch.attention_mask > 0, kind, 0) for kind in (batch.input_ids, batch.token_type_ids))
    visible = np.ones_like(batch.attention_mask)
    return right(self, batch._replace(input_ids=ids, token_type_ids=types, attention_mask=visible), masks)


@FAULTS.method("loss-of-clipped-probabilities", "losses")
def _of_probabilities(right: Any, self: NumpyTrainer, logits: Array, batch: HostBatch) -> tuple[Array, Array]:
    losses, slopes = right(self, logits, batch)
    return losses if self.case.regression else np.minimum(losses, -math.log(1e-7)), slopes


@FAULTS.method("half-squared-error", "losses")
def _half_square(right: Any, self: NumpyTrainer, logits: Array, batch: HostBatch) -> tuple[Array, Array]:
    losses, slopes = right(self, logits, batch)
    return (losses / 2, slopes / 2) if self.case.regression else (losses, slopes)


@FAULTS.method("only-the-head-learns", "sums")
def _frozen(right: Any, self: NumpyTrainer, batch: HostBatch) -> Sums:
    sums, heads = right(self, batch), ("classifier", "bert.pooler")
    return sums._replace(gradients={name: leaf * name.startswith(heads) for name, leaf in sums.gradients.items()})


@FAULTS.method("duplicate-tokens-lost", "tape")
def _duplicates_lost(right: Any, self: NumpyTrainer, params: Arrays) -> Tape:
    return last_token_wins(right(self, params))


@FAULTS.method("rounded-to-float32", "mean")
def _float32(right: Any, self: NumpyTrainer, batch: HostBatch) -> tuple[float, Arrays]:
    loss, gradients = right(self, batch)
    return loss, {name: rounded(leaf, np.float32) for name, leaf in gradients.items()}


@FAULTS.method("dropout-by-row", "shards")
def _by_row(right: Any, self: NumpyTrainer, batch: HostBatch) -> list[HostBatch]:
    shards = right(self, batch)
    return [shard._replace(example_ids=np.arange(len(shard.weights), dtype=np.uint32)) for shard in shards]


FAULTS.method("dropout-by-slot", "shards")(
    lambda right, self, batch: _by_row(right, self, batch) if self.case.pack else right(self, batch)
)


@FAULTS.method("table-gradients-in-bfloat16", "tape")
def _tables_in_bfloat16(right: Any, self: NumpyTrainer, params: Arrays) -> Tape:
    """A table that is cast before its rows are read: their gradients are added up in bfloat16, one after another."""
    tape: Tape = right(self, params)
    embedding = tape.embedding

    def cast_first(ids: npt.NDArray[np.integer], name: str) -> tuple[Array, Callable[[Array], None]]:
        rows, _ = embedding(ids, name)

        def back(dy: Array) -> None:
            total = np.zeros(tape.params[f"{name}.weight"].shape, ml_dtypes.bfloat16)
            np.add.at(total, ids, dy.astype(total.dtype))
            tape.gradients[f"{name}.weight"] += total.astype(np.float64)

        return rows, back

    if self.case.precision == "bfloat16":
        tape.embedding = cast_first  # type: ignore[method-assign]
    return tape


@FAULTS.method("bias-gradients-in-bfloat16", "tape")
def _biases_in_bfloat16(right: Any, self: NumpyTrainer, params: Arrays) -> Tape:
    """Biases that are added in bfloat16: their gradients are added up in bfloat16, one token after another."""
    tape: Tape = right(self, params)
    add = tape.linear

    def linear(x: Array, name: str) -> tuple[Array, Back]:
        y, back = add(x, name)

        def back_in_bfloat16(dy: Array) -> Array:
            before = tape.gradients[f"{name}.bias"].copy()
            dx = back(dy)
            total = np.add.reduce(dy.reshape(-1, dy.shape[-1]).astype(ml_dtypes.bfloat16), axis=0)
            tape.gradients[f"{name}.bias"] = before + total.astype(np.float64)
            return dx

        return y, back_in_bfloat16

    if self.case.precision == "bfloat16":
        tape.linear = linear  # type: ignore[method-assign]
    return tape
