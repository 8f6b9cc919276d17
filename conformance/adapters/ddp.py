"""The adapter of a PyTorch trainer in one process, or in several under DistributedDataParallel over gloo.

`torch_rank.Rank` is what runs in each process; this file does not import PyTorch, and calls all processes at once.
"""

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..adapter import Arrays, Case, HostBatch, StepResult
from ..workers.channel import Worker, WorkerError, call
from ..workers.plan import SCRATCH

MOST = 2
# Seconds for an answer once the other process has failed, since a process may wait for the other one forever.
GRACE = 10.0
ALONE = frozenset({"padding rows", "gradients", "moments", "checkpoint", "data order", "metrics"})


class Torch:
    """The adapter of one `Rank` in this process, or of several in child processes; `TrainerUnderTest` documents it.

    Args:
        rank: a subclass of `Rank`, which the child processes import by its name.
        name: the trainer's name in reports.
        parallel: whether to claim devices, each a child process.
    """

    def __init__(self, rank: Callable[..., Any], name: str, *, parallel: bool = False) -> None:
        self.name, self.parallel, self.rank, self.alone = name, parallel, rank, rank()
        self.capabilities = ALONE | ({"devices", "replicas"} if parallel else set())
        self.workers: dict[str, Worker] = {}

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        """Begin a run, and start the processes if they do not run yet; ValueError for too many devices."""
        if n_devices > (most := MOST if self.parallel else 1):
            raise ValueError(f"{self.name}: {n_devices} devices, must be at most {most}; use --devices {most}")
        self.case, self.n = case, n_devices
        if n_devices > 1 and not self.workers:
            self.folder = tempfile.TemporaryDirectory(prefix="sftref-ddp-", dir=os.environ.get(SCRATCH))
            meeting, kind = str(Path(self.folder.name) / "meeting"), f"{self.rank.__module__}:{self.rank.__qualname__}"
            for rank in range(n_devices):
                self.workers[f"rank {rank}"] = Worker(
                    f"{__package__}.torch_rank:joined", kind, rank, n_devices, meeting
                )
        self._all("start", case, params)

    def step(self, batch: HostBatch) -> StepResult:
        results = self._all("step", batch)
        return StepResult(float(np.mean([loss for loss, _ in results])), float(results[0][1]))

    def evaluate(self, batch: HostBatch) -> npt.NDArray[Any]:
        out = np.zeros((len(batch.weights), self.case.num_labels), np.float32)
        for rows, logits in self._all("logits", batch):
            out[rows] = logits
        return out

    def params(self) -> Arrays:
        return self._all("params")[0]

    def gradients(self, batch: HostBatch) -> Arrays:
        return self._all("gradients", batch)[0]

    def moments(self) -> tuple[Arrays, Arrays]:
        return self._all("moments")[0]

    def replicas(self) -> Sequence[Arrays]:
        return self._all("params")

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._all("save", path)

    def restore(self, path: Path) -> None:
        self._all("restore", path)

    def epoch(self, examples: int, batch_size: int, number: int) -> Sequence[npt.NDArray[Any]]:
        """For each update, the batches of all processes, concatenated."""
        return [np.concatenate(rows) for rows in zip(*self._all("epoch", examples, batch_size, number), strict=True)]

    def score(self, batches: Sequence[HostBatch]) -> Mapping[str, float]:
        """Accuracy and F1 of the rows that the processes evaluated, including repeated rows."""
        parts = [(logits, batch.labels[rows]) for batch in batches for rows, logits in self._all("logits", batch)]
        logits, labels = (np.concatenate(kind) for kind in zip(*parts, strict=True))
        predicted = logits.argmax(axis=1)
        hits = ((predicted == 1) & (labels == 1)).sum()
        positives = (predicted == 1).sum() + (labels == 1).sum()
        f1 = float(2 * hits / positives) if positives else 0.0
        return {"accuracy": float((predicted == labels).mean()), "f1": f1}

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        """The answers of all processes, in the order of ranks.

        Raises:
            WorkerError: a process raised, ended, or was silent after another one had failed.
        """
        if self.n == 1:
            return [getattr(self.alone, method)(*arguments)]
        try:
            return call(self.workers, method, *arguments, seconds=math.inf, grace=GRACE)
        except WorkerError as error:
            if error.lost:  # the next `start` starts new processes
                for worker in self.workers.values():
                    worker.close()
                self.workers = {}
            raise
