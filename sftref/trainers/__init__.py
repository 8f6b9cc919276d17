"""Program, devices -> a trainer. Device code lives in this folder and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from sftref.config import TRAINERS, require_choice
from sftref.step import Program
from sftref.trainers.base import Trainer
from sftref.trainers.mesh import MeshTrainer
from sftref.trainers.pmap import PmapTrainer
from sftref.trainers.single import SingleTrainer

__all__ = ["MeshTrainer", "PmapTrainer", "SingleTrainer", "Trainer", "make_trainer"]


def make_trainer(name: str, program: Program, devices: Sequence[jax.Device]) -> Trainer:
    """The trainer called `name` on `devices`.

    Raises:
        ConfigError: there is no such trainer, or `single` was given several devices.
    """
    require_choice("--trainer", name, TRAINERS)
    classes: dict[str, type[Trainer]] = {"single": SingleTrainer, "pmap": PmapTrainer, "mesh": MeshTrainer}
    return classes[name](program, devices)
