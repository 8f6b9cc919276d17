"""`jax.pmap`: our code writes the collective. Arrays have a leading axis N; each device sees its own slice.

With several processes the leading axis has the devices of this process only, while `psum` and `axis_index` use the
devices of all processes, as always in `pmap`.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sftref.data.batches import Batch
from sftref.train.loss import EvalSums
from sftref.train.step import Program, StepMetrics, TrainState, eval_step, mean_gradients, train_step
from sftref.train.trainer import Trainer, check_rows, shard_on
from sftref.trainers.local import sends_leaves, sum_over

AXIS = "data"


def sum_over_devices(tree: Any, *, in_one: bool = False) -> Any:
    """The sum of each leaf over all devices, the same on each of them; `in_one`: see `sum_over`.

    On one device the all-reduce is left out, because XLA would keep it and copy every gradient: 8 % of a step of 11
    million parameters on a CPU.
    """
    devices = lax.psum(1, AXIS)  # the sum of a constant is known when the step is traced
    return sum_over(tree, AXIS, in_one=in_one) if devices > 1 else tree


def update_in_place(state: TrainState, gradients: Any) -> TrainState:
    """`state.apply_gradients`, computed on arrays [1, ...], the shape that `pmap`'s arrays have on a device.

    `pmap` removes the leading axis before the step and adds it afterwards. Between these two reshapes XLA does not see
    that a donated buffer can be overwritten, and copies every leaf of the state: 3 to 8 % of a step of 11 million
    parameters on a CPU. With the axis added here, the reshapes cancel.
    """

    def lift(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[None] if leaf.ndim else leaf, tree)

    lifted = state.replace(params=lift(state.params), opt_state=lift(state.opt_state))
    updated = lifted.apply_gradients(grads=lift(gradients))
    return jax.tree.map(lambda new, old: new.reshape(old.shape), updated, state)


class PmapTrainer(Trainer):
    """Data parallelism by `pmap`; `reduce` is `psum`. State and results are stacked: leaves [N, ...]."""

    name = "pmap"

    def __init__(self, program: Program, devices: Sequence[jax.Device]) -> None:
        super().__init__(program, devices)
        self._sharding = NamedSharding(Mesh(np.array(self.local_devices), (AXIS,)), PartitionSpec(AXIS))
        several = len(self.local_devices) < len(self.devices)
        reduce = functools.partial(sum_over_devices, in_one=sends_leaves(self.devices))

        def train(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
            return train_step(program, state, batch, reduce, lax.axis_index(AXIS), update_in_place)

        def evaluate(state: TrainState, batch: Batch) -> tuple[EvalSums, jax.Array]:
            sums, logits = eval_step(program, state, batch, reduce)
            return sums, lax.all_gather(logits, AXIS) if several else logits

        def gradients(state: TrainState, batch: Batch) -> Any:
            return mean_gradients(program, state, batch, reduce, lax.axis_index(AXIS))[1]

        self._gathered = several
        self._train = jax.pmap(train, axis_name=AXIS, devices=self.devices, donate_argnums=0)
        self._eval = jax.pmap(evaluate, axis_name=AXIS, devices=self.devices)
        self._gradients = jax.pmap(gradients, axis_name=AXIS, devices=self.devices)

    def place(self, state: TrainState) -> TrainState:
        """See `Trainer.place`."""
        host = jax.device_get(state)
        # Each device gets its copy directly: stacking on the host first would need memory for N copies. One call per
        # device copies all leaves: a call per leaf took a third of the time of the kit's laws, compilation not counted.
        placed = [jax.device_put(jax.tree.map(lambda leaf: np.array(leaf[None]), host), d) for d in self.local_devices]

        def stack(*shards: jax.Array) -> jax.Array:
            shape = (len(shards), *shards[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, self._sharding, list(shards))

        return jax.tree.map(stack, *placed)

    def put(self, batch: Batch) -> Batch:
        """See `Trainer.put`; [K, R, ...] becomes [N, K, R/N, ...]."""
        n = len(self.local_devices)
        check_rows(batch, self)

        def split(leaf: np.ndarray) -> np.ndarray:
            k, r = leaf.shape[:2]
            return np.ascontiguousarray(np.moveaxis(leaf.reshape(k, n, r // n, *leaf.shape[2:]), 1, 0))

        return jax.device_put(jax.tree.map(split, batch), self._sharding)

    def lowered(self, state: TrainState, batch: Batch, platform: str) -> str:
        """See `Trainer.lowered`. The step is wrapped in `jax.jit`, which alone can be lowered for another platform."""
        with warnings.catch_warnings():  # JAX before 0.8 warns of moved data, but nothing is run
            warnings.filterwarnings("ignore", message=".*includes a pmap")
            traced = jax.jit(lambda state, batch: self._train(state, batch)).trace(state, batch)
            return str(traced.lower(lowering_platforms=(platform,)).as_text())

    def replicas(self, tree: Any) -> list[Any]:
        """See `Trainer.replicas`."""
        return [jax.tree.map(lambda leaf, d=device: shard_on(leaf, d)[0], tree) for device in self.local_devices]

    def read(self, tree: Any) -> Any:
        """See `Trainer.read`; only the first device's copy is transferred."""
        return jax.tree.map(lambda leaf: shard_on(leaf, self.local_devices[0])[0], tree)

    def read_logits(self, logits: jax.Array) -> np.ndarray:
        """See `Trainer.read_logits`."""
        stacked = shard_on(logits, self.local_devices[0])[0] if self._gathered else np.asarray(jax.device_get(logits))
        return stacked.reshape(-1, *stacked.shape[2:])
