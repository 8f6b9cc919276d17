"""(task, --data) -> the texts, labels and row numbers of a split, checked.

`--data` is "bundled" (the pairs in this package, for the task qqp), "hub" (nyu-mll/glue), a folder, or one file.
`folders.py` finds the files of a split, `files.py` and `readers.py` read them, and `columns.py` checks their columns. A
few rows of GLUE's qqp lack fields; like the hub's loader, they are left out, with a warning. So are rows of MNLI whose
annotators did not agree.
"""

from __future__ import annotations

import logging
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from sftref.config import ConfigError, one_line, require, require_range
from sftref.data import bundled
from sftref.data.columns import EXAMPLE_ID as EXAMPLE_ID
from sftref.data.columns import examples
from sftref.data.files import read_file
from sftref.data.folders import absent, find, is_saved
from sftref.data.readers import Table
from sftref.data.tasks import HUB_ID, Task
from sftref.data.tasks import LABEL as LABEL

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

HELD_OUT = "held_out"  # the evaluation's name with --eval-from train

Source = Literal["validation", "train"]


class ExampleSplits(NamedTuple):
    """The training examples, and the examples of each evaluation by its name.

    Each data set has the task's text columns (string), `label` (int32, or float32 for regression) and `example_id`
    (uint32), the row's number in its split, from 0, before shuffling.
    """

    train: Dataset
    validation: dict[str, Dataset]


def load_examples(
    task: Task,
    data: str,
    *,
    train_fraction: float = 1.0,
    eval_fraction: float = 1.0,
    eval_from: Literal["validation", "train"] = "validation",
    seed: int = 0,
) -> ExampleSplits:
    """Read, check and sample the splits of a task.

    Args:
        task: gives the columns and labels.
        data: "bundled", "hub", or the path of a folder or file.
        train_fraction: share of the train split, in (0, 1]; if below 1, the first rows after shuffling are taken.
        eval_fraction: share of the split to evaluate on, in (0, 1]; rows are taken as for `train_fraction`.
        eval_from: "validation": the task's validation splits. "train": one evaluation, `held_out`, of the rows after
            the training rows in the shuffled train split. The article takes 10 % and 10 % of qqp: `shuffle(seed=0)`,
            then rows 0 to int(0.1 n) and int(0.1 n) to int(0.2 n).
        seed: the seed of `datasets.Dataset.shuffle`.

    Raises:
        ConfigError: the data are missing, unreadable or of another task; a fraction leaves no row.
    """
    require_range("--train-fraction", train_fraction, 0.0, 1.0, low_open=True)
    if eval_from == "validation":
        validation = load_evaluations(task, data, eval_fraction=eval_fraction, seed=seed, file_is_train=True)
        train = _read(task, data, "train")
        return ExampleSplits(_sample(train, seed, train_fraction, "--train-fraction"), validation)
    require_range("--eval-fraction", eval_fraction, 0.0, 1.0, low_open=True)
    total = float(Decimal(str(train_fraction)) + Decimal(str(eval_fraction)))  # in decimals, 0.7 + 0.1 is 0.8
    both = f"--train-fraction = {train_fraction:g} and --eval-fraction = {eval_fraction:g}"
    require(total <= 1, f"{both}, must sum to at most 1 with --eval-from train; lower one of them")
    train = _read(task, data, "train").shuffle(seed=seed)
    held_out = _rows(train, train_fraction, total, "--eval-fraction", eval_fraction)
    return ExampleSplits(_rows(train, 0.0, train_fraction, "--train-fraction", train_fraction), {HELD_OUT: held_out})


def load_evaluations(
    task: Task,
    data: str,
    *,
    train_fraction: float = 1.0,
    eval_fraction: float = 1.0,
    eval_from: Source = "validation",
    seed: int = 0,
    file_is_train: bool = False,
) -> dict[str, Dataset]:
    """The examples of each evaluation by its name, as `load_examples` gives them; no other split is read.

    Args:
        task: see `load_examples`.
        data: see `load_examples`. One file is evaluated as a whole, under its own name.
        train_fraction: with `eval_from` "train", the share that was trained on: only rows after it are evaluated, as
            `load_examples` holds them out. 1.0: nothing is left out, and the evaluation's name is "train".
        eval_fraction: see `load_examples`.
        eval_from: see `load_examples`.
        seed: see `load_examples`.
        file_is_train: one file is the training split, so it has no validation split.

    Raises:
        ConfigError: see `load_examples`.
    """
    require_range("--eval-fraction", eval_fraction, 0.0, 1.0, low_open=True)
    if eval_from == "train" and train_fraction < 1:
        return load_examples(
            task, data, train_fraction=train_fraction, eval_fraction=eval_fraction, eval_from=eval_from, seed=seed
        ).validation
    path = Path(data)
    if eval_from == "train":
        names = {"train": "train"}
    elif data not in ("hub", "bundled") and path.exists() and (is_saved(path) or not path.is_dir()):
        require(
            not file_is_train,
            f"--data {data} is one file and has no validation split; add --eval-from train with --train-fraction and "
            "--eval-fraction, or give a folder",
        )
        names = {path.name.split(".")[0] or path.name: "train"}
    else:
        names = {split: split for split in _validation_splits(task, data)}
    return {
        name: _sample(_read(task, data, split), seed, eval_fraction, "--eval-fraction") for name, split in names.items()
    }


