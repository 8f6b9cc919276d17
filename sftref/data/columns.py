"""The columns of a split's files -> a `Dataset` of the task's texts, labels and row numbers, checked.

A message about wrong values has the first of them, and how many rows are wrong.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftref.config import ConfigError, require
from sftref.data.readers import Table
from sftref.data.tasks import LABEL, Task

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

logger = logging.getLogger(__name__)

EXAMPLE_ID = "example_id"
COMMON = 5  # different wrong values that a message shows


def examples(tables: list[tuple[str, Table]], task: Task) -> Dataset:
    """The parts of a split, each with its name for messages -> checked examples, numbered over all parts.

    Raises:
        ConfigError: a part has no row, or lacks a column; a text or a label is wrong.
    """
    import datasets
    import numpy as np
    import pyarrow as pa

    parts, start = [], 0
    for source, table in tables:
        arrays, rows, kept = _arrays(table, task, source)
        arrays[EXAMPLE_ID] = pa.array(start + np.asarray(kept, np.uint32))
        parts.append(pa.table(arrays))
        start += rows
    return datasets.Dataset(datasets.table.InMemoryTable(pa.concat_tables(parts).combine_chunks()))


def _arrays(table: Table, task: Task, source: str) -> tuple[dict[str, pa.Array], int, list[int]]:
    """One part -> its columns, the number of its rows, and the numbers of the rows that have a label."""
    import pyarrow as pa

    require(bool(table.columns), f"{source} is empty, must have at least one row")
    found = task.columns_in(table.columns)
    missing = [name for name in (*task.fields, LABEL) if name not in found]
    require(
        not missing,
        f"{source}: no column {' nor '.join(missing)}, which --task {task.name} needs; it has "
        f"{', '.join(table.columns)}{_why_missing(missing, table, source)}",
    )
    values = {ours: table.columns[theirs] for ours, theirs in found.items()}
    rows = len(values[LABEL])
    require(rows > 0, f"{source} is empty, must have at least one row")
    kept = _decided(values[LABEL], task, source)
    if len(kept) < rows:
        values = {name: [column[i] for i in kept] for name, column in values.items()}
    arrays = {name: _texts(values[name], name, source, kept) for name in task.fields}
    labels = _labels(_by_name(values[LABEL], table.classes, task, source), task, source, kept)
    arrays[LABEL] = pa.array(labels, pa.float32() if task.regression else pa.int32())
    return arrays, rows, kept


def _why_missing(missing: list[str], table: Table, source: str) -> str:
    if "input_ids" in table.columns:
        return "; it has tokens, must have texts: save the data before they are tokenized"
    if missing == [LABEL] and {"test", "diagnostic"} & set(Path(source).name.lower().replace(".", "_").split("_")):
        return "; test files of GLUE have no labels: give a train or dev file"
    return ""


def _decided(labels: list[Any], task: Task, source: str) -> list[int]:
    """The numbers of the rows on whose label the annotators agreed; all rows if they did on none."""
    kept = [i for i, value in enumerate(labels) if str(value).strip() not in task.undecided]
    if 0 < len(kept) < len(labels):
        marks = " or ".join(sorted({str(value).strip() for value in labels} & set(task.undecided)))
        logger.warning(
            "%s: %d of %d rows have the label %s, because their annotators did not agree; left out",
            source, len(labels) - len(kept), len(labels), marks,
        )  # fmt: skip
    return kept or list(range(len(labels)))


def _by_name(values: list[Any], classes: tuple[str, ...], task: Task, source: str) -> list[Any]:
    """Class numbers of a file that has names for them -> the names, if these are the task's in some order.

    Raises:
        ConfigError: only some of the file's classes are the task's.
    """
    ours = [_class(name, task) for name in classes]
    if task.regression or ours == list(range(len(ours))):
        return values
    known = [number for number in ours if number is not None]
    if not known:
        taken = ", ".join(f"{name} as {own}" for name, own in zip(classes, task.label_names, strict=False))
        logger.warning("%s: its classes have other names than those of --task %s; %s", source, task.name, taken)
        return values
    require(
        len(known) == len(ours) == len(set(known)),
        f"{source}: has the classes {', '.join(classes)}, must have {', '.join(task.label_names)}; map the labels",
    )
    return [ours[v] if isinstance(v, int) and 0 <= v < len(ours) else v for v in values]


def _class(name: Any, task: Task) -> int | None:
    """The number of a class by its name, in any case and with any of "-", "_" and " " between words; or None."""
    plain = str(name).strip().lower().replace("-", "_").replace(" ", "_")
    plain = task.label_aliases.get(plain, plain)
    return task.label_names.index(plain) if plain in task.label_names else None


def _texts(values: list[Any], name: str, source: str, rows: list[int]) -> pa.Array:
    """The texts of one column; `rows` are their rows in the file."""
    import pyarrow as pa

    wrong = [i for i, v in enumerate(values) if not isinstance(v, str) or not (v.isascii() or _is_unicode(v))]
    if wrong:
        value = values[wrong[0]]
        what = "null" if value is None else "half a surrogate pair" if isinstance(value, str) else repr(value)[:40]
        raise ConfigError(
            f"{source} row {rows[wrong[0]]}: {name} is {what}, must be text; {len(wrong)} of {len(values)} rows are "
            "wrong like this: fix or remove them"
        )
    return pa.array(values, pa.string())


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _labels(values: list[Any], task: Task, source: str, rows: list[int]) -> list[float]:
    """The labels as numbers; `rows` are their rows in the file."""
    if task.label_range is None:
        low, high = 0.0, task.num_labels - 1.0
        rule = f"must be an integer from 0 to {high:g}, or one of {', '.join(task.label_names)}"
    else:
        low, high = task.label_range
        rule = f"must be a number from {low:g} to {high:g}"
    numbers = [_number(value, task) for value in values]
    wrong = [i for i, x in enumerate(numbers) if not (low <= x <= high and (task.regression or x.is_integer()))]
    if wrong:
        shown = [_shown(values[i]) for i in wrong]
        common = ", ".join(f"{value}: {count}" for value, count in Counter(shown).most_common(COMMON))
        more = ", …" if len(set(shown)) > COMMON else ""
        hidden = any(numbers[i] == -1 for i in wrong)
        hint = "; -1 marks the hidden labels of GLUE's test splits: give a labelled file" if hidden else ""
        what = "is missing" if shown[0] == "missing" else f"= {shown[0]}"
        raise ConfigError(
            f"{source} row {rows[wrong[0]]}: label {what}, {rule}; {len(wrong)} of {len(values)} rows have other "
            f"labels ({common}{more}){hint}"
        )
    return numbers if task.regression else [int(number) for number in numbers]


def _shown(value: Any) -> str:
    return "missing" if value is None or value == "" else str(value)[:40]


def _number(value: Any, task: Task) -> float:
    """A label in a file (a class name or a number) -> a number; NaN if it is neither."""
    number = _class(value, task) if isinstance(value, str) else None
    try:
        return float(value if number is None else number)
    except (TypeError, ValueError, OverflowError):
        return math.nan
