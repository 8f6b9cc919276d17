"""Run: everything that the training loop needs."""

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
    """A configuration with its data, model, program and trainer, as `sftref.prepare.prepare` loads them."""

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
