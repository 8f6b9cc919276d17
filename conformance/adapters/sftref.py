"""sftref's own trainers behind the border: `sftref.conformance.adapters.sftref:single`, `:pmap` and `:mesh`.

The only file of the kit that imports sftref. It is also the example to follow: what is specific to a trainer is how it
lays a batch out, how it names parameters, and which steps it compiles.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from sftref.batches import Batch, Layout, padded_layout
from sftref.checkpoint import Checkpoints
from sftref.config import ModelConfig, OptimConfig
from sftref.names import from_hf, to_hf
from sftref.step import Program, TrainState
from sftref.trainers import Trainer, make_trainer

from ..adapter import Arrays, Case, HostBatch, StepResult


class SftrefTrainer:
    """One of `single`, `pmap`, `mesh`, padded, on the first devices of the default platform."""

    def __init__(self, kind: str) -> None:
        self.name = f"sftref {kind}"
        self.kind = kind
        claims = {"gradients", "replicas", "dropout", "precision:bf16", "precision:float64"}
        if importlib.util.find_spec("orbax") is not None:
            claims.add("checkpoint")
        self.capabilities = frozenset(claims)

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        """See `TrainerUnderTest.start`. float64 needs `jax_enable_x64`."""
        self.case, self.model = case, model_config(case)
        self.trainer: Trainer = make_trainer(self.kind, program(case), jax.devices()[:n_devices])
        dtype = np.float64 if case.precision == "float64" else np.float32
        tree = from_hf({name: np.asarray(value, dtype) for name, value in params.items()}, self.model)
        self.state: TrainState = self.trainer.place(self.trainer.program.state(tree, case.seed))

    def step(self, batch: HostBatch) -> StepResult:
        """See `TrainerUnderTest.step`."""
        self.state, metrics = self.trainer.train_step(self.state, self._put(batch))
        found = self.trainer.read(metrics)
        return StepResult(float(found.loss), float(found.learning_rate))

    def evaluate(self, batch: HostBatch) -> npt.NDArray[Any]:
        """See `TrainerUnderTest.evaluate`."""
        logits = self.trainer.eval_step(self.state, self._put(batch))[1]
        return self.trainer.read_logits(logits)[: len(batch.weights), 0]

    def params(self) -> Arrays:
        """See `TrainerUnderTest.params`."""
        return to_hf(self.trainer.read(self.state.params))

    def gradients(self, batch: HostBatch) -> Arrays:
        """See `TrainerUnderTest.gradients`."""
        return to_hf(self.trainer.read(self.trainer.gradient_step(self.state, self._put(batch))))

    def replicas(self) -> Sequence[Arrays]:
        """See `TrainerUnderTest.replicas`."""
        return [to_hf(tree) for tree in self.trainer.replicas(self.state.params)]

    def save(self, path: Path) -> None:
        """See `TrainerUnderTest.save`."""
        checkpoints = Checkpoints(path)
        checkpoints.save(self.trainer.read(self.state))
        checkpoints.close()

    def restore(self, path: Path) -> None:
        """See `TrainerUnderTest.restore`."""
        checkpoints = Checkpoints(path, must_exist=True)
        self.state = self.trainer.place(checkpoints.restore(self.trainer.read(self.state)))
        checkpoints.close()

    def _put(self, batch: HostBatch) -> Batch:
        rows, length = batch.input_ids.shape
        return self.trainer.put(lay_out(batch, padded_layout(rows, length, self.trainer.shards)))


def model_config(case: Case) -> ModelConfig:
    """The dimensions of a case in our own terms."""
    return ModelConfig(
        vocab_size=case.vocab_size,
        hidden_size=case.hidden_size,
        num_hidden_layers=case.num_hidden_layers,
        num_attention_heads=case.num_attention_heads,
        intermediate_size=case.intermediate_size,
        max_position_embeddings=case.max_position_embeddings,
        type_vocab_size=case.type_vocab_size,
        layer_norm_eps=case.layer_norm_eps,
        hidden_dropout_prob=case.hidden_dropout,
        attention_probs_dropout_prob=case.attention_dropout,
        classifier_dropout=case.classifier_dropout,
        num_labels=case.num_labels,
        regression=case.regression,
    )


def program(case: Case) -> Program:
    """The static part of a case's run."""
    optim = OptimConfig(
        learning_rate=case.learning_rate,
        weight_decay=case.weight_decay,
        warmup_steps=case.warmup_steps,
        b1=case.b1,
        b2=case.b2,
        eps=case.eps,
        clip_norm=case.clip_norm,
    )
    return Program.of(
        model_config(case),
        optim,
        total_steps=case.total_steps,
        dropout="addressed" if case.dropout else "off",
        precision=case.precision,
    )


def lay_out(batch: HostBatch, layout: Layout) -> Batch:
    """A padded batch in our form: one example a row, rows of weight 0 up to the layout's."""
    missing = layout.rows - len(batch.weights)

    def rows(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        padding = [(0, missing)] + [(0, 0)] * (values.ndim - 1)
        return np.pad(values, padding)[None]

    tokens = rows(batch.attention_mask)
    slots = {name: rows(getattr(batch, name))[..., None] for name in ("labels", "weights", "example_ids")}
    return Batch(
        input_ids=rows(batch.input_ids),
        token_type_ids=rows(batch.token_type_ids),
        positions=np.broadcast_to(np.arange(layout.length, dtype=np.int32), tokens.shape).copy(),
        segments=tokens,
        starts=np.zeros((1, layout.rows, 1), np.int32),
        **slots,
    )


single = functools.partial(SftrefTrainer, "single")
pmap = functools.partial(SftrefTrainer, "pmap")
mesh = functools.partial(SftrefTrainer, "mesh")
