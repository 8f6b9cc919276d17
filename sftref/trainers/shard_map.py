"""`jax.shard_map` over a mesh: our code writes the collective, and JAX checks which results are equal on all devices.

With `check_vma=True`, JAX's default, the type of an array says along which axes of the mesh it *varies*: the state is
the same on all devices, and what is computed from a device's rows varies. Two rules follow
(https://docs.jax.dev/en/latest/notebooks/shard_map.html):

- A result that varies cannot be returned as replicated. Without its `psum`, the step is an error when it is traced.
- JAX itself sums the gradient of a parameter that does not vary, in the backward pass. A `psum` after it would multiply
  the gradient by N, and each micro-batch would have a sum over devices of its own. So the parameters are cast to
  varying ones before they are differentiated: each device has the gradient of its own rows, as under `pmap`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import PartitionSpec

from sftref.config import require
from sftref.data.batches import Batch
from sftref.model.sharding import DATA
from sftref.train.loss import EvalSums
from sftref.train.step import Program, StepMetrics, TrainState, eval_step, mean_gradients, train_step
from sftref.train.trainer import Trainer, shard_on
from sftref.trainers.local import sends_leaves
from sftref.trainers.mesh import MeshTrainer
from sftref.trainers.pmap import sum_over_devices


class ShardMapTrainer(MeshTrainer):
    """Data parallelism by `shard_map`; `reduce` is `psum`. Arrays are placed as by `MeshTrainer`.

    On one device, rows are replicated, nothing varies, and the all-reduce is left out (see `sum_over_devices`).

    Raises:
        ConfigError: JAX is older than 0.6.1.
    """

    name = "shard_map"

    def __init__(self, program: Program, devices: Sequence[jax.Device]) -> None:
        require(
            hasattr(jax, "shard_map"),
            f"--trainer shard_map with JAX {jax.__version__}: needs JAX 0.6.1 or newer; choose --trainer pmap or mesh",
        )
        super().__init__(program, devices)
        several, gathers = len(self.devices) > 1, self._several
        reduce = functools.partial(sum_over_devices, in_one=sends_leaves(self.devices))
        same, rows = PartitionSpec(), PartitionSpec(DATA) if several else PartitionSpec()

        def own(state: TrainState) -> TrainState:
            return state.replace(params=varying(state.params)) if several else state

        def device() -> Array:
            return lax.axis_index(DATA) if several else jnp.int32(0)

        def train(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
            def update(_: TrainState, gradients: Any) -> TrainState:
                return state.apply_gradients(grads=gradients)

            return train_step(program, own(state), batch, reduce, device(), update)

        def evaluate(state: TrainState, batch: Batch) -> tuple[EvalSums, Array]:
            sums, logits = eval_step(program, state, batch, reduce)
            return sums, lax.all_gather(logits, DATA, tiled=True)[None] if gathers else logits

        def gradients(state: TrainState, batch: Batch) -> Any:
            return mean_gradients(program, own(state), batch, reduce, device())[1]

        def on_each_device(function: Callable[..., Any], gives: Any = same) -> Any:
            takes = (same, PartitionSpec(None, *rows))
            return jax.shard_map(function, mesh=self.mesh, in_specs=takes, out_specs=gives, check_vma=True)

        self._train = jax.jit(on_each_device(train), donate_argnums=0)
        self._eval = jax.jit(on_each_device(evaluate, (same, rows)))
        self._gradients = jax.jit(on_each_device(gradients))

    def read_logits(self, logits: Array) -> np.ndarray:
        """See `Trainer.read_logits`; with several processes, each device has the logits of all."""
        return shard_on(logits, self.local_devices[0])[0] if self._several else Trainer.read_logits(self, logits)


def varying(tree: Any) -> Any:
    """The same numbers, with a type that varies along `data`; their gradients are not summed over the devices."""
    if hasattr(lax, "pcast"):
        return lax.pcast(tree, DATA, to="varying")
    return getattr(lax, "pvary")(tree, DATA)  # noqa: B009 - the name before JAX 0.8, which newer stubs lack
