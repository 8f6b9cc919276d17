"""PyTorch behind the kit's border: `transformers`' BERT and `torch.optim.AdamW`, in one process or with DDP over gloo.

`torch_rank.py` is what each process does. What follows from how such a loop is written is left as it is:

- every example counts alike: `weights` is not claimed; nor is `dropout`, whose masks come from PyTorch's own generator;
- where rows do not divide among the processes, `DistributedSampler` repeats some, which then count twice: in the loss,
  in the gradient, in an epoch and in a score;
- the loss that is reported is the mean of the processes' losses.

One thing is not: `transformers` gives the embedding of token 0 no gradient, for there it stands in padding only. To the
kit every id is a word, so that row is trained like the others; `with_padding_token` leaves it, to be seen failing.

    sftref verify --adapter sftref.conformance.adapters.examples.torch:single
    sftref verify --adapter sftref.conformance.adapters.examples.torch:ddp --devices 2
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...adapter import Arrays, Case, HostBatch, StepResult
from .torch_rank import Rank, serve

MOST = 2
ALONE = frozenset({"gradients", "moments", "checkpoint", "data order", "metrics"})


class Torch:
    """The border around `Rank`s: one in this process, or several in their own."""

    def __init__(self, name: str, *, parallel: bool = False, pad: int | None = None) -> None:
        self.name, self.parallel = name, parallel
        self.capabilities = ALONE | ({"devices", "replicas"} if parallel else set())
        self.alone = Rank(pad=pad)
        self.others: list[Any] = []
        self.meeting: tempfile.TemporaryDirectory[str] | None = None

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        """See `TrainerUnderTest.start`.

        Raises:
            ValueError: more devices than there may be processes.
        """
        if n_devices > (MOST if self.parallel else 1):
            raise ValueError(f"{self.name}: {n_devices} devices, must be at most {MOST}; give verify --devices {MOST}")
        self.case, self.n = case, n_devices
        if n_devices > 1 and not self.others:
            self.meeting = tempfile.TemporaryDirectory(prefix="sftref-ddp-")
            self.others = launched(n_devices, Path(self.meeting.name) / "meeting")
        self._all("start", case, params)

    def step(self, batch: HostBatch) -> StepResult:
        """See `TrainerUnderTest.step`."""
        found = self._all("step", batch)
        return StepResult(float(np.mean([loss for loss, _ in found])), float(found[0][1]))

    def evaluate(self, batch: HostBatch) -> npt.NDArray[Any]:
        """See `TrainerUnderTest.evaluate`."""
        out = np.zeros((len(batch.weights), self.case.num_labels), np.float32)
        for rows, logits in self._all("logits", batch):
            out[rows] = logits
        return out

    def params(self) -> Arrays:
        """See `TrainerUnderTest.params`."""
        found: Arrays = self._all("params")[0]
        return found

    def gradients(self, batch: HostBatch) -> Arrays:
        """See `TrainerUnderTest.gradients`."""
        found: Arrays = self._all("gradients", batch)[0]
        return found

    def moments(self) -> tuple[Arrays, Arrays]:
        """See `TrainerUnderTest.moments`."""
        found: tuple[Arrays, Arrays] = self._all("moments")[0]
        return found

    def replicas(self) -> Sequence[Arrays]:
        """See `TrainerUnderTest.replicas`."""
        return self._all("params")

    def save(self, path: Path) -> None:
        """See `TrainerUnderTest.save`."""
        path.mkdir(parents=True, exist_ok=True)
        self._all("save", path)

    def restore(self, path: Path) -> None:
        """See `TrainerUnderTest.restore`."""
        self._all("restore", path)

    def epoch(self, examples: int, batch_size: int, number: int) -> Sequence[npt.NDArray[Any]]:
        """See `TrainerUnderTest.epoch`: the processes' batches of each update together."""
        return [np.concatenate(rows) for rows in zip(*self._all("epoch", examples, batch_size, number), strict=True)]

    def score(self, batches: Sequence[HostBatch]) -> Mapping[str, float]:
        """See `TrainerUnderTest.score`: of the rows that each process evaluated, repeated ones among them."""
        hits = positive = right = seen = 0
        for batch in batches:
            for rows, logits in self._all("logits", batch):
                found, labels = logits.argmax(axis=1), batch.labels[rows]
                right, seen = right + int((found == labels).sum()), seen + len(rows)
                hits += int(((found == 1) & (labels == 1)).sum())
                positive += int((found == 1).sum() + (labels == 1).sum())
        return {"accuracy": right / seen, "f1": 2 * hits / positive if positive else 0.0}

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        """What each process gives, in the order of ranks.

        Raises:
            RuntimeError: a process failed; it says what it said.
        """
        if self.n == 1:
            return [getattr(self.alone, method)(*arguments)]
        for pipe in self.others:
            pipe.send((method, arguments))
        found = [pipe.recv() for pipe in self.others]
        broken = [problem for _, problem in found if problem]
        if broken:
            raise RuntimeError("; ".join(broken))
        return [result for result, _ in found]


def launched(ranks: int, meeting: Path) -> list[Any]:
    """Start processes that meet in a file, and end with this one: the pipe to each."""
    fresh = multiprocessing.get_context("spawn")
    pipes = []
    for rank in range(ranks):
        here, there = fresh.Pipe()
        fresh.Process(target=serve, args=(rank, ranks, there, str(meeting)), daemon=True).start()
        there.close()
        pipes.append(here)
    return pipes


def single() -> Torch:
    """One process."""
    return Torch("PyTorch")


def with_padding_token() -> Torch:
    """The same, where token 0 is padding."""
    return Torch("PyTorch, token 0 is padding", pad=0)


def ddp() -> Torch:
    """One process, or two under DistributedDataParallel."""
    return Torch("PyTorch DDP", parallel=True)
