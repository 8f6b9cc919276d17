"""Program, devices -> a trainer. All code for several devices is in this folder or in `model/sharding.py`."""

from collections.abc import Mapping, Sequence

import jax

from sftref.config import TRAINERS, require_choice
from sftref.train.step import Program
from sftref.train.trainer import Trainer
from sftref.trainers.mesh import MeshTrainer, mesh_of
from sftref.trainers.pmap import PmapTrainer
from sftref.trainers.shard_map import ShardMapTrainer
from sftref.trainers.single import SingleTrainer

__all__ = ["MeshTrainer", "PmapTrainer", "ShardMapTrainer", "SingleTrainer", "Trainer", "make_trainer"]


def make_trainer(
    name: str, program: Program, devices: Sequence[jax.Device], mesh: Mapping[str, int] | None = None
) -> Trainer:
    """The trainer called `name` on `devices`; `mesh` gives the sizes of mesh axes, None for one axis `data`.

    Raises:
        ConfigError: there is no such trainer, `single` got several devices, the mesh does not fit the devices or the
            model, or JAX is too old for `shard_map`.
    """
    require_choice("--trainer", name, TRAINERS)
    if mesh is not None:
        return MeshTrainer(program, mesh=mesh_of(mesh, devices))
    classes: tuple[type[Trainer], ...] = (SingleTrainer, PmapTrainer, MeshTrainer, ShardMapTrainer)
    return next(kind for kind in classes if kind.name == name)(program, devices)
