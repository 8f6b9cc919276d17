"""The trainer on one device, whose results the other trainers must reproduce."""

import functools
from collections.abc import Sequence
from typing import Any

import jax

from sftref.config import require
from sftref.data.batches import Batch
from sftref.train.step import Program, TrainState, eval_step, mean_gradients, train_step
from sftref.train.trainer import Trainer, check_rows, own


def identity(tree: Any) -> Any:
    """The sum over one device: `tree` itself."""
    return tree


class SingleTrainer(Trainer):
    """`jax.jit` on one device; `reduce` is the identity."""

    name = "single"

    def __init__(self, program: Program, devices: Sequence[jax.Device]) -> None:
        super().__init__(program, devices)
        require(len(devices) == 1, f"--devices = {len(devices)}, must be 1 with --trainer single")
        self._train = jax.jit(functools.partial(train_step, program, reduce=identity), donate_argnums=0)
        self._eval = jax.jit(functools.partial(eval_step, program, reduce=identity))
        self._gradients = jax.jit(lambda state, batch: mean_gradients(program, state, batch, identity)[1])

    def place(self, state: TrainState) -> TrainState:
        """See `Trainer.place`."""
        return jax.device_put(own(state), self.devices[0])

    def put(self, batch: Batch) -> Batch:
        """See `Trainer.put`."""
        check_rows(batch, self)
        return jax.device_put(batch, self.devices[0])
