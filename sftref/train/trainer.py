"""The base class of trainers, which place state and batches on devices and sum over the devices.

A trainer does not change the arithmetic of a step. It places the state and the batches, compiles the shared step with
its own `reduce`, and returns results as NumPy arrays.

A trainer's devices may belong to several processes (`cluster/distributed.py`). Each process then makes the same calls
in the same order, gives `put` the rows of its own devices, and reads global results.
"""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from sftref.data.batches import Batch, Part
from sftref.train.loss import EvalSums
from sftref.train.step import Program, StepMetrics, TrainState


class Trainer(abc.ABC):
    """A data-parallel trainer over `devices`.

    Attributes:
        name: the name on the command line.
        program: the static part of the run.
        devices: the N devices of all processes, in the order of the shards.
        local_devices: the devices of this process.
        shards: the number of parts of a batch's rows; N, unless a mesh has axes besides `data`.
        part: the shards of this process; all of them in a run of one process.
        local_sums: whether devices can add up any number of micro-batches without a collective, with equal results. The
            masks of the article's dropout have the shape of a micro-batch.
    """

    name: ClassVar[str]
    # The shared steps, compiled by each trainer with its own `reduce` and placement.
    _train: Any
    _eval: Any
    _gradients: Any

    def __init__(self, program: Program, devices: Sequence[jax.Device]) -> None:
        if not devices:
            raise ValueError("devices = [], must have at least one device")
        self.program = program
        self.devices = tuple(devices)
        mine = [k for k, device in enumerate(self.devices) if device.process_index == jax.process_index()]
        if not mine or mine != list(range(mine[0], mine[-1] + 1)):
            raise ValueError(f"devices = {list(devices)}, must have this process's devices next to each other")
        self.local_devices = self.devices[mine[0] : mine[-1] + 1]
        self.shards = len(self.devices)
        self.local_sums = self.shards == 1 or program.dropout != "article"
        self.part = Part(mine[0], mine[-1] + 1, self.shards)

    @abc.abstractmethod
    def place(self, state: TrainState) -> TrainState:
        """A copy of the host's `state` on every device; the caller's arrays are copied, never donated."""

    @abc.abstractmethod
    def put(self, batch: Batch) -> Batch:
        """Place `batch` [K, R, ...] with R divided among the devices. Returns before the copy is finished.

        R must be a multiple of the number of shards. With several processes, `batch` has only the rows of `part`.

        Raises:
            ValueError: see `check_rows`.
        """

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        """One update of a placed state by a placed batch. The state is donated: use the returned one."""
        return self._train(state, batch)

    def eval_step(self, state: TrainState, batch: Batch) -> tuple[EvalSums, jax.Array]:
        """Global sums, and logits in this trainer's layout, for `read_logits`. Nothing is donated."""
        return self._eval(state, batch)

    def gradient_step(self, state: TrainState, batch: Batch) -> Any:
        """The gradient of the global mean loss, before clipping, as the optimizer would get it."""
        return self._gradients(state, batch)

    def compiled(self, state: TrainState, batch: Batch) -> jax.stages.Compiled:
        """The compiled program of `train_step` for these arguments, cached by JAX. Nothing is run."""
        return self._train.lower(state, batch).compile()

    def step_text(self, state: TrainState, batch: Batch) -> str:
        """The program of `train_step` as StableHLO text, for these devices. Nothing is compiled."""
        return str(self._train.lower(state, batch).as_text())

    def lowered(self, state: TrainState, batch: Batch, platform: str) -> str:
        """The program of `train_step` as StableHLO text for cpu, cuda, rocm or tpu, which need not be present."""
        traced = self._train.trace(state, batch)
        return str(traced.lower(lowering_platforms=(platform,)).as_text())

    def replicas(self, tree: Any) -> list[Any]:
        """A replicated result as NumPy arrays: one tree for each device of this process, read from that device."""
        return [jax.tree.map(lambda leaf, d=device: shard_on(leaf, d), tree) for device in self.local_devices]

    def read(self, tree: Any) -> Any:
        """A replicated result as NumPy arrays. Waits until it is computed."""
        return jax.device_get(tree)

    def read_logits(self, logits: jax.Array) -> np.ndarray:
        """The logits of `eval_step` as NumPy, [R, S, C] in the batch's order."""
        return np.asarray(jax.device_get(logits))


def check_rows(batch: Batch, trainer: Trainer) -> None:
    """Check that the rows of a batch can be divided, and that the batch of a single-process run has an example.

    Raises:
        ValueError: the rows are no multiple of the shards; or the batch of a single-process run has no example, so that
            the mean loss would be 0/0. One of several processes may have no example.
    """
    rows, part = batch.weights.shape[1], trainer.part
    if rows % part.shard_count:
        raise ValueError(
            f"rows = {rows}, must be a multiple of the {part.shard_count} devices; pad the batch with rows of weight 0"
        )
    if part.shard_count == part.shards and not np.any(batch.weights > 0):
        raise ValueError("the batch has no example of positive weight, so its mean loss is undefined")


def own(tree: Any) -> Any:
    """A host copy of every leaf: a device array must not share memory with an array that the caller may write to."""
    return jax.tree.map(lambda a: np.array(a, copy=True), jax.device_get(tree))


def shard_on(leaf: jax.Array, device: jax.Device) -> np.ndarray:
    """The shard of `leaf` on `device`, as NumPy."""
    return np.asarray(next(shard.data for shard in leaf.addressable_shards if shard.device == device))
