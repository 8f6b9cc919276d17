"""A trainer in several processes, behind the adapter interface, so that the laws for one process can test it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...adapter import Arrays, Case, HostBatch, StepResult
from ...core.check import LawBroken
from .process_group import Ranks


class Across:
    """A trainer under test that runs in several processes.

    Each method is called in every process. The answers must have the same bits; the first one is returned.
    """

    def __init__(self, ranks: Ranks, name: str, capabilities: frozenset[str]) -> None:
        self.ranks, self.name, self.capabilities = ranks, f"{name}, {ranks.layout} processes x devices", capabilities

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        """See `TrainerUnderTest.start`; `n_devices` must be those of the layout."""
        self._one("start", case, params, n_devices)

    def step(self, batch: HostBatch) -> StepResult:
        """See `TrainerUnderTest.step`."""
        return StepResult(*self._one("step", batch))

    def evaluate(self, batch: HostBatch) -> npt.NDArray[Any]:
        """See `TrainerUnderTest.evaluate`; rows of weight 0 may differ."""
        answers = self.ranks.every("call", "evaluate", batch)
        counted = [np.where((batch.weights > 0)[:, None], logits, 0) for logits in answers]
        return np.asarray(self._same("evaluate", counted))

    def params(self) -> Arrays:
        """See `TrainerUnderTest.params`."""
        return self._one("params")

    def gradients(self, batch: HostBatch) -> Arrays:
        """See `TrainerUnderTest.gradients`."""
        return self._one("gradients", batch)

    def score(self, batches: Sequence[HostBatch]) -> Mapping[str, float]:
        """See `TrainerUnderTest.score`."""
        return self._one("score", batches)

    def save(self, path: Path) -> None:
        """See `TrainerUnderTest.save`: all write to one folder."""
        self.ranks.every("call", "save", path)

    def restore(self, path: Path) -> None:
        """See `TrainerUnderTest.restore`."""
        self.ranks.every("call", "restore", path)

    def _one(self, method: str, *arguments: Any) -> Any:
        return self._same(method, self.ranks.every("call", method, *arguments))

    def _same(self, method: str, answers: Sequence[Any]) -> Any:
        for number, answer in enumerate(answers):
            where = unlike(answer, answers[0])
            if where is not None:
                what = f"{where} of rank {number} is not that of rank 0"
                raise LawBroken(f"{self.ranks.layout} processes x devices, {method}(): {what}")
        return answers[0]


def unlike(answer: Any, other: Any) -> str | None:
    """What differs in a bit between two answers: a leaf's name, or `the result`; None if nothing does."""
    if isinstance(answer, Mapping):
        if answer.keys() != other.keys():
            return "the set of leaves"
        return next((name for name in answer if not _same_bits(answer[name], other[name])), None)
    return None if _same_bits(answer, other) else "the result"


def _same_bits(one: Any, other: Any) -> bool:
    a, b = np.asarray(one), np.asarray(other)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
