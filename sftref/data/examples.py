"""(task, --data) -> `ExampleSplits`: texts, labels and row numbers for training and for each evaluation.

`--data` is "bundled" (the pairs in this package, for the task qqp), "hub" (nyu-mll/glue), a folder, or one file. Files
are .csv, .tsv, .json (an array of objects, or one object a line), .jsonl and .parquet, in UTF-8. Python's own modules
read csv and json, because `datasets` changes text such as "NA", "null" and "007" into other values.

A .csv follows RFC 4180. A .tsv has no quoting (`csv.QUOTE_NONE`), as in GLUE's files: with quoting, a question that
begins with a quotation mark would include all lines up to the next mark. A few rows of GLUE's qqp lack fields. Like the
hub's loader, this file leaves such rows out, with a warning, if they are few.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import logging
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sftref.config import ConfigError, one_line, require, require_range
from sftref.data import bundled
from sftref.data.tasks import HUB_ID, Task

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

logger = logging.getLogger(__name__)

LABEL, EXAMPLE_ID = "label", "example_id"
HELD_OUT = "held_out"  # the evaluation's name with --eval-from train
TSV_ODD_ROWS = 1e-3  # the share of rows that may lack fields; GLUE's qqp has 3 of 363,849

Columns = Mapping[str, list[Any]]


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
    require_range("--eval-fraction", eval_fraction, 0.0, 1.0, low_open=True)
    if eval_from == "validation":

        def sample(split: str, fraction: float, option: str) -> Dataset:
            rows = _read(task, data, split)
            return rows if fraction == 1.0 else _rows(rows.shuffle(seed=seed), 0.0, fraction, option, fraction)

        validation = {name: sample(name, eval_fraction, "--eval-fraction") for name in task.validation_splits}
        return ExampleSplits(sample("train", train_fraction, "--train-fraction"), validation)
    total = float(Decimal(str(train_fraction)) + Decimal(str(eval_fraction)))  # in decimals, 0.7 + 0.1 is 0.8
    both = f"--train-fraction = {train_fraction:g} and --eval-fraction = {eval_fraction:g}"
    require(total <= 1, f"{both}, must sum to at most 1 with --eval-from train; lower one of them")
    train = _read(task, data, "train").shuffle(seed=seed)
    held_out = _rows(train, train_fraction, total, "--eval-fraction", eval_fraction)
    return ExampleSplits(_rows(train, 0.0, train_fraction, "--train-fraction", train_fraction), {HELD_OUT: held_out})


def _rows(split: Dataset, start: float, stop: float, option: str, fraction: float) -> Dataset:
    first, last = int(len(split) * start), int(len(split) * stop)
    require(first < last, f"{option} = {fraction:g} leaves none of {len(split)} rows; raise it")
    return split.select(range(first, last))


def _read(task: Task, data: str, split: str) -> Dataset:
    """The examples of one split of `data`."""
    path = Path(data)
    if data == "hub":
        return _read_hub(task, split)
    if data == "bundled":
        require(task.name == "qqp", f"--data bundled is for --task qqp, not {task.name}; give --data hub or a path")
        path = bundled.path(split)
    elif path.is_dir():
        path = _find(path, split)
    else:
        require(path.exists(), f"--data {data}: no such file or folder; give one, or bundled, or hub")
        require(
            split == "train",
            f"--data {data} is one file and has no {split} split; add --eval-from train with --train-fraction and "
            "--eval-fraction, or give a folder",
        )
    return _read_file(path, task)


def _find(folder: Path, split: str) -> Path:
    """The one file of a split in a folder; GLUE's own files are called dev instead of validation."""
    stems = {split, split.replace("validation", "dev")}
    files = sorted(p for p in folder.iterdir() if p.is_file())
    matches = [p for p in files if p.stem in stems and p.suffix.lower() in _READERS]
    names = ", ".join(p.name for p in files[:10]) or "no file"
    require(bool(matches), f"--data {folder}: no file {split} with one of {', '.join(_READERS)}; it has {names}")
    require(len(matches) < 2, f"--data {folder}: has {' and '.join(p.name for p in matches)}; remove one")
    return matches[0]


def _read_hub(task: Task, split: str) -> Dataset:
    import datasets

    try:
        loaded = datasets.load_dataset(HUB_ID, task.name, split=split)
    except Exception as error:  # the hub's client raises a dozen types, its own and those of sockets
        raise ConfigError(
            f"--data hub: cannot load {HUB_ID} {task.name} {split} ({one_line(error)}); give --data PATH with local "
            "files, or --data bundled for qqp"
        ) from error
    return _examples(loaded.to_dict(), task, f"--data hub ({split})")


def _read_file(path: Path, task: Task) -> Dataset:
    """One file -> checked examples."""
    source = f"--data {path}"
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{source}: extension {path.suffix!r}, must be one of {', '.join(_READERS)}")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read ({error.strerror})") from error
    return _examples(reader(raw, source), task, source)


def _text(raw: bytes, source: str) -> str:
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")  # a byte order mark, as in GLUE's mrpc
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{source}: byte {error.start} is 0x{raw[error.start]:02x}, which is not UTF-8; convert the file"
        ) from error


