"""One process of a PyTorch trainer: `transformers`' own BERT, `torch.optim.AdamW`, and DistributedDataParallel or not.

It is as users write it: the model's own loss (a mean over its rows), the mean of the processes' gradients by DDP,
clipping by `clip_grad_norm_`, `LambdaLR`, and the rows of each batch that `DistributedSampler` gives this process.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from ...adapter import Arrays, Case, HostBatch

COLUMNS = ("input_ids", "token_type_ids", "attention_mask")


class Rank:
    """One of `ranks` processes that train together; a single process needs no process group.

    The embedding of the token `pad`, if given, is never trained.
    """

    def __init__(self, rank: int = 0, ranks: int = 1, pad: int | None = None) -> None:
        self.rank, self.ranks, self.pad = rank, ranks, pad

    def start(self, case: Case, params: Arrays) -> None:
        """Begin a run: make the model, the optimizer and the schedule."""
        config = transformers.BertConfig(**case.config, pad_token_id=self.pad)
        self.case, self.model = case, transformers.BertForSequenceClassification(config)
        with torch.no_grad():
            for name, leaf in self.model.named_parameters():
                leaf.copy_(torch.from_numpy(np.array(params[name], np.float32)))
        self.parallel = DistributedDataParallel(self.model) if self.ranks > 1 else self.model
        named = list(self.model.named_parameters())
        still = [leaf for name, leaf in named if name.endswith("bias") or "LayerNorm" in name]
        decaying = [leaf for name, leaf in named if not (name.endswith("bias") or "LayerNorm" in name)]
        groups = [{"params": decaying, "weight_decay": case.weight_decay}, {"params": still, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=case.learning_rate, betas=(case.b1, case.b2), eps=case.eps)

        def rate(step: int) -> float:
            if step < case.warmup_steps:
                return step / case.warmup_steps
            return max(0.0, (case.total_steps - step) / (case.total_steps - case.warmup_steps))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)

    def step(self, batch: HostBatch) -> tuple[float, float]:
        """Run one update; returns the loss of this process's rows, and the learning rate."""
        loss = self._backward(batch)
        if self.case.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.case.clip_norm)
        rate = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return loss, rate

    def gradients(self, batch: HostBatch) -> Arrays:
        """The gradients after the reduction over processes, before clipping."""
        self._backward(batch)
        gradients = {name: leaf.grad.numpy().copy() for name, leaf in self.model.named_parameters()}
        self.optimizer.zero_grad()
        return gradients

    def _backward(self, batch: HostBatch) -> float:
        self.parallel.train()
        rows = self.own(batch)
        labels = torch.from_numpy(batch.labels[rows] if self.case.regression else batch.labels[rows].astype(np.int64))
        loss = self.parallel(**self._inputs(batch, rows), labels=labels).loss
        loss.backward()
        return float(loss.detach())

    def logits(self, batch: HostBatch) -> tuple[list[int], npt.NDArray[np.float32]]:
        """This process's rows of a batch, and their logits."""
        self.model.eval()
        rows = self.own(batch)
        with torch.no_grad():
            return rows, self.model(**self._inputs(batch, rows)).logits.numpy()

    def params(self) -> Arrays:
        """Copies of the parameters."""
        return {name: leaf.detach().numpy().copy() for name, leaf in self.model.named_parameters()}

    def moments(self) -> tuple[Arrays, Arrays]:
        """Adam's first and second moments."""
        named = dict(self.model.named_parameters())
        state = {name: self.optimizer.state[leaf] for name, leaf in named.items()}
        first, second = ({n: s[key].numpy().copy() for n, s in state.items()} for key in ("exp_avg", "exp_avg_sq"))
        return first, second

    def save(self, path: Path) -> None:
        """Write the state of the first process, which is the same in all processes."""
        if self.rank == 0:
            torch.save({name: part.state_dict() for name, part in self._parts().items()}, path / "state.pt")

    def restore(self, path: Path) -> None:
        """Read the state that `save` wrote."""
        state = torch.load(path / "state.pt", weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}

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

    def _inputs(self, batch: HostBatch, rows: list[int]) -> dict[str, torch.Tensor]:
        # A tokenizer pads with token 0 of type 0.
        real = batch.attention_mask > 0
        columns = {name: np.where(real, getattr(batch, name), 0)[rows] for name in COLUMNS}
        return {name: torch.from_numpy(values.astype(np.int64)) for name, values in columns.items()}


def joined(rank: int, ranks: int, meeting: str) -> Rank:
    """The `Rank` of a process of DDP, after it has joined the others through the file `meeting`."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    return Rank(rank, ranks)
