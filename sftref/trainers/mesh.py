"""`jax.jit` over a `Mesh`: our code places the arrays, the partitioner inserts the collectives."""

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sftref.config import require
from sftref.data.batches import Batch, Part
from sftref.model.sharding import DATA, Places, check_mesh
from sftref.train.loss import LossSums
from sftref.train.step import (
    Program,
    StepMetrics,
    Sums,
    TrainState,
    eval_step,
    gradient_sums,
    mean_gradients,
    train_step,
)
from sftref.train.trainer import Trainer, check_rows, own
from sftref.trainers.local import per_shard, sends_leaves, sum_over
from sftref.trainers.single import identity


def on_its_mesh(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of `MeshTrainer` that runs on the trainer's mesh, also if the caller has set another by `jax.set_mesh`.

    Otherwise JAX takes the caller's mesh, often with Explicit axes, for the one of the arrays that the step makes.
    """

    @functools.wraps(method)
    def run(self: "MeshTrainer", *args: Any) -> Any:
        # `jax.set_mesh` is public since JAX 0.7.1.
        is_set = hasattr(jax, "set_mesh") and not jax.sharding.get_abstract_mesh().empty
        with jax.set_mesh(self.mesh) if is_set else contextlib.nullcontext():
            return method(self, *args)

    return run


class MeshTrainer(Trainer):
    """Shards the rows of a batch along `data` and `fsdp`. `reduce` is the identity: the partitioner adds the sums.

    The state is replicated, unless the mesh has an axis `fsdp` or `tensor` of more than one device: then parameters,
    moments and activations are sharded by the table of `model/sharding.py`.

    With a replicated state, several micro-batches are added up on each device by itself, in a `shard_map`, and reduced
    once: the partitioner would put an all-reduce into the loop over them. So are the sums of several processes on CPUs,
    for which the partitioner would send a message for each leaf (see `local.sum_over`).

    Args:
        program: the static part of the run.
        devices: the devices of a one-dimensional mesh; not used with `mesh`.
        mesh: the caller's own mesh with an axis `data`, with axes of any type (Auto, Explicit or Manual); along an axis
            that `model/sharding.py` does not name, everything is replicated.

    Raises:
        ConfigError: the mesh has no axis `data`, or `tensor` does not divide the model.
        ValueError: the rows of this process's devices are not contiguous.
    """

    name = "mesh"

    def __init__(self, program: Program, devices: Sequence[jax.Device] = (), mesh: Mesh | None = None) -> None:
        # `Mesh(...)` has Auto axes in every release of JAX, as the partitioner needs. `jax.make_mesh` makes Explicit
        # axes since 0.9, for programs that state the sharding of each result: the same devices get Auto axes here.
        mesh = Mesh(np.array(devices), (DATA,)) if mesh is None else Mesh(mesh.devices, mesh.axis_names)
        require(DATA in mesh.axis_names, f"mesh axes = {mesh.axis_names}, must include {DATA!r}")
        check_mesh(mesh, program.model.config)
        self.mesh, self.places = mesh, Places(mesh)
        program = program.sharded(self.places) if self.places.shards_model else program
        super().__init__(program, list(mesh.devices.flat))
        self.shards = self.places.row_shards
        self._copies = NamedSharding(mesh, PartitionSpec())
        self._rows = NamedSharding(mesh, PartitionSpec(None, self.places.row_axes))
        own_rows = self._rows.addressable_devices_indices_map((1, self.shards)).values()
        parts = sorted({index[1].start or 0 for index in own_rows if index is not None})
        if parts != list(range(parts[0], parts[-1] + 1)):
            raise ValueError(f"mesh = {mesh}, must give this process contiguous rows, not parts {parts}")
        self.part = Part(parts[0], parts[-1] + 1, self.shards)
        self._several = jax.process_count() > 1
        self.local_sums = self.local_sums and not self.places.shards_model
        # Several processes need replicated logits: each reads all of them, but has access to its own devices only.
        logits = self._copies if self._several else NamedSharding(mesh, PartitionSpec(self.places.row_axes))
        # For a sharded state, `_step` gives each leaf its sharding.
        out: Any = {} if self.places.shards_model else {"out_shardings": self._copies}
        step = functools.partial(_step, program, self.places, self.sums)
        self._train = jax.jit(step, donate_argnums=0, **out)
        evaluate = functools.partial(eval_step, program, reduce=identity)
        self._eval = jax.jit(evaluate, out_shardings=(self._copies, logits))
        self._gradients = jax.jit(
            lambda state, batch: mean_gradients(program, state, batch, identity, sums_of=self.sums)[1],
            out_shardings=self._copies,
        )
        self._gathered = jax.jit(identity, out_shardings=self._copies)

    def sums(
        self, program: Program, state: TrainState, batch: Batch, device: Array | None = None
    ) -> tuple[LossSums, Any]:
        """Global sums; see `gradient_sums`. The partitioner divides a single micro-batch and adds its sums."""
        leaves_apart = sends_leaves(self.devices)
        if self.shards == 1 or not self.local_sums or (batch.weights.shape[0] == 1 and not leaves_apart):
            return gradient_sums(program, state, batch, device)
        axes = self.places.row_axes

        def own(state: TrainState, batch: Batch) -> tuple[LossSums, Any]:
            return sum_over(gradient_sums(program, state, batch), axes, in_one=leaves_apart)

        specs = (PartitionSpec(), PartitionSpec(None, axes))
        # The optimizer's state is left out: its arrays would be arguments of the function of each device.
        return per_shard(own, self.mesh, specs, PartitionSpec())(state.replace(opt_state=()), batch)

    train_step = on_its_mesh(Trainer.train_step)
    eval_step = on_its_mesh(Trainer.eval_step)
    gradient_step = on_its_mesh(Trainer.gradient_step)
    compiled = on_its_mesh(Trainer.compiled)
    step_text = on_its_mesh(Trainer.step_text)
    lowered = on_its_mesh(Trainer.lowered)

    @on_its_mesh
    def place(self, state: TrainState) -> TrainState:
        """See `Trainer.place`; a sharded state sends each device its part only."""
        host = own(state)
        where = self.places.of_state(host) if self.places.shards_model else jax.tree.map(lambda _: self._copies, host)
        if not self._several:
            return jax.device_put(host, where)
        # `device_put` would compare each leaf across the processes, with one collective each.
        return jax.tree.map(lambda a, at: jax.make_array_from_callback(a.shape, at, a.__getitem__), host, where)

    @on_its_mesh
    def put(self, batch: Batch) -> Batch:
        """See `Trainer.put`."""
        check_rows(batch, self)
        if not self._several:
            return jax.device_put(batch, self._rows)

        def whole(leaf: np.ndarray) -> jax.Array:
            rows = leaf.shape[1] // self.part.shard_count * self.shards
            return jax.make_array_from_process_local_data(self._rows, leaf, (leaf.shape[0], rows, *leaf.shape[2:]))

        return jax.tree.map(whole, batch)

    @on_its_mesh
    def read(self, tree: Any) -> Any:
        """See `Trainer.read`; a state sharded over processes is gathered first."""
        return jax.device_get(self._gathered(tree) if self._several and self.places.shards_model else tree)


def mesh_of(shape: Mapping[str, int], devices: Sequence[jax.Device]) -> Mesh:
    """A mesh with these axes, from the outermost to the innermost.

    Raises:
        ConfigError: the mesh does not use all devices.
    """
    count, sizes = math.prod(shape.values()), ",".join(f"{axis}={size}" for axis, size in shape.items())
    require(
        count == len(devices),
        f"--mesh {sizes}: uses {count} devices, but {len(devices)} are available; choose sizes with that product",
    )
    return Mesh(np.array(devices).reshape(tuple(shape.values())), tuple(shape))


def _step(
    program: Program, places: Places, sums_of: Sums, state: TrainState, batch: Batch
) -> tuple[TrainState, StepMetrics]:
    state, metrics = train_step(program, state, batch, identity, sums_of=sums_of)
    return (lax.with_sharding_constraint(state, places.of_state(state)) if places.shards_model else state), metrics
