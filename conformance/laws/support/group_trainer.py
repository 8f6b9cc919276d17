"""A trainer in several processes -> a trainer behind the border, which the laws for one process can be asked of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...adapter import Arrays, Case, HostBatch, StepResult
from ...core.check import LawBroken
from .process_group import Ranks


class Across:
    """A trainer under test that runs in several processes, as the laws for one process see it.

    A method is called in each of them. What they answer must be the same bits, and is what the first one says.
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
        answers = [np.where((batch.weights > 0)[:, None], logits, 0) for logits in self._all("evaluate", batch)]
        return np.asarray(self._agreed("evaluate", answers))

    def params(self) -> Arrays:
        """See `TrainerUnderTest.params`."""
        found: Arrays = self._one("params")
        return found

    def gradients(self, batch: HostBatch) -> Arrays:
        """See `TrainerUnderTest.gradients`."""
        found: Arrays = self._one("gradients", batch)
        return found

    def score(self, batches: Sequence[HostBatch]) -> Mapping[str, float]:
        """See `TrainerUnderTest.score`."""
        found: Mapping[str, float] = self._one("score", batches)
        return found

    def save(self, path: Path) -> None:
        """See `TrainerUnderTest.save`: all write to one folder."""
        self._all("save", path)

    def restore(self, path: Path) -> None:
        """See `TrainerUnderTest.restore`."""
        self._all("restore", path)

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return self.ranks.every("call", method, *arguments)

    def _one(self, method: str, *arguments: Any) -> Any:
        return self._agreed(method, self._all(method, *arguments))

    def _agreed(self, method: str, answers: Sequence[Any]) -> Any:
        for number, answer in enumerate(answers):
            where = unlike(answer, answers[0])
            if where is not None:
                what = f"{where} of rank {number} is not that of rank 0"
                raise LawBroken(f"{self.ranks.layout} processes x devices, {method}(): {what}")
        return answers[0]


def unlike(answer: Any, other: Any) -> str | None:
    """What of two answers is not the same bit for bit: a leaf's name, or `the result`; None if nothing."""
    if isinstance(answer, Mapping):
        if answer.keys() != other.keys():
            return "the set of leaves"
        return next((name for name in answer if not _same(answer[name], other[name])), None)
    return None if _same(answer, other) else "the result"


def _same(one: Any, other: Any) -> bool:
    a, b = np.asarray(one), np.asarray(other)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
