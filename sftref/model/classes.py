"""The class names in config.json, a task -> the checkpoint's classifier row for each class of the task.

Two checkpoints for one task can have their classes in different orders. For MNLI, GLUE has entailment, neutral,
contradiction; many published heads have contradiction first (https://github.com/QData/TextAttack/issues/684).
"""

import logging
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sftref.config import require
from sftref.data.tasks import TASKS, Task

logger = logging.getLogger(__name__)

NEW_HEAD = "train a new classifier: sftref train --fresh-head"
SINGLE_LABEL = "single_label_classification"


class Classes(NamedTuple):
    """The classes of a checkpoint's classifier."""

    names: tuple[str, ...]  # by row of the checkpoint's classifier, as in config.json; empty if there are none
    rows: tuple[int, ...]  # for each class of the task, its row in the checkpoint's classifier


def match_classes(hf_config: Mapping[str, Any], task: Task, *, source: str) -> Classes:
    """Match the names in config.json with those of a task.

    Names are compared without case and punctuation ("Not-Entailment" is "not_entailment"). Names without a meaning
    ("LABEL_0", "1") are assumed to be numbers of the task's classes; a warning says so.

    Args:
        hf_config: the content of config.json of a checkpoint whose classifier has `task.num_labels` rows.
        task: the task; of a regression, the one name is kept and not compared.
        source: the checkpoint's name in messages.

    Raises:
        ConfigError: the names contradict each other, or are those of other classes; the head is for several labels.
    """
    if task.regression:
        return Classes(_names(hf_config, 1, source), (0,))
    kind = hf_config.get("problem_type")
    wanted = ", ".join(task.label_names)
    require(
        kind in (None, SINGLE_LABEL),
        f"{source}: problem_type in config.json = {kind!r}, must be {SINGLE_LABEL!r} for --task {task.name}; "
        f"choose another checkpoint, or {NEW_HEAD}",
    )
    names = _names(hf_config, task.num_labels, source)
    numbers = [_number(name) for name in names]
    if None in numbers:
        ours = [_plain(name) for name in task.label_names]
        theirs = [_plain(name) for name in names]
        require(
            sorted(ours) == sorted(theirs),
            f"{source}: the classes of its classifier are {', '.join(names)}, must be {wanted} for --task {task.name}; "
            f"choose their task, correct id2label in config.json, or {NEW_HEAD}",
        )
        return Classes(names, tuple(theirs.index(name) for name in ours))
    _check_trained_for(hf_config, task, source)
    logger.warning(
        "%s: config.json does not name the classes of its classifier; they are assumed to be %s, in this order. If "
        "they are others, write their names into id2label",
        source,
        wanted,
    )
    ordered = sorted(numbers, key=lambda number: number or 0)
    if ordered != list(range(task.num_labels)):
        return Classes((), tuple(range(task.num_labels)))
    return Classes(names, tuple(numbers.index(i) for i in range(task.num_labels)))


def _names(hf_config: Mapping[str, Any], count: int, source: str) -> tuple[str, ...]:
    """The class names by row, from id2label or label2id; empty if both lack names."""
    by_id = _table(hf_config, "id2label", source)
    by_name = {row: name for name, row in _inverted(_table(hf_config, "label2id", source), source)}
    tables = [table for table in (by_id, by_name) if any(_number(name) is None for name in table.values())]
    for table in tables:
        require(
            sorted(table) == list(range(count)) and len({_plain(name) for name in table.values()}) == count,
            f"{source}: config.json names the classes {', '.join(map(str, table.values()))}, must have {count} "
            "different names for 0, 1, ..., the rows of the classifier; correct id2label and label2id",
        )
    if len(tables) == 2:
        first, second = ([table[row] for row in range(count)] for table in tables)
        require(
            [_plain(name) for name in first] == [_plain(name) for name in second],
            f"{source}: id2label in config.json has the classes {', '.join(first)}, label2id has {', '.join(second)}, "
            "must be the same; correct one of them",
        )
    table = tables[0] if tables else by_id or by_name
    return tuple(table[row] for row in range(count)) if sorted(table) == list(range(count)) else ()


def _table(hf_config: Mapping[str, Any], key: str, source: str) -> dict[Any, Any]:
    """id2label with integer keys, or label2id as it is; empty if it is absent."""
    table = hf_config.get(key) or {}
    require(isinstance(table, dict), f"{source}: {key} in config.json is a {type(table).__name__}, must be an object")
    if key == "label2id":
        return table
    keys = list(table)
    require(
        all(str(k).isdecimal() for k in keys), f"{source}: id2label in config.json has keys {keys}, must be 0, 1, …"
    )
    return {int(k): str(name) for k, name in table.items()}


def _inverted(table: Mapping[str, Any], source: str) -> list[tuple[str, int]]:
    for name, row in table.items():
        require(
            str(row).isdecimal(), f"{source}: label2id in config.json maps {name!r} to {row!r}, must be 0, 1, …; fix it"
        )
    return [(name, int(row)) for name, row in table.items()]


def _plain(name: str) -> str:
    """A class name without case and punctuation; "non" means "not"."""
    return re.sub(r"^non_", "not_", re.sub(r"[\W_]+", "_", str(name).casefold()).strip("_"))


def _number(name: str) -> int | None:
    """The number in a name without a meaning, such as LABEL_0, class 1 or 2; None for another name."""
    match = re.fullmatch(r"(?:(?:label|class)_?)?(\d+)", _plain(name))
    return int(match[1]) if match else None


def _check_trained_for(hf_config: Mapping[str, Any], task: Task, source: str) -> None:
    """Refuse a head without class names if config.json says that it was trained for a task with other classes."""
    trained = str(hf_config.get("finetuning_task") or "").rpartition(":")[2]
    other = TASKS.get(re.sub(r"[\W_]", "", trained.casefold()))
    require(
        other is None or other.label_names == task.label_names,
        f"{source}: finetuning_task in config.json = {trained!r}, must be {task.name!r}, because its classes have no "
        f"names; choose that task, write the names into id2label, or {NEW_HEAD}",
    )
