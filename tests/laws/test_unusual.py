"""Unusual but right trainers pass every law: the kit raises no alarm on another order, dtype, container or constant."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from kit import run_law
from sftref.conformance.adapter import Arrays, HostBatch, StepResult
from sftref.conformance.core.check import NotRun
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trainers.numpy_trainer import NumpyTrainer, Sums
from sftref.conformance.oracle.updates import clip

pytestmark = pytest.mark.once


class Float32(NumpyTrainer):
    """Gives float32 arrays, unless the case is in float64."""

    name = "float32 out of float64"

    def params(self) -> Arrays:
        kind = np.float64 if self.case.precision == "float64" else np.float32
        return {name: leaf.astype(kind) for name, leaf in self.now.items()}

    def update(self, gradients: Any, rate: float) -> None:
        super().update(gradients, rate)
        self.now = {name: np.asarray(leaf, np.float64) for name, leaf in self.params().items()}

    def replicas(self) -> list[Arrays]:
        return [self.params()] * self.n


class Reversed(NumpyTrainer):
    """Adds up devices and micro-batches in the reverse order."""

    name = "reverse order"

    def reduce(self, parts: list[Sums]) -> Sums:
        return super().reduce(parts[::-1])

    def divide(self, totals: list[Sums]) -> tuple[float, Any]:
        return super().divide(totals[::-1])


class OwnPadding(NumpyTrainer):
    """Pads batches with rows of its own."""

    name = "own padding"

    def padded(self, batch: HostBatch) -> HostBatch:
        more = -len(batch.weights) % (2 * self.n)
        return HostBatch(*(np.concatenate([leaf, np.zeros_like(leaf[:1]).repeat(more, 0)]) for leaf in batch))

    def mean(self, batch: HostBatch) -> tuple[float, Any]:
        return super().mean(self.padded(batch))

    def evaluate(self, batch: HostBatch) -> Any:
        return super().evaluate(self.padded(batch))[: len(batch.weights)]


class ReadOnlyFortran(NumpyTrainer):
    """Gives read-only arrays in Fortran order."""

    name = "read-only, Fortran order"

    def params(self) -> Arrays:
        leaves = {name: np.asfortranarray(leaf) for name, leaf in self.now.items()}
        for leaf in leaves.values():
            leaf.setflags(write=False)
        return leaves


class JaxArrays(NumpyTrainer):
    """Gives JAX arrays of float32, or NumPy arrays if the case is in float64."""

    name = "JAX arrays"

    def evaluate(self, batch: HostBatch) -> Any:
        logits = super().evaluate(batch)
        return logits if self.case.precision == "float64" else jnp.asarray(logits, jnp.float32)


class Scalars(NumpyTrainer):
    """Gives NumPy scalars for loss and learning rate."""

    name = "NumPy scalars"

    def step(self, batch: HostBatch) -> StepResult:
        return StepResult(*(np.float64(value) for value in super().step(batch)))


class Containers(NumpyTrainer):
    """Gives tuples and lists."""

    name = "lists and tuples"

    def moments(self) -> Any:
        return list(super().moments())

    def replicas(self) -> Any:
        return tuple(super().replicas())

    def epoch(self, examples: int, batch_size: int, number: int) -> Any:
        return tuple(batch.tolist() for batch in super().epoch(examples, batch_size, number))


class TorchClip(NumpyTrainer):
    """Adds 1e-6 to the norm before it divides, as `torch.nn.utils.clip_grad_norm_` does."""

    name = "1e-6 in the norm"

    def clip(self, gradients: Any) -> Any:
        return clip(gradients, self.case.clip_norm, 1e-6)


class FourMethods(NumpyTrainer):
    """Claims no optional method."""

    name = "four methods"
    capabilities = frozenset({"devices", "padding rows"})


class ShortBatchFirst(NumpyTrainer):
    """Puts the partial batch of an epoch first."""

    name = "partial batch first"

    def epoch(self, examples: int, batch_size: int, number: int) -> list[Any]:
        return sorted(super().epoch(examples, batch_size, number), key=len)


TRAINERS = (
    Float32, Reversed, OwnPadding, ReadOnlyFortran, JaxArrays, Scalars, Containers, TorchClip, FourMethods,
    ShortBatchFirst,
)  # fmt: skip
SOME = ("step.update", "training.settings", "training.data_order")


def alarms(subject: type[NumpyTrainer], level: str, ids: Sequence[str]) -> list[str]:
    """What the laws say against a trainer."""
    messages = []
    for law in ids:
        try:
            run_law(law, Settings(level=level, devices=8), subject=subject(), against=NumpyTrainer())
        except NotRun:
            continue
        except Exception as error:
            messages.append(f"{law}: {error}")
    return messages


@pytest.mark.parametrize("subject", TRAINERS, ids=lambda one: one.name)
def test_no_alarm_at_quick(subject: type[NumpyTrainer]) -> None:
    assert alarms(subject, "quick", SOME) == []


@pytest.mark.slow
@pytest.mark.parametrize("subject", TRAINERS, ids=lambda one: one.name)
def test_no_alarm_at_standard(subject: type[NumpyTrainer]) -> None:
    kept = [law.id for law in laws().values() if law.per == "subject" and law.rung in (4, 6, 7, 8)]
    assert alarms(subject, "standard", kept) == []
