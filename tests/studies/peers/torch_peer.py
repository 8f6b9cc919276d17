"""PyTorch with the BERT of `transformers`, in a plain loop and under `Trainer`; both pad to a batch's longest example.

Each batch holds the same examples as ours. The plain loop is written to be fast: examples gathered by NumPy, fused
AdamW, `torch.nn.functional.scaled_dot_product_attention`, and optionally evaluation in batches sorted by length.
`Trainer` keeps its defaults, with gradient clipping.
"""

import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers
from workload import BATCH, SMALL, Work

from sftref.data.tokens import TokenArrays
from sftref.model.weights import model_folder

transformers.utils.logging.set_verbosity_error()


def bert(work: Work) -> Any:
    """The model of all peers, in PyTorch."""
    if work.model == "minilm":
        return transformers.BertForSequenceClassification.from_pretrained(model_folder("demo"), num_labels=2)
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, num_labels=2))


def padded(tokens: TokenArrays, index: np.ndarray) -> dict[str, torch.Tensor]:
    """The examples `index` [B] as int64 [B, longest]."""
    lengths = tokens.lengths[index]
    mask = np.arange(lengths.max()) < lengths[:, None]
    source = np.concatenate([np.arange(tokens.offsets[i], tokens.offsets[i + 1]) for i in index])
    ids, types = np.zeros(mask.shape, np.int64), np.zeros(mask.shape, np.int64)
    ids[mask], types[mask] = tokens.input_ids[source], tokens.token_type_ids[source]
    arrays = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask.astype(np.int64)}
    arrays["labels"] = tokens.labels[index].astype(np.int64)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class TorchLoop:
    """PyTorch in a plain loop."""

    def __init__(self, work: Work) -> None:
        self.work, self.model = work, bert(work)
        decays = [p for p in self.model.parameters() if p.ndim > 1]
        rest = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decays, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=2e-5, betas=(0.9, 0.999), eps=1e-6, fused=True)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.0, total_iters=1000)
        self.batches = iter(work.order())

    def train(self) -> None:
        """Make one update."""
        self.model.train()
        loss = self.model(**padded(self.work.tokens, next(self.batches))).loss
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        loss.item()

    def evaluate(self) -> None:
        """Evaluate once, in batches sorted by length."""
        self._evaluate(np.argsort(-self.work.held_out.lengths, kind="stable"))

    def evaluate_in_order(self) -> None:
        """Evaluate once, in the order of the data."""
        self._evaluate(np.arange(len(self.work.held_out)))

    def _evaluate(self, order: np.ndarray) -> None:
        self.model.eval()
        right = 0
        with torch.inference_mode():
            for first in range(0, len(order), BATCH):
                batch = padded(self.work.held_out, order[first : first + BATCH])
                right += int((self.model(**batch).logits.argmax(-1) == batch["labels"]).sum())


class _Examples(torch.utils.data.Dataset[tuple[TokenArrays, int]]):
    """Indices of examples, in the order of training; the examples are gathered when the batch is padded."""

    def __init__(self, tokens: TokenArrays, order: np.ndarray) -> None:
        self.tokens, self.order = tokens, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> tuple[TokenArrays, int]:
        return self.tokens, int(self.order[i])


def _collate(items: list[tuple[TokenArrays, int]]) -> dict[str, torch.Tensor]:
    return padded(items[0][0], np.array([index for _, index in items]))


class _InOrder(transformers.Trainer):
    def _get_train_sampler(self, train_dataset: Any = None) -> Iterator[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class _Gate(transformers.TrainerCallback):
    """Lets `Trainer`'s own loop, which runs in a thread, make one update at a time."""

    def __init__(self) -> None:
        self.go, self.done, self.over = threading.Semaphore(0), threading.Semaphore(0), False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for the first turn; its batch is not fetched yet."""
        self.go.acquire()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report that an update is done, and wait for the next turn."""
        self.done.release()
        self.go.acquire()
        control.should_training_stop = self.over


class TorchTrainer:
    """`transformers.Trainer`, one update of its own loop at a time."""

    def __init__(self, work: Work) -> None:
        order, model = work.order(), bert(work)
        arguments = {
            "per_device_train_batch_size": BATCH, "per_device_eval_batch_size": BATCH, "learning_rate": 2e-5,
            "weight_decay": 0.01, "adam_epsilon": 1e-6, "max_steps": len(order), "use_cpu": True, "report_to": [],
            "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no", "remove_unused_columns": False,
        }  # fmt: skip
        self._folder = tempfile.TemporaryDirectory()
        self._gate, self._error = _Gate(), None
        held_out = _Examples(work.held_out, np.arange(len(work.held_out)))
        self._trainer, self._evaluator = (
            _InOrder(
                model=model,
                args=transformers.TrainingArguments(output_dir=self._folder.name, **arguments),
                data_collator=_collate,
                train_dataset=_Examples(work.tokens, np.concatenate(order)),
                eval_dataset=held_out,
                compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(-1) == found.label_ids).mean()},
                callbacks=callbacks,
            )
            for callbacks in ([self._gate], [])
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._trainer.train()
        except Exception as error:
            self._error = error
        finally:
            self._gate.done.release()

    def train(self) -> None:
        """Make one update."""
        if not self._thread.ident:
            self._thread.start()
        self._gate.go.release()
        self._gate.done.acquire()
        if self._error is not None:
            raise self._error

    def evaluate(self) -> None:
        """Evaluate once, in the order of the data, while the training loop waits."""
        self._evaluator.evaluate()

    def close(self) -> None:
        """End the training loop."""
        self._gate.over = True
        self._gate.go.release()
        self._thread.join()
        self._folder.cleanup()
