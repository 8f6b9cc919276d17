"""Name and shape -> the sharding of an array on a mesh with axes data, fsdp and tensor: one table for all arrays.

- `data`: the rows of a batch are sharded, and each device has all parameters.
- `fsdp`: the rows are sharded, and so are parameters and Adam's moments; a parameter is gathered while it is used
  (Rajbhandari et al., "ZeRO", SC 2020).
- `tensor`: the heads of attention and the inner width of the feed-forward are sharded, so that two matrix products need
  only one sum over the axis, after the second product (Shoeybi et al., "Megatron-LM", 2019).

The table decides where arrays are placed; XLA's partitioner decides what devices send to each other.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sftref.config import MESH_AXES, ModelConfig, require

DATA, FSDP, TENSOR = MESH_AXES
# The axes that shard the rows of a batch.
ROWS = (DATA, FSDP)
Axis = str | tuple[str, ...] | None

# The end of the path of a parameter or its moments -> the mesh axis of each dimension. Kernels are (in, out), tables
# (rows, D). The first matching rule counts. All others (other biases, LayerNorms, positions) are under 1 %, and
# replicated.
RULES: tuple[tuple[str, tuple[Axis, ...]], ...] = (
    (r"(query|key|value|intermediate|pooler)/kernel$", (FSDP, TENSOR)),
    (r"(query|key|value|intermediate|pooler)/bias$", (TENSOR,)),
    (r"(attention|layer_\d+)/output/kernel$", (TENSOR, FSDP)),
    (r"classifier/kernel$", (TENSOR, None)),
    (r"word_embeddings/embedding$", (TENSOR, FSDP)),
)
# The kind of an activation -> the mesh axis of each dimension.
ACTIVATIONS: Mapping[str, tuple[Axis, ...]] = {
    "hidden": (ROWS, None, None),  # [R, L, D]
    "heads": (ROWS, TENSOR, None, None),  # [R, H, L, D / H]
    "inner": (ROWS, None, TENSOR),  # [R, L, F], or D before the classifier
    "table": (None, None),  # [V, D], while it is read
}


@dataclass(frozen=True)
class Places:
    """The table applied to a mesh. An axis that the mesh lacks, or that does not divide a dimension, shards nothing."""

    mesh: Mesh

    @property
    def shards_model(self) -> bool:
        """Whether anything but the batch is sharded."""
        return any(self.mesh.shape.get(axis, 1) > 1 for axis in (FSDP, TENSOR))

    @property
    def row_axes(self) -> tuple[str, ...]:
        """The axes in `ROWS` that the mesh has."""
        return tuple(axis for axis in ROWS if axis in self.mesh.axis_names)

    @property
    def row_shards(self) -> int:
        """The number of shards of a batch."""
        return math.prod(self.mesh.shape[axis] for axis in self.row_axes)

    def of(self, axes: Sequence[Axis], shape: Sequence[int]) -> NamedSharding:
        """The sharding of an array of `shape`, given the mesh axis of each dimension."""
        spec: list[Axis] = []
        for axis, size in zip(axes, shape, strict=False):
            names = tuple(n for n in ((axis,) if isinstance(axis, str) else axis or ()) if n in self.mesh.axis_names)
            parts = math.prod(self.mesh.shape[name] for name in names)
            spec.append(names if names and size % parts == 0 else None)
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def of_leaf(self, path: Sequence[Any], leaf: Any) -> NamedSharding:
        """The sharding of a leaf of the state, by the first rule that matches its path."""
        name = "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path)
        axes = next((axes for rule, axes in RULES if re.search(rule, name)), ())
        return self.of(axes, leaf.shape)

    def of_state(self, state: Any) -> Any:
        """A sharding for each leaf of the state."""
        return jax.tree_util.tree_map_with_path(self.of_leaf, state)

    def constrain(self, x: Array, kind: str) -> Array:
        """The activation `x`, with the sharding of its kind in `ACTIVATIONS`."""
        return lax.with_sharding_constraint(x, self.of(ACTIVATIONS[kind], x.shape))


def check_mesh(mesh: Mesh, model: ModelConfig) -> None:
    """Check that the axis `tensor` divides the heads and the inner width into equal parts.

    Raises:
        ConfigError: one of the two is not divisible by the size of `tensor`.
    """
    parts = mesh.shape.get(TENSOR, 1)
    for name, size in (("heads", model.num_attention_heads), ("inner width", model.intermediate_size)):
        require(
            size % parts == 0,
            f"--mesh tensor = {parts}, must divide the model's {name} = {size}; choose a divisor of both",
        )
