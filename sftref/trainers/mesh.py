"""`jax.jit` over a `Mesh`: the author says where arrays live, the partitioner inserts the collective."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sftref.batches import Batch
from sftref.config import require
from sftref.step import Program, TrainState, eval_step, mean_gradients, train_step
from sftref.trainers.base import Trainer, check_rows, own
from sftref.trainers.single import identity

AXIS = "data"


class MeshTrainer(Trainer):
    """Data parallelism by sharding: batches along `data`, state replicated; `reduce` is the identity.

    With one micro-batch the compiled step has one all-reduce. With several the partitioner puts it inside their loop,
    once for each: the same sums, more messages than under `pmap`.

    Args:
        program: the static part of the run.
        devices: the devices of a one-dimensional mesh, unless `mesh` is given.
        mesh: the caller's own mesh; it must have an axis `data`. Its other axes hold copies.

    Raises:
        ConfigError: the mesh has no axis `data`.
    """

    name = "mesh"

    def __init__(self, program: Program, devices: Sequence[jax.Device] = (), mesh: Mesh | None = None) -> None:
        # `Mesh(...)` has Auto axes on every JAX; `jax.make_mesh` makes Explicit ones since 0.9.
        mesh = Mesh(np.array(devices), (AXIS,)) if mesh is None else mesh
        require(AXIS in mesh.axis_names, f"mesh axes = {mesh.axis_names}, must include {AXIS!r}")
        super().__init__(program, list(mesh.devices.flat))
        self.mesh = mesh
        self.shards = mesh.shape[AXIS]
        self._copies = NamedSharding(mesh, PartitionSpec())
        self._rows = NamedSharding(mesh, PartitionSpec(None, AXIS))
        logits = NamedSharding(mesh, PartitionSpec(AXIS))
        step = functools.partial(train_step, program, reduce=identity)
        self._train = jax.jit(step, donate_argnums=0, out_shardings=self._copies)
        evaluate = functools.partial(eval_step, program, reduce=identity)
        self._eval = jax.jit(evaluate, out_shardings=(self._copies, logits))
        self._gradients = jax.jit(
            lambda state, batch: mean_gradients(program, state, batch, identity)[1], out_shardings=self._copies
        )

    def place(self, state: TrainState) -> TrainState:
        """See `Trainer.place`."""
        return jax.device_put(own(state), self._copies)

    def put(self, batch: Batch) -> Batch:
        """See `Trainer.put`."""
        check_rows(batch, self.shards)
        return jax.device_put(batch, self._rows)