def _validation_splits(task: Task, data: str) -> tuple[str, ...]:
    """The names of the validation splits: those of the task or, in a folder, those of them that are there."""
    path, splits = Path(data), task.validation_splits
    if data in ("hub", "bundled") or not path.is_dir() or len(splits) == 1:
        return splits
    there = tuple(split for split in splits if find(path, split, task))
    if not there and find(path, "validation", task):
        return ("validation",)
    if there and there != splits:
        logger.warning("--data %s: has no file %s; only %s is evaluated", data, *set(splits) - set(there), *there)
    return there or splits


def _sample(split: Dataset, seed: int, fraction: float, option: str) -> Dataset:
    return split if fraction == 1.0 else _rows(split.shuffle(seed=seed), 0.0, fraction, option, fraction)


def _rows(split: Dataset, start: float, stop: float, option: str, fraction: float) -> Dataset:
    first, last = int(len(split) * start), int(len(split) * stop)
    require(first < last, f"{option} = {fraction:g} leaves none of {len(split)} rows; raise it")
    return split.select(range(first, last))


def _read(task: Task, data: str, split: str) -> Dataset:
    """The examples of one split of `data`."""
    path = Path(data)
    if data == "hub":
        return examples([_read_hub(task, split)], task)
    if data == "bundled":
        require(task.name == "qqp", f"--data bundled is for --task qqp, not {task.name}; give --data hub or a path")
        path = bundled.path(split)
    require(path.exists(), f"--data {data}: no such file or folder; give one, or bundled, or hub")
    if not path.is_dir() or is_saved(path):
        return examples([_read_part(path, task)], task)
    found = find(path, split, task)
    if found is None:
        way_out = "" if split == "train" else "; give such a file, or hold out training rows with --eval-from train"
        raise ConfigError(absent(path, split) + way_out)
    if not found.exact:
        names = [str(part.relative_to(path)) for part in found.parts]
        logger.warning("--data %s: the split %s is %s", data, split, " to ".join(dict.fromkeys([names[0], names[-1]])))
    return examples([_read_part(part, task) for part in found.parts], task)


def _read_part(path: Path, task: Task) -> tuple[str, Table]:
    """A file, or a folder that `save_to_disk` wrote -> its name for messages, and its columns."""
    if not is_saved(path):
        return f"--data {path}", read_file(path, task)
    import datasets

    try:
        return f"--data {path}", _table(datasets.load_from_disk(str(path)), task)
    except Exception as error:  # besides OSError and ValueError, Arrow's and those of unknown features
        raise ConfigError(
            f"--data {path}: a folder of save_to_disk that datasets {datasets.__version__} cannot read "
            f"({one_line(error)}); write it again with Dataset.to_parquet"
        ) from error


def _read_hub(task: Task, split: str) -> tuple[str, Table]:
    import datasets

    try:
        loaded = datasets.load_dataset(HUB_ID, task.name, split=split)
    except Exception as error:  # the hub's client raises a dozen types, its own and those of sockets
        raise ConfigError(
            f"--data hub: cannot load {HUB_ID} {task.name} {split} ({one_line(error)}); give --data PATH with local "
            "files, or --data bundled for qqp"
        ) from error
    return f"--data hub ({split})", _table(loaded, task)


def _table(dataset: Dataset, task: Task) -> Table:
    """A data set -> the columns of the task, or the names of all columns if one is missing."""
    found = task.columns_in(dataset.column_names)
    if len(found) <= len(task.fields):
        return Table({name: [] for name in dataset.column_names})
    columns = dataset.with_format(None).select_columns(list(found.values())).to_dict()
    return Table(columns, tuple(getattr(dataset.features[found[LABEL]], "names", None) or ()))
