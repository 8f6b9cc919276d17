"""Trainer, state, batch -> the parts of an update, each as its own program, to measure where the time goes.

This works for `pmap` only, where XLA fuses nothing across the all-reduce. With `mesh` the partitioner places the
collective, and a part of the step compiled alone is another program than that part within the step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sftref.data.batches import Batch
from sftref.train.loss import LossSums, loss_sums
from sftref.train.step import Program, TrainState, gradient_sums, masks
from sftref.trainers.pmap import AXIS, PmapTrainer, sum_over_devices, update_in_place


def parts(trainer: PmapTrainer, state: TrainState, batch: Batch) -> dict[str, Callable[[], Any]]:
    """Functions that run one part each and wait for it: `forward`, `forward_backward`, `all_reduce`, `optimizer`.

    Args:
        trainer: the trainer that placed the state and the batch.
        state: the placed state; neither changed nor donated.
        batch: one micro-batch, K = 1.
    """
    program = trainer.program

    def compiled(function: Callable[..., Any]) -> Any:
        return jax.pmap(function, axis_name=AXIS, devices=trainer.devices)

    def backward(state: TrainState, batch: Batch) -> Any:
        return gradient_sums(program, state, batch, lax.axis_index(AXIS))

    run_forward = compiled(lambda state, batch: forward(program, state, batch))
    run_backward, run_reduce = compiled(backward), compiled(sum_over_devices)
    run_optimizer = compiled(update_in_place)
    _, gradients = run_backward(state, batch)
    return {
        "forward": lambda: jax.block_until_ready(run_forward(state, batch)),
        "forward_backward": lambda: jax.block_until_ready(run_backward(state, batch)),
        "all_reduce": lambda: jax.block_until_ready(run_reduce(gradients)),
        "optimizer": lambda: jax.block_until_ready(run_optimizer(state, gradients)),
    }


def forward(program: Program, state: TrainState, batch: Batch) -> LossSums:
    """The loss sums of one micro-batch, with dropout."""
    micro = jax.tree.map(lambda leaf: leaf[0], batch)
    logits = state.apply_fn({"params": state.params}, micro, masks(program, state, jnp.int32(0), lax.axis_index(AXIS)))
    return loss_sums(logits, micro.labels, micro.weights, regression=program.regression)
