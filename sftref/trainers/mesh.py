"""`jax.jit` over a `Mesh`: the author says where arrays live, the partitioner inserts the collective."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sftref.batches import Batch, Part
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
        at = sorted({int(where[mesh.axis_names.index(AXIS)]) for where in np.argwhere(_own(mesh))})
        self.part = Part(at[0], at[-1] + 1, self.shards)
        self._copies = NamedSharding(mesh, PartitionSpec())
        self._rows = NamedSharding(mesh, PartitionSpec(None, AXIS))
        self._several = jax.process_count() > 1
        # Each process reads all logits; of one process every device is its own.
        logits = self._copies if self._several else NamedSharding(mesh, PartitionSpec(AXIS))
        step = functools.partial(train_step, program, reduce=identity)
        self._train = jax.jit(step, donate_argnums=0, out_shardings=self._copies)
        evaluate = functools.partial(eval_step, program, reduce=identity)
        self._eval = jax.jit(evaluate, out_shardings=(self._copies, logits))
        self._gradients = jax.jit(
            lambda state, batch: mean_gradients(program, state, batch, identity)[1], out_shardings=self._copies
        )

    def place(self, state: TrainState) -> TrainState:
        """See `Trainer.place`."""
        host = own(state)
        if not self._several:
            return jax.device_put(host, self._copies)
        # `device_put` would compare every leaf across the processes, one collective each.
        return jax.tree.map(lambda a: jax.make_array_from_callback(a.shape, self._copies, a.__getitem__), host)

    def put(self, batch: Batch) -> Batch:
        """See `Trainer.put`."""
        check_rows(batch, self)
        if not self._several:
            return jax.device_put(batch, self._rows)

        def whole(leaf: np.ndarray) -> jax.Array:
            rows = leaf.shape[1] // self.part.count * self.shards
            return jax.make_array_from_process_local_data(self._rows, leaf, (leaf.shape[0], rows, *leaf.shape[2:]))

        return jax.tree.map(whole, batch)


def _own(mesh: Mesh) -> np.ndarray:
    """Which devices of a mesh are this process's: booleans in its shape."""
    return np.vectorize(lambda device: device.process_index == jax.process_index(), otypes=[bool])(mesh.devices)
