"""State, batch -> next state: the one training step and the one evaluation step that all trainers share.

    sums, gradients = reduce(value_and_grad(loss sums)(params))
    gradients      *= 1 / sums.weight
    params          = optimizer(params, gradients)

Every trainer passes its own `reduce`, which adds up over the devices, and nothing else. It stands between the
gradient and the optimizer: a `psum` inside the differentiated function would give, under `pmap`, per-device gradients
that add up to N times the truth; a mean of per-device means is another objective as soon as shards are unequal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax.training import train_state
from jax import Array, lax

from sftref.config import DropoutMode, ModelConfig, OptimConfig
from sftref.data.batches import Batch, blocks_of
from sftref.model.bert import BertForSequenceClassification, crossing
from sftref.model.dropout import AddressedDropout, ArticleDropout, Dropout
from sftref.model.layers import Numerics
from sftref.model.sharding import Places
from sftref.train.loss import EvalSums, LossSums, eval_sums, loss_sums
from sftref.train.optim import linear_schedule, make_optimizer

Tree = TypeVar("Tree")
Reduce = Callable[[Any], Any]


class TrainState(train_state.TrainState):
    """Flax's TrainState and the seed, uint32 [2] (high word, low word), so that another seed compiles nothing."""

    seed: Array


class StepMetrics(NamedTuple):
    """Global scalars of one update: mean loss over its examples, their total weight, the learning rate applied."""

    loss: Array
    weight: Array
    learning_rate: Array


@dataclass(frozen=True)
class Program:
    """What is static in a run: model, optimizer, schedule, the kind of dropout. Build it with `Program.of`."""

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
        """The program of a run of `total_steps` updates; `remat`: see the model."""
        return cls(
            BertForSequenceClassification(model, Numerics.of(precision), remat=remat),
            make_optimizer(optim, total_steps),
            linear_schedule(optim, total_steps),
            dropout,
        )

    @property
    def regression(self) -> bool:
        """Whether labels are real numbers under a squared error."""
        return self.model.config.regression

    def laid_on(self, places: Places) -> Program:
        """The same program, whose activations lie as `places` says."""
        return dataclasses.replace(self, model=self.model.clone(places=places))

    def state(self, params: Any, seed: int, step: int = 0, opt_state: Any = None) -> TrainState:
        """A state on the host's terms; a trainer places it."""
        return TrainState(
            step=jnp.asarray(step, jnp.int32),
            apply_fn=self.model.apply,
            params=params,
            tx=self.optimizer,
            opt_state=self.optimizer.init(params) if opt_state is None else opt_state,
            seed=jnp.asarray([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32),
        )


def masks(program: Program, state: TrainState, micro: Array, device: Array | None) -> Dropout | None:
    """The dropout of one micro-batch: addressed by (seed, step), or drawn from the article's key.

    Args:
        program: says which.
        state: its seed and step.
        micro: the index of the micro-batch; addresses need it no more than they need the device.
        device: the device's index under `pmap`, where the article has a key for each; None for one key in all.
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
    """Loss sums of the examples at hand and the gradient of their weighted loss sum; nothing is reduced or divided.

    Micro-batches are added up one after the other, so their sizes need not be equal; empty ones at the end are not
    computed. Under `pmap` each device stops at its own last one: there is no collective in the loop. Those behind the
    last one with an example across two blocks of its row are computed block by block.
    """

    def loss(params: Any, micro: Batch, k: Array, blocks: int) -> tuple[Array, LossSums]:
        logits: Any = program.model.apply({"params": params}, micro, masks(program, state, k, device), blocks)
        sums = loss_sums(logits, micro.labels, micro.weights, regression=program.regression)
        return sums.loss, sums

    def one(k: Array, blocks: int = 1) -> tuple[LossSums, Any]:
        micro = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, k, keepdims=False), batch)
        (_, sums), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, micro, k, blocks)
        return sums, gradients

    count = batch.weights.shape[0]
    if count == 1:
        return one(jnp.int32(0))
    stop = _last(jnp.any(batch.weights > 0, axis=(1, 2)))

    def add_up(total: Any, first: Array, end: Array, blocks: int) -> tuple[LossSums, Any]:
        return lax.fori_loop(first, end, lambda k, so_far: jax.tree.map(jnp.add, so_far, one(k, blocks)), total)

    zero = jnp.int32(0)
    zeros: Any = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(one, zero))
    # The article's masks have the shape of a row.
    blocks = 1 if program.dropout == "article" else blocks_of(batch.segments.shape[2])
    if blocks == 1:
        return add_up(zeros, zero, stop, 1)
    whole = _last(crossing(batch, blocks))
    return add_up(add_up(zeros, zero, whole, 1), whole, stop, blocks)


def _last(flags: Array) -> Array:
    """The number, from 1, of the last that is true of `flags` [K]; 0 if none is."""
    return jnp.max(jnp.where(flags, jnp.arange(1, len(flags) + 1, dtype=jnp.int32), 0))


def mean_gradients(
    program: Program, state: TrainState, batch: Batch, reduce: Reduce, device: Array | None = None
) -> tuple[LossSums, Any]:
    """Global loss sums, and the gradient of the global mean loss: what the optimizer sees.

    The one division is of scalars: XLA repeats a product, but no quotient, in each of the optimizer's passes, where the
    divided gradients would be written and read once more (26 ms instead of 38 an update of 11 million parameters).
    """
    sums, gradients = reduce(gradient_sums(program, state, batch, device))
    return sums, jax.tree.map(lambda g: g * (1 / sums.weight).astype(g.dtype), gradients)


def train_step(
    program: Program,
    state: TrainState,
    batch: Batch,
    reduce: Reduce,
    device: Array | None = None,
    update: Callable[[TrainState, Any], TrainState] = lambda state, gradients: state.apply_gradients(grads=gradients),
) -> tuple[TrainState, StepMetrics]:
    """One update.

    Args:
        program: static.
        state: the same on every device.
        batch: this device's share under `pmap` and `single`; the whole, with a sharded axis R, under `mesh`.
        reduce: adds a tree of sums up over the devices; the identity where the partitioner does it.
        device: see `masks`.
        update: what applies the mean gradients; a trainer's own does the same arithmetic.

    Returns:
        The next state and the global metrics, the same on every device.
    """
    sums, gradients = mean_gradients(program, state, batch, reduce, device)
    metrics = StepMetrics(sums.loss / sums.weight, sums.weight, jnp.asarray(program.schedule(state.step)))
    return update(state, gradients), metrics


def eval_step(program: Program, state: TrainState, batch: Batch, reduce: Reduce) -> tuple[EvalSums, Array]:
    """Global sums and counts, and the logits [R, S, C] of the rows at hand. Evaluation has no micro-batches: K = 1."""
    micro = jax.tree.map(lambda a: a[0], batch)
    logits: Any = program.model.apply({"params": state.params}, micro)
    sums = eval_sums(logits, micro.labels, micro.weights, regression=program.regression)
    return reduce(sums), logits
