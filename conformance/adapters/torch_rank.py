"""A base class for one process of a PyTorch trainer: its model, optimizer and schedule -> the methods of `ddp.Torch`.

Around them it has the loop that most users write: the model's own loss (a mean over its rows), the mean of the
processes' gradients by DistributedDataParallel, clipping by `clip_grad_norm_`, and the rows of each batch that
`DistributedSampler` gives this process.
"""

import abc
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from ..adapter import Arrays, Case, HostBatch
from .base import renamed


class Parts(NamedTuple):
    """What `Rank.build` returns: a module, its optimizer, and a scheduler that is stepped after each update."""

    model: Any
    optimizer: Any
    schedule: Any


class Rank(abc.ABC):
    """One of `ranks` processes that train together; a single process needs no process group.

    A subclass implements `build`. It overrides `loss` and `outputs` if the model's results are not those of a model of
    transformers, and `train` if it has a training function of its own.

    Attributes:
        columns: the model's name of an argument -> its name in `HostBatch`.
        names: a dotted part of a parameter's name -> what it is in a checkpoint; see `base.Adapter.names`.
        case, parts, parallel: the run's case, its `Parts`, and the model, under DDP if there are several processes.
    """

    columns: ClassVar[Mapping[str, str]] = {
        name: name for name in ("input_ids", "token_type_ids", "attention_mask", "labels")
    }
    names: ClassVar[Mapping[str, str]] = {}

    def __init__(self, rank: int = 0, ranks: int = 1) -> None:
        self.rank, self.ranks = rank, ranks

    @abc.abstractmethod
    def build(self, case: Case) -> Parts:
        """The model, the optimizer and the schedule of a case; called once for each run."""

    def adamw(self, case: Case, model: Any) -> tuple[Any, Any]:
        """`torch.optim.AdamW` without decay of biases and LayerNorm, and a linear schedule by `LambdaLR`."""
        named = self._named(model)
        still = [leaf for name, leaf in named.items() if name.endswith("bias") or "LayerNorm" in name]
        decaying = [leaf for name, leaf in named.items() if not (name.endswith("bias") or "LayerNorm" in name)]
        groups = [{"params": decaying, "weight_decay": case.weight_decay}, {"params": still, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=case.learning_rate, betas=(case.b1, case.b2), eps=case.eps)

        def rate(step: int) -> float:
            if step < case.warmup_steps:
                return step / case.warmup_steps
            return max(0.0, (case.total_steps - step) / (case.total_steps - case.warmup_steps))

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)

    def loss(self, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        """The mean loss of these rows, from `parallel`."""
        loss: torch.Tensor = self.parallel(**rows).loss
        return loss

    def outputs(self, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        """The logits of these rows, which have no labels."""
        logits: torch.Tensor = self.parts.model(**rows).logits
        return logits

    def train(self, rows: dict[str, torch.Tensor]) -> torch.Tensor:
        """One update with these rows; returns their loss."""
        loss = self.loss(rows)
        loss.backward()
        if self.case.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parts.model.parameters(), self.case.clip_norm)
        self.parts.optimizer.step()
        self.parts.schedule.step()
        self.parts.optimizer.zero_grad()
        return loss

    def start(self, case: Case, params: Arrays) -> None:
        """Begin a run from these parameters.

        Raises:
            ValueError: the model's parameters have other names.
        """
        self.case, self.parts = case, self.build(case)
        model = self.parts.model
        if (own := set(self._named(model))) != set(params):
            only = f"only the model has {sorted(own - set(params))}, only the checkpoint {sorted(set(params) - own)}"
            raise ValueError(
                f"{type(self).__name__}: names of parameters, must be a checkpoint's; correct `names`; {only}"
            )
        with torch.no_grad():
            for name, leaf in self._named(model).items():
                leaf.copy_(torch.from_numpy(np.array(params[name], np.float32)))
        self.parallel = DistributedDataParallel(model) if self.ranks > 1 else model

    def step(self, batch: HostBatch) -> tuple[float, float]:
        """Run one update; returns the loss of this process's rows, and the learning rate."""
        rate = self.parts.schedule.get_last_lr()[0]
        self.parallel.train()
        return float(self.train(self._rows(batch, self.own(batch))).detach()), rate

    def gradients(self, batch: HostBatch) -> Arrays:
        """The gradients after the reduction over processes, before clipping."""
        self.parallel.train()
        self.loss(self._rows(batch, self.own(batch))).backward()
        gradients = {name: leaf.grad.numpy().copy() for name, leaf in self._named(self.parts.model).items()}
        self.parts.optimizer.zero_grad()
        return gradients

    def logits(self, batch: HostBatch) -> tuple[list[int], npt.NDArray[np.float32]]:
        """This process's rows of a batch, and their logits."""
        self.parts.model.eval()
        own = self.own(batch)
        rows = {name: leaf for name, leaf in self._rows(batch, own).items() if self.columns[name] != "labels"}
        with torch.no_grad():
            return own, self.outputs(rows).numpy()

    def params(self) -> Arrays:
        """Copies of the parameters."""
        return {name: leaf.detach().numpy().copy() for name, leaf in self._named(self.parts.model).items()}

    def moments(self) -> tuple[Arrays, Arrays]:
        """Adam's first and second moments."""
        state = {name: self.parts.optimizer.state[leaf] for name, leaf in self._named(self.parts.model).items()}
        first, second = ({n: s[key].numpy().copy() for n, s in state.items()} for key in ("exp_avg", "exp_avg_sq"))
        return first, second

    def save(self, path: Path) -> None:
        """Write the state of the first process, which is the same in all processes."""
        if self.rank == 0:
            torch.save({name: part.state_dict() for name, part in self.parts._asdict().items()}, path / "state.pt")

    def restore(self, path: Path) -> None:
        """Read the state that `save` wrote."""
        state = torch.load(path / "state.pt", weights_only=True)
        for name, part in self.parts._asdict().items():
            part.load_state_dict(state[name])

    def epoch(self, examples: int, batch_size: int, number: int) -> list[npt.NDArray[np.int64]]:
        """This process's batches of an epoch, drawn by `DistributedSampler`; all processes share `batch_size` rows."""
        each = batch_size // self.ranks or 1
        sampler = DistributedSampler(range(examples), self.ranks, self.rank, seed=self.case.seed % 2**32)
        sampler.set_epoch(number)
        rows = np.array(list(sampler), np.int64)
        return [rows[k : k + each] for k in range(0, len(rows), each)]

    def own(self, batch: HostBatch) -> list[int]:
        """This process's share of the rows with weight; the sampler repeats some rows to make the shares equal."""
        kept = np.flatnonzero(batch.weights > 0)
        return [int(kept[k]) for k in DistributedSampler(range(len(kept)), self.ranks, self.rank, shuffle=False)]

    def _named(self, model: Any) -> dict[str, Any]:
        """The parameters under a checkpoint's names."""
        return {renamed(name, self.names): leaf for name, leaf in model.named_parameters()}

    def _rows(self, batch: HostBatch, rows: list[int]) -> dict[str, torch.Tensor]:
        """The columns of some rows; a tokenizer pads with token 0 of type 0."""
        real = batch.attention_mask > 0
        columns = {own: getattr(batch, name) for own, name in self.columns.items()}
        columns = {own: np.where(real, leaf, 0) if leaf.ndim == 2 else leaf for own, leaf in columns.items()}
        return {own: torch.from_numpy(leaf[rows].astype(np.float32 if leaf.dtype.kind == "f" else np.int64))
                for own, leaf in columns.items()}  # fmt: skip


def joined(kind: str, rank: int, ranks: int, meeting: str) -> Rank:
    """The `Rank` of a process of DDP, after it has joined the others through the file `meeting`.

    Args:
        kind: MODULE:NAME of a subclass of `Rank`.
        rank: this process's number.
        ranks: the number of processes.
        meeting: a file that does not exist yet, in a folder that all processes see.
    """
    module, _, name = kind.partition(":")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    made: Rank = getattr(importlib.import_module(module), name)(rank, ranks)
    return made
