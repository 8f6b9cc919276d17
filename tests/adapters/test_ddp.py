"""The adapter of PyTorch trainers, without PyTorch: what it makes of the answers of its processes."""

from typing import Any

import numpy as np
import pytest
from kit import DROPPED, B, batch_of, params_of
from sftref.conformance.adapter import HostBatch, check_adapter
from sftref.conformance.adapters import ddp
from sftref.conformance.workers.channel import NoAnswer, WorkerError

pytestmark = pytest.mark.once


class Rank:
    """A process that has every second row, and whose logits are the labels as vectors."""

    def __init__(self, rank: int = 0, ranks: int = 1) -> None:
        self.rank, self.ranks, self.starts = rank, ranks, 0

    def start(self, case: Any, params: Any) -> None:
        self.starts += 1

    def step(self, batch: HostBatch) -> tuple[float, float]:
        return float(self.rank), 0.5

    def logits(self, batch: HostBatch) -> tuple[list[int], Any]:
        rows = list(range(self.rank, len(batch.labels), self.ranks))
        return rows, np.eye(DROPPED.num_labels, dtype=np.float32)[batch.labels[rows]]

    def epoch(self, examples: int, batch_size: int, number: int) -> list[Any]:
        return [np.array([first + self.rank]) for first in range(0, examples, self.ranks)]

    def params(self) -> dict[str, Any]:
        raise ValueError("no parameters")


class Process:
    """Stands for a child process."""

    open = 0

    def __init__(self, factory: str, kind: str, rank: int, ranks: int, meeting: str) -> None:
        assert factory == "sftref.conformance.adapters.torch_rank:joined"
        assert kind == f"{Rank.__module__}:Rank"
        self.rank = Rank(rank, ranks)
        Process.open += 1

    def close(self) -> None:
        Process.open -= 1


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> ddp.Torch:
    def call(workers: dict[str, Process], method: str, *arguments: Any, **_: float) -> list[Any]:
        try:
            return [getattr(worker.rank, method)(*arguments) for worker in workers.values()]
        except ValueError as error:
            raise WorkerError({"rank 0": NoAnswer(str(error), code=1)}) from error

    monkeypatch.setattr(ddp, "Worker", Process)
    monkeypatch.setattr(ddp, "call", call)
    monkeypatch.setattr(Process, "open", 0)
    return ddp.Torch(Rank, "ours", parallel=True)


@pytest.mark.parametrize("n", [1, 2])
def test_answers_of_the_processes_are_put_together(torch: ddp.Torch, n: int) -> None:
    batch = batch_of(DROPPED)
    torch.start(DROPPED, params_of(DROPPED), n)
    assert torch.step(batch) == (np.mean(range(n)), 0.5)
    assert (torch.evaluate(batch).argmax(1) == batch.labels).all()
    assert [rows.tolist() for rows in torch.epoch(4, 2, 0)] == ([[0, 1], [2, 3]] if n == 2 else [[0], [1], [2], [3]])
    assert torch.score([batch, batch]) == {"accuracy": 1.0, "f1": 1.0}
    assert len(batch.labels) == B


def test_processes_serve_all_runs_until_one_is_lost(torch: ddp.Torch) -> None:
    for _ in range(2):
        torch.start(DROPPED, params_of(DROPPED), 2)
    assert (Process.open, [worker.rank.starts for worker in torch.workers.values()]) == (2, [2, 2])
    with pytest.raises(WorkerError, match="rank 0: no parameters"):
        torch.params()
    assert Process.open == 0
    torch.start(DROPPED, params_of(DROPPED), 2)
    assert Process.open == 2


@pytest.mark.parametrize(("parallel", "n", "most"), [(False, 2, 1), (True, 3, 2)])
def test_too_many_devices(parallel: bool, n: int, most: int) -> None:
    own = ddp.Torch(Rank, "ours", parallel=parallel)
    with pytest.raises(ValueError, match=f"ours: {n} devices, must be at most {most}; use --devices {most}"):
        own.start(DROPPED, params_of(DROPPED), n)
    assert ("devices" in own.capabilities) == parallel
    check_adapter(own, "ours")
