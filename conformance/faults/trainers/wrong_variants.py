"""Trainers whose wrong cause was once named: each fails as another fault does, so only its numbers tell them apart."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...adapter import Arrays, Case, HostBatch, StepResult
from ...oracle.masks import Masks
from ...oracle.model import Network
from ...oracle.tape import Array, Back, Params, Tape
from ...oracle.updates import clip, norm_of
from ...oracle.variants.network import gelu_by_tanh
from ..backend.seeding import SeededFaults
from .numpy_trainer import NumpyTrainer, Sums

FAULTS = SeededFaults(NumpyTrainer)

FAULTS.method("optimizer-by-default", "start")(
    lambda right, self, case, *rest: right(
        self, dataclasses.replace(case, b1=0.9, b2=0.999, eps=1e-6, clip_norm=None), *rest
    )
)
FAULTS.method("logits-too-large", "evaluate")(lambda right, self, batch: right(self, batch) * (1 + 1e-5))


@FAULTS.method("norm-without-embeddings", "clip")
def _without_embeddings(right: Any, self: NumpyTrainer, gradients: Params) -> Params:
    most = self.case.clip_norm
    norm = norm_of({name: leaf for name, leaf in gradients.items() if "_embeddings." not in name})
    return gradients if most is None else {name: leaf * min(1.0, most / norm) for name, leaf in gradients.items()}


@FAULTS.method("label-smoothing", "losses")
def _smoothing(right: Any, self: NumpyTrainer, logits: Array, batch: HostBatch) -> tuple[Array, Array]:
    if self.case.regression:
        return right(self, logits, batch)
    top = logits.max(axis=1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    wanted = 0.9 * np.eye(self.case.num_labels)[batch.labels] + 0.1 / self.case.num_labels
    return -(wanted * log_p).sum(axis=1), np.exp(log_p) - wanted


@FAULTS.method("labels-shifted-in-shards", "shards")
def _shifted(right: Any, self: NumpyTrainer, batch: HostBatch) -> list[HostBatch]:
    shards = right(self, batch)
    return [one._replace(labels=np.roll(one.labels, 1)) for one in shards] if self.n > 1 else shards


@FAULTS.trainer("one-batch-behind")
class _Behind(NumpyTrainer):
    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.fetched: HostBatch | None = None

    def step(self, batch: HostBatch) -> StepResult:
        fetched, self.fetched = self.fetched, batch
        return super().step(batch if fetched is None else fetched)


@FAULTS.method("rows-rounded-to-fours", "sums")
def _fours(right: Any, self: NumpyTrainer, batch: HostBatch) -> Sums:
    whole = right(self, batch)
    if len(batch.weights) % 4 == 0 or not batch.weights[-1]:
        return whole
    lost = right(
        self, batch._replace(weights=batch.weights * (np.arange(len(batch.weights)) == len(batch.weights) - 1))
    )
    kept = {name: leaf - 0.01 * lost.gradients[name] for name, leaf in whole.gradients.items()}
    return Sums(whole.weight, whole.loss - 0.01 * lost.loss, kept)


@FAULTS.trainer("clipped-by-device")
class _ClippedByDevice(NumpyTrainer):
    """Each device clips the mean gradient of its own rows; the mean of these, by weight, is not clipped again."""

    updating = False

    def step(self, batch: HostBatch) -> StepResult:
        self.updating = True
        result = super().step(batch)
        self.updating = False
        return result

    def sums(self, batch: HostBatch) -> Sums:
        own = super().sums(batch)
        if not self.updating or not own.weight:
            return own
        clipped = clip(own.mean().gradients, self.case.clip_norm)
        return own._replace(gradients={name: leaf * own.weight for name, leaf in clipped.items()})

    def clip(self, gradients: Params) -> Params:
        return gradients


@FAULTS.method("last-norm-skips-odd-lengths", "network")
def _odd_lengths(right: Any, self: NumpyTrainer, batch: HostBatch, masks: Masks | None) -> Network:
    network: Network = right(self, batch, masks)
    tape: Tape = network.tape
    norm, last = tape.layer_norm, f"bert.encoder.layer.{self.case.num_hidden_layers - 1}.output.LayerNorm"
    odd = (batch.attention_mask.sum(axis=1) % 2 == 1)[:, None, None]

    def skipped(x: Array, name: str, eps: float) -> tuple[Array, Back]:
        y, back = norm(x, name, eps)
        if name != last:
            return y, back
        return np.where(odd, x, y), lambda dy: np.where(odd, dy, 0) + back(np.where(odd, 0, dy))

    tape.layer_norm = skipped  # type: ignore[method-assign]
    return network


@FAULTS.trainer("three-defects-of-the-network")
class _ThreeDefects(NumpyTrainer):
    """A mask by `token_id != 0`, LayerNorm with an epsilon of 1e-5, and GELU by tanh."""

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(dataclasses.replace(case, layer_norm_eps=1e-5), params, n_devices)

    def tape(self, params: Arrays) -> Tape:
        tape = super().tape(params)
        tape.gelu = gelu_by_tanh  # type: ignore[method-assign]
        return tape

    def network(self, batch: HostBatch, masks: Masks | None) -> Network:
        network = super().network(batch, masks)
        network.visible = network.visible & (network.ids[0] != 0)[:, None, None, :]
        return network


@FAULTS.method("scores-exchanged", "score")
def _exchanged(right: Any, self: NumpyTrainer, batches: Sequence[HostBatch]) -> dict[str, float]:
    score = right(self, batches)
    return {"accuracy": score["f1"], "f1": score["accuracy"]}


@FAULTS.method("f1-of-class-0", "score")
def _of_class_0(right: Any, self: NumpyTrainer, batches: Sequence[HostBatch]) -> dict[str, float]:
    correct, rows, hits, positives = np.sum([self.counts(batch) for batch in batches], axis=0)
    negatives = 2 * rows - positives
    both = 2 * correct - hits
    return {"accuracy": float(correct / rows), "f1": float(both / negatives) if negatives else 0.0}
