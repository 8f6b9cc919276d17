"""Trainers wrong within one device's part of the step: rows, operators, derivatives, precision, dropout."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ...adapter import Arrays, Case, HostBatch
from ...oracle import model
from ...oracle.masks import Masks
from ...oracle.model import Array, Back, Network, Params, Tape
from ..backend.seeding import WrongTrainers, patch
from .numpy_trainer import NumpyTrainer, Sums, rounded

wrong = WrongTrainers(NumpyTrainer, "numpy")


# Trainers with one wrong method of one expression.
wrong.method(
    "gradient-halved", "gradients", lambda right, self, batch: {k: g / 2 for k, g in right(self, batch).items()}
)
wrong.method("bfloat16-ignored", "tape", lambda right, self, params: Tape(params))
wrong.method("one-mask-for-all-steps", "masks", lambda right, self, step: right(self, 0))


# Rows.


@wrong("padding-counts")
class _PaddingCounts(NumpyTrainer):
    def shards(self, batch: HostBatch) -> list[HostBatch]:
        # Padding may hold values out of range.
        legal = batch._replace(
            input_ids=batch.input_ids % self.case.vocab_size,
            token_type_ids=batch.token_type_ids % self.case.type_vocab_size,
            labels=batch.labels if self.case.regression else batch.labels % self.case.num_labels,
        )
        return super().shards(legal._replace(weights=np.where(batch.weights > 0, batch.weights, 1).astype(np.float32)))


@wrong("weights-ignored")
class _WeightsIgnored(NumpyTrainer):
    def shards(self, batch: HostBatch) -> list[HostBatch]:
        return super().shards(batch._replace(weights=(batch.weights > 0).astype(np.float32)))


# Operators.


@wrong("another-layernorm-epsilon")
class _Epsilon(NumpyTrainer):
    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(dataclasses.replace(case, layer_norm_eps=1e-5), params, n_devices)


@wrong("gelu-by-tanh")
class _GeluByTanh(NumpyTrainer):
    def forward(self, network: Network) -> tuple[Array, Callable[[Array], None]]:
        with patch(model, "gelu", gelu_by_tanh):
            return super().forward(network)


def gelu_by_tanh(x: Array) -> tuple[Array, Back]:
    """GELU as x (1 + tanh z) / 2, z = sqrt(2 / pi) (x + 0.044715 x^3): Hendrycks and Gimpel's approximation (2016)."""
    tanh = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return x * (1 + tanh) / 2, lambda dy: dy * ((1 + tanh) / 2 + x * (1 - tanh**2) * inner / 2)


@wrong("layernorm-in-one-pass")
class _OnePass(NumpyTrainer):
    def tape(self, params: Arrays) -> Tape:
        tape: Any = super().tape(params)
        tape.layer_norm = functools.partial(one_pass, tape.layer_norm)
        return tape


def one_pass(right: Any, x: Array, name: str, eps: float) -> tuple[Array, Back]:
    """LayerNorm with variance E[x^2] - E[x]^2 in float32: the error of the variance is added to epsilon."""
    narrow = x.astype(np.float32)
    variance = (narrow**2).mean(axis=-1, keepdims=True) - narrow.mean(axis=-1, keepdims=True) ** 2
    return right(x, name, eps + variance - x.var(axis=-1, keepdims=True))


@wrong("mask-ignored")
class _MaskIgnored(NumpyTrainer):
    def network(self, batch: HostBatch, masks: Masks | None) -> Network:
        seen = batch.attention_mask > 0
        padded = batch._replace(
            input_ids=np.where(seen, batch.input_ids, 0), token_type_ids=np.where(seen, batch.token_type_ids, 0)
        )
        return super().network(padded._replace(attention_mask=np.ones_like(batch.attention_mask)), masks)


@wrong("half-squared-error")
class _HalfSquare(NumpyTrainer):
    def losses(self, logits: Array, batch: HostBatch) -> tuple[Array, Array]:
        losses, slopes = super().losses(logits, batch)
        return (losses / 2, slopes / 2) if self.case.regression else (losses, slopes)


@wrong("regression-labels-cast-to-int")
class _LabelsCast(NumpyTrainer):
    def losses(self, logits: Array, batch: HostBatch) -> tuple[Array, Array]:
        return super().losses(logits, batch._replace(labels=batch.labels.astype(np.int32)))


@wrong("first-layer-has-the-seconds-weights")
class _SecondTwice(NumpyTrainer):
    def tape(self, params: Arrays) -> Tape:
        return super().tape({k: params.get(k.replace(".layer.0.", ".layer.1."), p) for k, p in params.items()})


# Derivatives.


@wrong("only-the-head-learns")
class _Frozen(NumpyTrainer):
    def sums(self, batch: HostBatch) -> Sums:
        sums, heads = super().sums(batch), ("classifier", "bert.pooler")
        leaves = {name: leaf * name.startswith(heads) for name, leaf in sums.gradients.items()}
        return sums._replace(gradients=leaves)


@wrong("duplicate-tokens-lost")
class _LastWins(NumpyTrainer):
    def tape(self, params: Arrays) -> Tape:
        tape: Any = super().tape(params)
        tape.embedding = functools.partial(last_wins, tape)
        return tape


def last_wins(tape: Tape, ids: npt.NDArray[np.integer], name: str) -> tuple[Array, Callable[[Array], None]]:
    """Rows of a table; each row's gradient is that of the last token which reads it."""

    def back(dy: Array) -> None:
        tape.gradients[f"{name}.weight"][ids] = dy

    return tape.params[f"{name}.weight"][ids], back


# Precision and dropout.


@wrong("rounded-to-float32")
class _Float32(NumpyTrainer):
    def mean(self, batch: HostBatch) -> tuple[float, Params]:
        loss, gradients = super().mean(batch)
        return loss, {name: rounded(leaf, np.float32) for name, leaf in gradients.items()}


@wrong("dropout-high-word-lost")
class _HighWordLost(NumpyTrainer):
    def masks(self, step: int) -> Masks | None:
        return Masks(self.case.seed & 0xFFFFFFFF, step) if self.case.dropout else None


@wrong("dropout-in-evaluation")
class _DropoutInEvaluation(NumpyTrainer):
    def evaluate(self, batch: HostBatch) -> Array:
        return self.forward(self.network(batch, Masks(0, 0)))[0]


@wrong("hidden-dropout-for-the-classifier")
class _ClassifierDropout(NumpyTrainer):
    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(dataclasses.replace(case, classifier_dropout=case.hidden_dropout), params, n_devices)


@wrong("dropout-by-row")
class _ByRow(NumpyTrainer):
    def shards(self, batch: HostBatch) -> list[HostBatch]:
        shards = super().shards(batch)
        return [shard._replace(example_ids=np.arange(len(shard.weights), dtype=np.uint32)) for shard in shards]


@wrong("dropout-by-slot")
class _BySlot(_ByRow):
    def shards(self, batch: HostBatch) -> list[HostBatch]:
        return super().shards(batch) if self.case.pack else NumpyTrainer.shards(self, batch)
