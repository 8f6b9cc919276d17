"""A data-parallel trainer in NumPy behind the kit's border, right or wrong on request.

It adds up shards as a trainer on N devices does, on the oracle's arithmetic, and compiles nothing: the laws of rungs 4
and 6 to 8 can be asked of many wrong trainers within seconds. `--adapter sftref.conformance.faults.subjects:` with the
id of a fault behind it, underscores for its hyphens, has `verify` judge one.
"""

from __future__ import annotations

import dataclasses
import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import CAPABILITIES, Arrays, Case, HostBatch, StepResult
from ..masks import Masks
from ..oracle import Network, Params, evaluate, value_and_gradient
from ..strategies import rows_of
from ..updates import clip, decays, learning_rate
from . import faults


class NumpyTrainer:
    """A trainer with at most one fault.

    Args:
        fault: the id of one that this module plants, or None.

    Raises:
        ValueError: there is no such fault.
    """

    def __init__(self, fault: str | None = None) -> None:
        if fault is not None and fault not in planted():
            raise ValueError(f"fault = {fault}, must be one of {', '.join(planted())}")
        self.fault = fault
        self.name = f"numpy ({fault or 'right'})"
        self.capabilities = CAPABILITIES - {"processes", "program", "jax", "precision:bf16"}

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        """See `TrainerUnderTest.start`."""
        if self.fault == "another-layernorm-epsilon":
            case = dataclasses.replace(case, layer_norm_eps=1e-5)
        if self.fault == "hidden-dropout-for-the-classifier":
            case = dataclasses.replace(case, classifier_dropout=case.hidden_dropout)
        if self.fault == "another-adam":
            case = dataclasses.replace(case, b1=0.9, b2=0.999, eps=1e-6)
        self.case, self.n, self.t = case, n_devices, 0
        self.now: Params = {k: np.array(v, np.float64) for k, v in params.items()}
        self.behind = self.now
        self.first: Params = {k: np.zeros_like(v) for k, v in self.now.items()}
        self.second: Params = {k: np.zeros_like(v) for k, v in self.now.items()}
        self.untouched = dict(self.now)

    def shards(self, batch: HostBatch) -> list[HostBatch]:
        """What each device gets, in order: blocks of rows; devices for which there are none are left out."""
        rows = len(batch.weights)
        if self.fault == "padding-counts":
            batch = batch._replace(weights=np.where(batch.weights > 0, batch.weights, 1).astype(np.float32))
        if self.fault == "weights-ignored":
            batch = batch._replace(weights=(batch.weights > 0).astype(np.float32))
        share = rows // self.n if self.fault == "remainder-dropped" else -(-rows // self.n)
        parts = [np.arange(d * share, min((d + 1) * share, rows)) for d in range(self.n)]
        found = [rows_of(batch, part) for part in parts if len(part)]
        if self.fault == "dropout-by-row" or (self.fault == "dropout-by-slot" and self.case.pack):
            found = [s._replace(example_ids=np.arange(len(s.weights), dtype=np.uint32)) for s in found]
        return found

    def sums(self, batch: HostBatch) -> tuple[float, Params]:
        """The mean loss and gradient, from sums over shards."""
        step = 0 if self.fault == "one-mask-for-all-steps" else self.t
        at = self.behind if self.fault == "gradients-at-other-parameters" else self.now
        parts = []
        micro = self.shards(batch)
        if self.case.accumulate > 1:
            micro = [rows_of(s, np.arange(len(s.weights)) % self.case.accumulate == k)
                     for k in range(self.case.accumulate) for s in micro]  # fmt: skip
        for shard in micro:
            weight = float(shard.weights.sum())
            # What padding holds may be out of range; ids of rows of weight 0 are the oracle's own concern.
            labels = shard.labels if self.case.regression else shard.labels % self.case.num_labels
            legal = shard._replace(labels=labels)
            if self.fault == "padding-counts":
                legal = legal._replace(
                    input_ids=legal.input_ids % self.case.vocab_size, token_type_ids=legal.token_type_ids % 2
                )
            if weight > 0:
                parts.append((weight, value_and_gradient(self.case, at, legal, step)))
        if self.fault == "missing-all-reduce":
            parts = parts[:1]
        if self.fault == "mean-of-means" or (self.fault == "mean-of-micro-batches" and self.case.accumulate > 1):
            parts = [(1.0, found) for _, found in parts]
        total = sum(weight for weight, _ in parts)
        loss = sum(w * found.loss for w, found in parts) / total
        gradients = {k: np.asarray(sum(w * found.gradients[k] for w, found in parts) / total) for k in self.now}
        if self.fault == "reduced-twice":
            gradients = {k: g * self.n for k, g in gradients.items()}
        if self.fault == "half-squared-error" and self.case.regression:
            loss, gradients = loss / 2, {k: g / 2 for k, g in gradients.items()}
        if self.fault == "rounded-to-float32":
            gradients = {k: g.astype(np.float32).astype(np.float64) for k, g in gradients.items()}
        return (parts[0][1].loss if self.fault == "loss-of-device-0" else loss), gradients

    def gradients(self, batch: HostBatch) -> Arrays:
        """See `TrainerUnderTest.gradients`."""
        found = self.sums(batch)[1]
        return {k: g / 2 for k, g in found.items()} if self.fault == "gradient-halved" else found

    def step(self, batch: HostBatch) -> StepResult:
        """See `TrainerUnderTest.step`."""
        case = self.case
        loss, gradients = self.sums(batch)
        rate = learning_rate(case, max(self.t - (self.fault == "schedule-late"), 0))
        self.t += 1
        if self.fault == "clip-by-leaf":
            clipped = {k: clip({k: g}, case.clip_norm)[k] for k, g in gradients.items()}
        else:
            clipped = clip(gradients, case.clip_norm)
        self.behind = dict(self.now)
        for k, g in clipped.items():
            old = self.second[k]
            self.first[k] = case.b1 * self.first[k] + (1 - case.b1) * g
            self.second[k] = case.b2 * old + (1 - case.b2) * g * g
            second = old if self.fault == "second-moment-stale" and self.t > 1 else self.second[k]
            free = self.fault == "no-bias-correction"
            one, two = (1.0, 1.0) if free else (1 - case.b1**self.t, 1 - case.b2**self.t)
            move = self.first[k] / one / (np.sqrt(second / two) + case.eps)
            decayed = {"decay-everywhere": True, "no-decay": False}.get(self.fault or "", decays(k))
            self.now[k] = self.now[k] - rate * (move + case.weight_decay * self.now[k] * decayed)
        return StepResult(loss, rate)

    def evaluate(self, batch: HostBatch) -> Any:
        """See `TrainerUnderTest.evaluate`."""
        if self.fault == "dropout-in-evaluation":
            return Network(self.case, self.now, batch, Masks(0, 0)).logits()[0]
        self.t += self.fault == "evaluation-counts"
        logits = evaluate(self.case, self.now, batch)
        if self.fault == "logits-by-device":
            return logits.reshape(2, -1, logits.shape[1]).swapaxes(0, 1).reshape(logits.shape)
        return logits

    def params(self) -> Arrays:
        """See `TrainerUnderTest.params`."""
        return self.now

    def moments(self) -> tuple[Arrays, Arrays]:
        """See `TrainerUnderTest.moments`."""
        return (self.second, self.first) if self.fault == "moments-exchanged" else (self.first, self.second)

    def replicas(self) -> list[Arrays]:
        """See `TrainerUnderTest.replicas`."""
        copies: list[Arrays] = [self.now] * self.n
        return [*copies[:-1], self.untouched] if self.fault == "replicas-drift" else copies

    def save(self, path: Path) -> None:
        """See `TrainerUnderTest.save`."""
        path.joinpath("state.pickle").write_bytes(pickle.dumps((self.now, self.first, self.second, self.t)))

    def restore(self, path: Path) -> None:
        """See `TrainerUnderTest.restore`."""
        self.now, first, second, t = pickle.loads(path.joinpath("state.pickle").read_bytes())
        if self.fault != "checkpoint-without-moments":
            self.first, self.second = first, second
        if self.fault != "checkpoint-without-step":
            self.t = t

    def epoch(self, examples: int, batch_size: int, number: int) -> list[Any]:
        """See `TrainerUnderTest.epoch`."""
        number = 0 if self.fault == "epochs-alike" else number
        order = np.random.default_rng((self.case.seed, number)).permutation(examples)
        end = examples // batch_size * batch_size if self.fault == "examples-lost" else examples
        return [order[i : i + batch_size] for i in range(0, end, batch_size)]

    def score(self, batches: list[HostBatch]) -> dict[str, float]:
        """See `TrainerUnderTest.score`."""
        batches = batches[:-1] if self.fault == "last-batch-dropped" else batches
        counts = []
        for batch in batches:
            real = batch.weights > 0
            found, want = self.evaluate(batch).argmax(axis=1)[real], batch.labels[real]
            hits, both = ((found == 1) & (want == 1)).sum(), (found == 1).sum() + (want == 1).sum()
            counts.append(np.array([(found == want).sum(), real.sum(), 2 * hits, both], np.float64))
        table = np.array(counts)
        if self.fault == "mean-of-batch-metrics":
            return {
                "accuracy": float((table[:, 0] / table[:, 1]).mean()),
                "f1": float((table[:, 2] / np.maximum(table[:, 3], 1)).mean()),
            }
        right, n, hits, both = table.sum(axis=0)
        return {"accuracy": float(right / n), "f1": float(hits / both) if both else 0.0}


def planted() -> list[str]:
    """The ids of the faults that this module plants."""
    return [fault.id for fault in faults().values() if fault.planted == "subjects"]


def __getattr__(name: str) -> Any:
    """`subjects:mean_of_means` is the factory of that fault."""
    fault = name.replace("_", "-")
    if fault not in planted():
        raise AttributeError(f"{name} is no planted fault of {__name__}")
    return functools.partial(NumpyTrainer, fault)
