"""The Trainer: where state and batches live, and who adds up over the devices.

A trainer never touches the arithmetic of a step. It places the state and the batches, compiles the shared step with
its own `reduce`, and brings results back to the host as NumPy arrays.

Its devices may belong to several processes (`distributed.py`). Each process then runs the same calls in the same order;
it gives `put` the rows of its own devices, and every result that it reads is the global one.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from sftref.data.batches import Batch, Part
from sftref.train.loss import EvalSums
from sftref.train.step import Program, StepMetrics, TrainState


class Trainer(abc.ABC):
    """A data-parallel trainer over `devices`.

    Attributes:
        name: as on the command line.
        program: the static part of the run.
        devices: N devices, of all processes, in the order of the shards.
        local_devices: those of this process.
        shards: in how many parts a batch is divided; N, unless a mesh has other axes.
        part: which of them this process holds: all, where there is one process.
    """

    name: ClassVar[str]
    # The shared steps, compiled by each trainer with its own `reduce` and placement.
    _train: Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]
    _eval: Callable[[TrainState, Batch], tuple[EvalSums, jax.Array]]
    _gradients: Callable[[TrainState, Batch], Any]

    def __init__(self, program: Program, devices: Sequence[jax.Device]) -> None:
        if not devices:
            raise ValueError("devices = [], must hold at least one device")
        self.program = program
        self.devices = tuple(devices)
        mine = [k for k, device in enumerate(self.devices) if device.process_index == jax.process_index()]
        if not mine or mine != list(range(mine[0], mine[-1] + 1)):
            raise ValueError(f"devices = {list(devices)}, must hold this process's devices, one after the other")
        self.local_devices = self.devices[mine[0] : mine[-1] + 1]
        self.shards = len(self.devices)
        self.part = Part(mine[0], mine[-1] + 1, self.shards)

    @abc.abstractmethod
    def place(self, state: TrainState) -> TrainState:
        """A copy of the host's `state` on every device. The arrays given stay the caller's: nothing is donated."""

    @abc.abstractmethod
    def put(self, batch: Batch) -> Batch:
        """`batch` [K, R, ...] on the devices, R divided among them; R must be a multiple of N. Returns at once.

        With several processes the rows are those of `part`, and R is their number.
        """

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        """One update of a placed state by a placed batch. The state is donated: use the one returned."""
        return self._train(state, batch)

    def eval_step(self, state: TrainState, batch: Batch) -> tuple[EvalSums, jax.Array]:
        """Global sums, and logits in this trainer's layout (`read_logits` undoes it). Nothing is donated."""
        return self._eval(state, batch)

    def gradient_step(self, state: TrainState, batch: Batch) -> Any:
        """The gradient that the optimizer would see (of the global mean loss, before clipping)."""
        return self._gradients(state, batch)

    def compiled(self, state: TrainState, batch: Batch) -> jax.stages.Compiled:
        """The program of `train_step` for these placed arguments: its HLO, its costs. Nothing is run.

        JAX keeps it: after an update of the same shapes, or when it is asked for again, nothing is compiled.
        """
        program: jax.stages.Compiled = self._train.lower(state, batch).compile()  # type: ignore[attr-defined]
        return program

    def step_text(self, state: TrainState, batch: Batch) -> str:
        """The program of `train_step` as StableHLO text, for these devices. Nothing is compiled."""
        return str(self._train.lower(state, batch).as_text())  # type: ignore[attr-defined]

    def lowered(self, state: TrainState, batch: Batch, platform: str) -> str:
        """The program of `train_step` as StableHLO text, for a platform that need not be here: cpu, cuda, rocm, tpu."""
        traced = self._train.trace(state, batch)  # type: ignore[attr-defined]
        return str(traced.lower(lowering_platforms=(platform,)).as_text())

    def replicas(self, tree: Any) -> list[Any]:
        """A replicated result as NumPy arrays, once for each device of this process, as that device holds it."""
        return [jax.tree.map(lambda leaf, d=device: shard_on(leaf, d), tree) for device in self.local_devices]

    def read(self, tree: Any) -> Any:
        """A replicated result as NumPy arrays. Waits for it."""
        return jax.device_get(tree)

    def read_logits(self, logits: jax.Array) -> np.ndarray:
        """The logits of `eval_step` as NumPy, [R, S, C] in the batch's order."""
        return np.asarray(jax.device_get(logits))


def check_rows(batch: Batch, trainer: Trainer) -> None:
    """Refuse a batch whose rows cannot be divided, or that holds no example (its mean would be 0/0).

    Of several processes one may well have no example.

    Raises:
        ValueError: naming both numbers.
    """
    rows, part = batch.weights.shape[1], trainer.part
    if rows % part.count:
        raise ValueError(
            f"rows = {rows}, must be a multiple of the {part.count} devices; pad the batch with rows of weight 0"
        )
    if part.count == part.shards and not np.any(batch.weights > 0):
        raise ValueError("the batch has no example of positive weight: its mean loss is undefined")


def own(tree: Any) -> Any:
    """A private host copy of every leaf: what is put on a device must not alias what the caller may write."""
    return jax.tree.map(lambda a: np.array(a, copy=True), jax.device_get(tree))


def shard_on(leaf: jax.Array, device: jax.Device) -> np.ndarray:
    """The part of `leaf` that lies on `device`, as NumPy."""
    return np.asarray(next(shard.data for shard in leaf.addressable_shards if shard.device == device))
