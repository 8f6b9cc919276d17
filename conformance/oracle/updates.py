"""Gradients, step -> new parameters in NumPy float64: clipping, AdamW, decay mask, linear schedule."""

import math
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from ..adapter import Arrays, Case, HostBatch, StepResult
from .model import value_and_gradient
from .tape import Params


def learning_rate(case: Case, step: int) -> float:
    """The learning rate of update `step` = 0, 1, ...: from 0 up over the warm-up, then down to 0 at `total_steps`."""
    if step < case.warmup_steps:
        return case.learning_rate * step / case.warmup_steps
    left = max(case.total_steps - step, 0)
    return case.learning_rate * left / (case.total_steps - case.warmup_steps)


def decays(name: str) -> bool:
    """Whether a parameter decays: all do except biases and LayerNorm scales."""
    return not name.endswith((".bias", "LayerNorm.weight"))


def norm_of(gradients: Params) -> float:
    """The l2 norm of all leaves together."""
    return math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))


def clip(gradients: Params, most: float | None, more: float = 0.0) -> Params:
    """Scale all gradients by one factor so that their global l2 norm, `more` added to it, is at most `most`."""
    norm = norm_of(gradients) + more
    factor = 1.0 if most is None or norm <= most else most / norm
    return {name: g * factor for name, g in gradients.items()}


@dataclass
class OracleTrainer:
    """A training run of the oracle, step by step, which a trainer under test must repeat.

        m = b1 m + (1 - b1) g           v = b2 v + (1 - b2) g^2
        p -= lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p),    t = 1, 2, ...

    with decay for the parameters of `decays` only (AdamW, Loshchilov and Hutter, 2019, algorithm 2).
    `scale` is 1, or the factor of m by an error of the corrections 1 - b^t.
    """

    case: Case
    params: Params
    step_number: int = 0
    first: Params = field(default_factory=dict)
    second: Params = field(default_factory=dict)
    scale: float = 1.0

    @classmethod
    def start(cls, case: Case, params: Arrays) -> Self:
        """A run at step 0, from a copy of `params`."""
        return cls(case, {name: np.array(value, np.float64) for name, value in params.items()})

    def step(self, batch: HostBatch) -> StepResult:
        """One update."""
        loss, gradients = value_and_gradient(self.case, self.params, batch, self.step_number)
        return StepResult(loss, self.apply(gradients))

    def apply(self, gradients: Params, more: float = 0.0) -> float:
        """The update that a gradient makes; gives its learning rate. `more` is as in `clip`."""
        case, rate = self.case, learning_rate(self.case, self.step_number)
        self.step_number += 1
        for name, g in clip(gradients, case.clip_norm, more).items():
            m = case.b1 * self.first.get(name, 0.0) + (1.0 - case.b1) * g
            v = case.b2 * self.second.get(name, 0.0) + (1.0 - case.b2) * g * g
            self.first[name], self.second[name] = m, v
            direction = self.scale * m / (1.0 - case.b1**self.step_number)
            direction = direction / (np.sqrt(v / (1.0 - case.b2**self.step_number)) + case.eps)
            decay = case.weight_decay * self.params[name] if decays(name) else 0.0
            self.params[name] = self.params[name] - rate * (direction + decay)
        return rate
