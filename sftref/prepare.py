"""TrainConfig, devices -> a Run: everything a loop needs, loaded, checked and placed in the right order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sftref.config import TrainConfig, require
from sftref.data.batches import steps_per_epoch
from sftref.data.examples import load_examples
from sftref.data.tasks import get_task
from sftref.data.tokens import Progress, TokenArrays, tokenize
from sftref.model.pretrained import load_pretrained
from sftref.train.run import Run
from sftref.train.step import Program
from sftref.trainers import make_trainer

if TYPE_CHECKING:
    import jax


def prepare(
    config: TrainConfig,
    devices: Sequence[jax.Device],
    *,
    cache_dir: Path | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> Run:
    """Load data and model and build the trainer; compiles nothing.

    Args:
        config: the run.
        devices: what `devices.start` returned for it.
        cache_dir: the folder of token caches; None for none.
        progress: given a title, a callback for the progress of tokenizing.

    Raises:
        ConfigError: anything the user chose does not hold.
    """
    task = get_task(config.task)
    splits = load_examples(
        task,
        config.data,
        train_fraction=config.train_fraction,
        eval_fraction=config.eval_fraction,
        eval_from=config.eval_from,
        seed=config.seed,
    )
    model = load_pretrained(
        config.model,
        num_labels=task.num_labels,
        regression=task.regression,
        num_layers=config.num_layers,
        seed=config.seed,
        dtype=np.float64 if config.precision == "float64" else np.float32,
    )
    limit = model.config.max_position_embeddings
    require(
        config.max_length <= limit,
        f"--max-length = {config.max_length}, must be at most {limit}, the positions of --model {config.model}",
    )
    tokenizer = model.tokenizer()

    def arrays(name: str, split: Any) -> TokenArrays:
        return tokenize(
            split,
            task,
            tokenizer,
            config.max_length,
            cache_dir,
            vocab_size=model.config.vocab_size,
            progress=None if progress is None else progress(f"tokenizing {name}"),
        )

    train = arrays("train", splits.train)
    per_epoch = steps_per_epoch(len(train), config.batch_size, drop_last=config.drop_last)
    require(
        per_epoch > 0,
        f"--batch-size = {config.batch_size} with --drop-last, must be at most the {len(train)} training examples",
    )
    total = per_epoch * config.epochs if config.max_steps is None else config.max_steps
    program = Program.of(
        model.config,
        config.optim,
        total_steps=total,
        dropout=config.dropout,
        precision=config.precision,
        remat=config.remat,
    )
    return Run(
        config=config,
        task=task,
        model=model,
        tokenizer=tokenizer,
        train=train,
        validation={name: arrays(name, split) for name, split in splits.validation.items()},
        program=program,
        trainer=make_trainer(config.trainer, program, devices, config.mesh_shape),
        steps_per_epoch=per_epoch,
        total_steps=total,
    )
