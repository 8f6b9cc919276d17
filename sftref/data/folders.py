"""A folder, the name of a split -> the files that have the split.

The rules are those of `datasets` for files without a configuration (the page "Structure your repository" of its
documentation): the name of a file, or of the folder around it, has one of the words train or training, and validation,
valid, val or dev; several files are numbered. Folders of one of GLUE's tasks, and folders that `save_to_disk` wrote,
are found too. Every choice between files is left to the user.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sftref.config import ConfigError, one_line, require
from sftref.data.files import PACKED, READERS, suffix_of
from sftref.data.tasks import TASKS, Task

WORDS = {"train": ("train", "training"), "validation": ("validation", "dev", "val", "valid")}
# MNLI's two evaluations. A name with one of these words is not a file of the split "validation".
PARTS = ("matched", "mismatched")
DEPTH = 4  # as in the hub's cache: snapshots/REVISION/TASK/FILE, and one more
SHOWN = 10
SAVED, SAVED_DICT = "state.json", "dataset_dict.json"  # in what `save_to_disk` of `datasets` writes


class Found(NamedTuple):
    """The parts of a split in order, each a file or a folder that `save_to_disk` wrote."""

    parts: tuple[Path, ...]
    exact: bool  # whether it is the one file in the folder itself that has just the split's name


def is_saved(path: Path) -> bool:
    """Whether `datasets` wrote this folder by `Dataset.save_to_disk`."""
    return (path / SAVED).is_file()


def find(folder: Path, split: str, task: Task) -> Found | None:
    """The files of a split; None if there is none.

    Args:
        folder: where to look, and below.
        split: "train", "validation", or "validation_matched" and so on.
        task: a folder of this task is preferred; folders of other tasks are left out.

    Raises:
        ConfigError: more than one file could be meant, or a numbered file is missing.
    """
    parts = _here(folder, split)
    if parts:
        exact = len(parts) == 1 and parts[0].parent == folder and _stem(parts[0]) in _names(split)
        return Found(parts, exact)
    found = _below(folder, split, task, DEPTH)
    own = [(sub, parts) for sub, parts in found if task.name in map(_plain, sub.relative_to(folder).parts)]
    found = own or found
    require(
        len(found) < 2,
        f"--data {folder}: {len(found)} folders have a split {split}: {_some(sub for sub, _ in found)}; give one",
    )
    return Found(found[0][1], exact=False) if found else None


def absent(folder: Path, split: str) -> str:
    """The message for a split that is not there: what its name must be, what is there, and what else can be done."""
    files, folders = _listing(folder)
    others = _names(split)[1:]
    content = [_counted("file", files), _counted("folder", folders)]
    if (folder / SAVED_DICT).is_file():
        content = [f"the splits {', '.join(_saved_splits(folder))} of save_to_disk"]
    archives = [p.name for p in files if suffix_of(p.name) in (".zip", ".tar", ".tgz", ".7z", ".rar")]
    hint = f"; unpack {archives[0]}" if archives else ""
    if split != "train" and any("test" in _tokens(p.name) for p in (*files, *folders)):
        hint += "; a test split is not used, because those of GLUE have no labels"
    return (
        f"--data {folder}: no file {split} with one of {', '.join(READERS)} (also {', '.join(PACKED)})"
        + (f", nor {', '.join(others)}" if others else "")
        + f"; it has {' and '.join(filter(None, content)) or 'no file'}{hint}"
    )


def _names(split: str) -> list[str]:
    base, _, part = split.partition("_")
    return [f"{word}_{part}" if part else word for word in WORDS[base]]


def _tokens(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+", name.lower()))


def _plain(name: str) -> str:
    """The name of a folder as the name of a task: "SST-2" -> "sst2"."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _stem(path: Path) -> str:
    return path.name.lower().split(".", 1)[0]


def _is_of(name: str, split: str) -> bool:
    """Whether a name has a word of this split, and none of another split."""
    base, _, part = split.partition("_")
    tokens = _tokens(name)
    others = {word for other, words in WORDS.items() if other != base for word in words} | {"test"}
    return (
        bool(tokens & set(WORDS[base])) and not tokens & others and tokens & set(PARTS) == ({part} if part else set())
    )


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    try:
        everything = sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__")))
    except OSError as error:
        raise ConfigError(f"--data {folder}: cannot be read ({error.strerror})") from error
    return [p for p in everything if p.is_file()], [p for p in everything if p.is_dir()]