def _read_delimited(raw: bytes, source: str, *, tolerance: float = 0.0, **dialect: Any) -> Columns:
    """A file -> columns of text. Rows with another number of fields than the header are left out if they are few."""
    reader = csv.reader(io.StringIO(_text(raw, source), newline=""), **dialect)
    parsed: list[tuple[int, list[str]]] = []
    start = 1  # where the row starts: an unclosed quotation mark is noticed only many lines later
    try:
        for row in reader:
            if row:
                parsed.append((start, row))
            start = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{source} line {start}: {one_line(error)}; fix that row") from error
    header = parsed.pop(0)[1] if parsed else []
    require(
        len(set(header)) == len(header),
        f"{source} line 1: columns {', '.join(header)} must have different names; rename one",
    )
    odd = [(line, len(row)) for line, row in parsed if len(row) != len(header)]
    if odd:
        rule = f"{source} line {odd[0][0]} has {odd[0][1]} fields, must have {len(header)} as the header does"
        require(len(odd) <= tolerance * len(parsed), f"{rule}; fix that row")
        logger.warning("%s; left out, with all such rows: %d of %d", rule, len(odd), len(parsed))
    rows = [row for _, row in parsed if len(row) == len(header)]
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _read_json(raw: bytes, source: str) -> Columns:
    """A file with an array of objects, or with one object per line -> columns."""
    text = _text(raw, source)
    whole = text.lstrip().startswith("[")
    rows: list[Any] = []
    for number, part in enumerate([text] if whole else text.split("\n"), start=1):
        if part.strip():
            try:
                value = json.loads(part)
            except json.JSONDecodeError as error:
                line = error.lineno if whole else number
                raise ConfigError(f"{source} line {line}: not JSON ({error.msg}); fix that line") from error
            rows.extend(value if whole else [value])
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ConfigError(f"{source} row {i} is {json.dumps(row)[:40]}, must be an object of columns")
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}


def _read_parquet(raw: bytes, source: str) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return dict(pq.read_table(pa.BufferReader(raw)).to_pydict())
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot be read as Parquet ({one_line(error)}); write it again") from error


_READERS: dict[str, Callable[[bytes, str], Columns]] = {
    ".csv": functools.partial(_read_delimited, strict=True),
    ".tsv": functools.partial(_read_delimited, tolerance=TSV_ODD_ROWS, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".json": _read_json,
    ".jsonl": _read_json,
    ".parquet": _read_parquet,
}


def _examples(columns: Columns, task: Task, source: str) -> Dataset:
    """Columns, with the names on the hub or their aliases -> checked examples."""
    import datasets
    import numpy as np
    import pyarrow as pa

    empty = f"{source} is empty, must have at least one row"
    require(bool(columns), empty)
    values = {ours: columns[theirs] for theirs, ours in task.aliases.items() if theirs in columns}
    values |= {name: columns[name] for name in (*task.fields, LABEL) if name in columns}
    missing = [name for name in (*task.fields, LABEL) if name not in values]
    require(
        not missing,
        f"{source}: no column {' nor '.join(missing)}, which --task {task.name} needs; it has {', '.join(columns)}",
    )
    labels = _labels(values[LABEL], task, source)
    require(bool(labels), empty)
    arrays = {name: _texts(values[name], name, source) for name in task.fields}
    arrays[LABEL] = pa.array(labels, pa.float32() if task.regression else pa.int32())
    arrays[EXAMPLE_ID] = pa.array(np.arange(len(labels), dtype=np.uint32))
    return datasets.Dataset(datasets.table.InMemoryTable.from_pydict(arrays))


def _texts(values: list[Any], name: str, source: str) -> pa.Array:
    import pyarrow as pa

    for i, value in enumerate(values):
        if not isinstance(value, str) or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)):
            what = "null" if value is None else "half a surrogate pair" if isinstance(value, str) else repr(value)[:40]
            raise ConfigError(f"{source} row {i}: {name} is {what}, must be text; fix or remove that row")
    return pa.array(values, pa.string())


def _labels(values: list[Any], task: Task, source: str) -> list[float]:
    if task.label_range is None:
        low, high = 0.0, task.num_labels - 1.0
        rule = f"must be an integer from 0 to {high:g}, or one of {', '.join(task.label_names)}"
    else:
        low, high = task.label_range
        rule = f"must be a number from {low:g} to {high:g}"
    labels: list[float] = []
    for i, value in enumerate(values):
        number = _number(value, task)
        if not low <= number <= high or not (task.regression or number.is_integer()):
            hidden = "; -1 marks the hidden labels of GLUE's test splits; give a labelled file" if number == -1 else ""
            what = "is missing" if value is None or value == "" else f"= {str(value)[:40]}"
            raise ConfigError(f"{source} row {i}: label {what}, {rule}{hidden}")
        labels.append(number if task.regression else int(number))
    return labels


def _number(value: Any, task: Task) -> float:
    """A label in a file (a class name or a number) -> a number; NaN if it is neither."""
    if value in task.label_names:
        return float(task.label_names.index(value))
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
