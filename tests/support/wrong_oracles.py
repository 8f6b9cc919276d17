"""Wrong forms of the oracle as trainers, and where a run of theirs is wrong."""

import dataclasses
import math
from typing import Any

import numpy as np
from sftref.conformance.adapter import HostBatch
from sftref.conformance.laws.support.examine import experiments
from sftref.conformance.laws.support.examine.made import Until, made
from sftref.conformance.oracle.cases import MAIN, start_params
from sftref.conformance.oracle.draws import batch_of
from sftref.conformance.oracle.sharded import ShardedTrainer
from sftref.conformance.oracle.tape import Params
from sftref.conformance.oracle.variants.located import Located
from sftref.conformance.oracle.variants.replay import Log

CASE = dataclasses.replace(
    MAIN, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12, total_steps=6,
    warmup_steps=0, weight_decay=0.3, learning_rate=0.02, eps=2e-3, hidden_dropout=0.0, attention_dropout=0.0,
    classifier_dropout=0.0,
)  # fmt: skip
LAST = Until(math.inf, math.inf)  # no test ends early


class Right(ShardedTrainer):
    """The oracle as a trainer, whose results are rounded to float32."""

    capabilities = frozenset({"devices", "padding rows", "weights", "gradients", "moments", "accumulation"})

    def update(self, gradients: Params, rate: float) -> None:
        super().update(gradients, rate)
        self.now = {name: leaf.astype(np.float32).astype(float) for name, leaf in self.now.items()}


class FourMethods(Right):
    """The same, without gradients and moments."""

    capabilities = frozenset({"devices", "padding rows", "weights", "accumulation"})


def examined(trainer: Any, n: int = 4, **changes: Any) -> Located | None:
    """Where a run of two updates is wrong."""
    rng = np.random.default_rng(3)
    case = dataclasses.replace(CASE, **changes)
    log = Log(case, start_params(case, rng), n)
    calls: list[tuple[str, HostBatch | None]] = [("step", batch_of(case, rng, real=15)), ("step", batch_of(case, rng))]
    log = made(trainer, log, [*calls, ("params", None)])
    run = experiments.observed(trainer, log)
    assert run is not None
    return experiments.examined(trainer, log, run, LAST)


def wrong(base: type[Right], **methods: Any) -> Any:
    return type("Wrong", (base,), methods)()


def nearly_right(self: Any, logits: Any, batch: HostBatch) -> Any:
    """Losses and their slopes that err by a thousandth; no label is another."""
    losses, slopes = ShardedTrainer.losses(self, logits, batch)
    return losses * 1.001, slopes + 0.001 * np.array([1, -1, 0])
