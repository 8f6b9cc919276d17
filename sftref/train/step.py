"""State, batch -> next state: the one training step and the one evaluation step that all trainers share.

    sums, gradients = reduce(value_and_grad(loss sums)(params))
    gradients      *= 1 / sums.weight
    params          = optimizer(params, gradients)

A trainer passes its own `reduce`, which sums over the devices. It is called after the differentiation: under `pmap`, a
`psum` inside the differentiated function would give per-device gradients that add up to N times the gradient. It sums,
because a mean of per-device means is another objective if shards have different numbers of examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state
from jax import Array

from sftref.config import DropoutMode, ModelConfig, OptimConfig
from sftref.data.batches import Batch
from sftref.model.bert import BertForSequenceClassification
from sftref.model.dropout import AddressedDropout, ArticleDropout, Dropout
from sftref.model.layers import Numerics
from sftref.model.sharding import Places
from sftref.train.chunks import sum_over_micro_batches
from sftref.train.loss import EvalSums, LossSums, eval_sums, loss_sums
from sftref.train.optim import linear_schedule, make_optimizer

Reduce = Callable[[Any], Any]


class TrainState(train_state.TrainState):
    """Flax's TrainState with the seed as an array, uint32 [2] (high, low word): a new seed needs no compilation."""

    seed: Array


class StepMetrics(NamedTuple):
    """Global scalars of one update: mean loss over its examples, their total weight, the learning rate applied."""

    loss: Array
    weight: Array
    learning_rate: Array


@dataclass(frozen=True)
class Program:
    """The static part of a run: model, optimizer, schedule, kind of dropout. Build it with `Program.of`."""

    model: BertForSequenceClassification
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    dropout: DropoutMode

    @classmethod
    def of(
        cls,
        model: ModelConfig,
        optim: OptimConfig,
        *,
        total_steps: int,
        dropout: DropoutMode,
        precision: str,
        remat: bool = False,
    ) -> Program:
        """The program of a run of `total_steps` updates; for `remat` see `BertForSequenceClassification`."""
        return cls(
            BertForSequenceClassification(model, Numerics.of(precision), remat=remat),
            make_optimizer(optim, total_steps),
            linear_schedule(optim, total_steps),
            dropout,
        )

    @property
    def regression(self) -> bool:
        """Whether labels are real numbers, trained with a squared error."""
        return self.model.config.regression

    def sharded(self, places: Places) -> Program:
        """The same program with its activations sharded by `places`."""
        return dataclasses.replace(self, model=self.model.clone(places=places))

    def state(self, params: Any, seed: int, step: int = 0, opt_state: Any = None) -> TrainState:
        """A state of host arrays; a trainer places it on devices."""
        # Flax's types name device arrays, but these are the host's: no program is compiled for them.
        step_and_seed: Any = np.asarray(step, np.int32), np.asarray([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
        return TrainState(
            step=step_and_seed[0],
            apply_fn=self.model.apply,
            params=params,
            tx=self.optimizer,
            opt_state=self.no_moments(params) if opt_state is None else opt_state,
            seed=step_and_seed[1],
        )

    def no_moments(self, params: Any) -> Any:
        """The optimizer's state before the first update, as host arrays: Adam's moments and all counts begin at 0.

        `optimizer.init` gives the same values, but compiles a program for the zeros of each shape: 14 for MiniLM.
        """
        shapes = jax.eval_shape(self.optimizer.init, params)
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def masks(program: Program, state: TrainState, micro: Array, device: Array | None) -> Dropout | None:
    """The dropout of one micro-batch; None for no dropout.

    Args:
        program: gives the kind of dropout.
        state: gives seed and step, of which every mask is a function.
        micro: int32 scalar, the index of the micro-batch; used by the article's dropout only.
        device: int32 scalar, the device's index under `pmap` and `shard_map`, where the article's dropout has one key
            per device; None if all devices share one key.
    """
    if program.dropout == "off":
        return None
    if program.dropout == "addressed":
        return AddressedDropout((state.seed[0], state.seed[1]), jnp.asarray(state.step))
    key = jax.random.wrap_key_data(state.seed, impl="threefry2x32")
    for part in (state.step, micro, *(() if device is None else (device + 1,))):
        key = jax.random.fold_in(key, part)
    return ArticleDropout(key)


def gradient_sums(
    program: Program, state: TrainState, batch: Batch, device: Array | None = None
) -> tuple[LossSums, Any]:
    """The loss sums of `batch`, and the gradient of the weighted loss sum; neither reduced over devices nor divided."""

    def loss(params: Any, micro: Batch, k: Array) -> tuple[Array, LossSums]:
        logits: Any = program.model.apply({"params": params}, micro, masks(program, state, k, device))
        sums = loss_sums(logits, micro.labels, micro.weights, regression=program.regression)
        return sums.loss, sums

    def one(micro: Batch, k: Array) -> tuple[LossSums, Any]:
        (_, sums), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, micro, k)
        return sums, gradients

    return sum_over_micro_batches(one, batch)


Sums = Callable[[Program, TrainState, Batch, Array | None], tuple[LossSums, Any]]


def mean_gradients(
    program: Program,
    state: TrainState,
    batch: Batch,
    reduce: Reduce,
    device: Array | None = None,
    sums_of: Sums = gradient_sums,
) -> tuple[LossSums, Any]:
    """Global loss sums, and the gradient of the global mean loss, which the optimizer gets; Args: see `train_step`.

    Gradients are multiplied by 1 / weight, not divided: XLA recomputes a product in each pass of the optimizer, but
    would write a quotient to memory and read it again. An update of 11 million parameters takes 26 ms instead of 38.
    """
    sums, gradients = reduce(sums_of(program, state, batch, device))
    return sums, jax.tree.map(lambda g: g * (1 / sums.weight).astype(g.dtype), gradients)


def train_step(
    program: Program,
    state: TrainState,
    batch: Batch,
    reduce: Reduce,
    device: Array | None = None,
    update: Callable[[TrainState, Any], TrainState] = lambda state, gradients: state.apply_gradients(grads=gradients),
    sums_of: Sums = gradient_sums,
) -> tuple[TrainState, StepMetrics]:
    """One update.

    Args:
        program: the static part of the run.
        state: the same on every device.
        batch: leaves [K, R, ...]; under `pmap` and `single` this device's rows; under `mesh` all rows, sharded along R.
        reduce: adds up a tree of sums over the devices; the identity if the partitioner does this.
        device: see `masks`.
        update: applies the mean gradients; if a trainer gives another function, its arithmetic must be the same.
        sums_of: computes the sums that `reduce` gets; under `mesh` it may itself run on each device's rows.

    Returns:
        The next state and the global metrics, the same on every device.
    """
    sums, gradients = mean_gradients(program, state, batch, reduce, device, sums_of)
    metrics = StepMetrics(sums.loss / sums.weight, sums.weight, jnp.asarray(program.schedule(state.step)))
    return update(state, gradients), metrics


def eval_step(program: Program, state: TrainState, batch: Batch, reduce: Reduce) -> tuple[EvalSums, Array]:
    """Global sums and counts, and the logits [R, S, C] of the rows in `batch`, which has one micro-batch: K = 1."""
    micro = jax.tree.map(lambda a: a[0], batch)
    logits: Any = program.model.apply({"params": state.params}, micro)
    sums = eval_sums(logits, micro.labels, micro.weights, regression=program.regression)
    return reduce(sums), logits
