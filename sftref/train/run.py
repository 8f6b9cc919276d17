"""Run: everything that the loop needs, loaded, checked and placed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sftref.config import TrainConfig
from sftref.data.tasks import Task
from sftref.data.tokens import TokenArrays
from sftref.model.pretrained import Pretrained
from sftref.train.step import Program
from sftref.train.trainer import Trainer


@dataclass(frozen=True, eq=False)
class Run:
    """What `sftref.prepare.prepare` makes of a configuration."""

    config: TrainConfig
    task: Task
    model: Pretrained
    tokenizer: Any
    train: TokenArrays
    validation: Mapping[str, TokenArrays]
    program: Program
    trainer: Trainer
    steps_per_epoch: int
    total_steps: int
