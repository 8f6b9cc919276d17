"""TrainConfig, devices -> a Run: data, model, program and trainer, loaded and checked."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sftref.config import TrainConfig, require
from sftref.data.batches import steps_per_epoch
from sftref.data.examples import load_evaluations, load_examples
from sftref.data.tasks import Task, get_task
from sftref.data.tokens import Progress, TokenArrays, tokenize
from sftref.data.unknown import check_unknown
from sftref.model.pretrained import load_pretrained
from sftref.train.loop import Run
from sftref.train.step import Program
from sftref.trainers import make_trainer


def prepare(
    config: TrainConfig,
    devices: Sequence[jax.Device],
    *,
    cache_dir: Path | None = None,
    progress: Callable[[str], Progress] | None = None,
    train: bool = True,
) -> Run:
    """Load data and model and build the trainer; compiles nothing.

    Args:
        config: the configuration of the run.
        devices: the devices that `devices.start` returned for `config`.
        cache_dir: the folder of token caches; None for no cache.
        progress: called with a title; returns the callback to which `tokenize` reports its progress.
        train: whether the run trains. If not, only the data for evaluation are read, and `Run.train` has no example.

    Raises:
        ConfigError: an option of the user cannot be used.
    """
    c, task = config, get_task(config.task)
    chosen: dict[str, Any] = {
        "train_fraction": c.train_fraction, "eval_fraction": c.eval_fraction, "eval_from": c.eval_from, "seed": c.seed
    }  # fmt: skip
    splits = load_examples(task, c.data, **chosen) if train else None
    evaluations = splits.validation if splits else load_evaluations(task, c.data, **chosen)
    dtype = np.float64 if c.precision == "float64" else np.float32
    head: dict[str, Any] = {"num_labels": task.num_labels, "regression": task.regression}
    model = load_pretrained(
        c.model, **head, num_layers=c.num_layers, seed=c.seed, dtype=dtype, task=task, fresh_head=c.fresh_head
    )
    limit = model.config.max_position_embeddings
    require(
        c.max_length <= limit,
        f"--max-length = {c.max_length}, must be at most {limit}, the positions of --model {c.model}",
    )
    tokenizer = model.tokenizer()

    def arrays(name: str, split: Any) -> TokenArrays:
        report = None if progress is None else progress(f"tokenizing {name}")
        tables = {"vocab_size": model.config.vocab_size, "type_vocab_size": model.config.type_vocab_size}
        tokens = tokenize(split, task, tokenizer, c.max_length, cache_dir, **tables, progress=report)
        check_unknown(tokenizer, tokens.input_ids, name)
        return tokens

    train_tokens = arrays("train", splits.train) if splits else _no_examples(task)
    per_epoch = steps_per_epoch(len(train_tokens), c.batch_size, drop_last=c.drop_last)
    require(
        per_epoch > 0 or not train,
        f"--batch-size = {c.batch_size} with --drop-last, must be at most the {len(train_tokens)} training examples",
    )
    total = max(per_epoch, 1) * c.epochs if c.max_steps is None else c.max_steps
    program = Program.of(
        model.config, c.optim, total_steps=total, dropout=c.dropout, precision=c.precision, remat=c.remat
    )
    validation = {name: arrays(name, split) for name, split in evaluations.items()}
    trainer = make_trainer(c.trainer, program, devices, c.mesh_shape)
    return Run(config, task, model, tokenizer, train_tokens, validation, program, trainer, per_epoch, total)


def _no_examples(task: Task) -> TokenArrays:
    labels = np.zeros(0, np.float32) if task.regression else np.zeros(0, np.int32)
    tokens, types = np.zeros(0, np.int32), np.zeros(0, np.uint8)
    return TokenArrays(tokens, types, np.zeros(1, np.int64), labels, np.zeros(0, np.uint32))