def _here(folder: Path, split: str) -> tuple[Path, ...]:
    """The parts of a split in this folder, or in a folder in it that has the split's name."""
    files, folders = _listing(folder)
    if (folder / SAVED_DICT).is_file():
        names = [name for name in _saved_splits(folder) if _is_of(name, split)]
        return (folder / _only(folder, split, names),) if names else ()
    data = [p for p in files if suffix_of(p.name) in READERS or (suffix_of(p.name) == ".zip" and _is_of(p.name, split))]
    exact = [p for p in data if _stem(p) in _names(split)]
    matching = exact or [p for p in data if _is_of(p.name, split)]
    if matching:
        return _numbered(folder, split, matching)
    inside = [p for p in folders if _is_of(p.name, split)]
    if not inside:
        return ()
    sub = folder / _only(folder, split, [p.name for p in inside])
    if is_saved(sub):
        return (sub,)
    named = _here(sub, split)
    any_split = [p for p in _listing(sub)[0] if suffix_of(p.name) in READERS]
    return named or (_numbered(sub, split, any_split) if any_split else ())


def _below(folder: Path, split: str, task: Task, depth: int) -> list[tuple[Path, tuple[Path, ...]]]:
    """(folder, parts) of each folder below that has the split."""
    found: list[tuple[Path, tuple[Path, ...]]] = []
    for sub in _listing(folder)[1] if depth else []:
        if _plain(sub.name) in TASKS.keys() - {task.name}:
            continue
        parts = _here(sub, split)
        found += [(sub, parts)] if parts else _below(sub, split, task, depth - 1)
    return found


def _saved_splits(folder: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((folder / SAVED_DICT).read_text())["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--data {folder}: {SAVED_DICT} cannot be read ({one_line(error)})") from error


def _only(folder: Path, split: str, names: Sequence[str]) -> str:
    exact = [name for name in names if name.lower() in _names(split)]
    names = exact or names
    require(len(names) < 2, f"--data {folder}: has {' and '.join(names)} for the split {split}; remove one")
    return names[0]


def _numbered(folder: Path, split: str, files: list[Path]) -> tuple[Path, ...]:
    """One file, or numbered files in their order, none of which is missing: NAME-00000-of-00002.parquet and so on."""
    names = {p: re.sub(r"-[0-9a-f]{16}(?=\.)", "", p.name) for p in files}  # the hub's shards once had a hash
    total = {match[1] for name in names.values() if (match := re.search(r"-of-(\d+)", name))}
    if not total and len(files) == 1:
        return (files[0],)
    numbers = {p: [int(digits) for digits in re.findall(r"\d+", name)] for p, name in names.items()}
    patterns = {re.sub(r"\d+", "#", name) for name in names.values()}
    differing = [k for k, column in enumerate(zip(*numbers.values(), strict=False)) if len(set(column)) > 1]
    if total and not differing:  # one file of several
        differing = [len(re.findall(r"\d+", names[files[0]].split("-of-")[0])) - 1]
    require(
        len(patterns) == 1 and len(differing) == 1 and len(total) < 2,
        f"--data {folder}: has {_some((p.name for p in files), ' and ')} for the split {split}; remove one",
    )
    order = sorted(files, key=lambda p: numbers[p])
    have = [numbers[p][differing[0]] for p in order]
    first = min(have[0], 1)
    count = have[-1] - first + 1
    if total:  # the hub counts from 0, others from 1
        count = int(min(total))
        first = int(have[-1] == count)
    missing = sorted(set(range(first, first + count)) - set(have))
    require(
        not missing and len(have) == count,
        f"--data {folder}: has {len(have)} of the {count} files of the split {split}; number "
        f"{', '.join(map(str, missing[:SHOWN]))} is missing",
    )
    return tuple(order)


def _counted(noun: str, paths: list[Path]) -> str:
    return f"{len(paths)} {noun}{'s' * (len(paths) > 1)}: {_some(p.name for p in paths)}" if paths else ""


def _some(names: Iterable[object], separator: str = ", ") -> str:
    shown = [str(name) for name in names]
    return separator.join(shown[:SHOWN]) + (", …" if len(shown) > SHOWN else "")
