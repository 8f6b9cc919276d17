"""Runs stored in pytest-benchmark's format -> what this run is compared with.

pytest-benchmark names the folder of a machine after its operating system and Python alone; two accelerators, or two
versions of JAX, would meet in it. So each kind and number of devices has a storage of its own, and each stored run
carries its environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..measuring.rounds import Measured

FOLDER = Path(".benchmarks")
KEY = "sftref"
# So many runs, made before anything changed, say how runs scatter and what the machine's time was.
ENOUGH = 3
# What makes counts of a compiled program comparable.
SAME_PROGRAM = ("jax", "jaxlib")


class BaselineError(ValueError):
    """A baseline that this run cannot be compared with."""


@dataclass(frozen=True)
class Stored:
    """One stored run.

    Attributes:
        path: of its file.
        where: kind and number of devices and size, as in `described`.
        versions: of its packages.
        measured: by benchmark.
    """

    path: Path
    where: str
    versions: Mapping[str, str]
    measured: Mapping[str, Measured]


def described(devices: Sequence[Any], size: str) -> str:
    """What times depend on most: `8 x cpu, small`."""
    return f"{len(devices)} x {devices[0].device_kind}, {size}"


def storage(described: str, root: Path = FOLDER) -> Path:
    """The folder of the runs on such devices."""
    return root / re.sub(r"[^A-Za-z0-9.]+", "-", described).strip("-")


def load(folder: Path) -> list[Stored]:
    """All of our runs below a folder, oldest first; files of other benchmarks are left alone."""
    runs = []
    for path in sorted(folder.glob("**/[0-9][0-9][0-9][0-9]_*.json"), key=lambda path: path.name):
        run = read(path)
        if run is not None:
            runs.append(run)
    return runs


def read(path: Path) -> Stored | None:
    """One file; None where it holds no benchmark of ours.

    Raises:
        BaselineError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ours = content["machine_info"].get(KEY)
        entries = [bench["extra_info"][KEY] for bench in content["benchmarks"] if KEY in bench["extra_info"]]
        if ours is None or not entries:
            return None
        found = {entry["id"]: Measured.from_json(entry) for entry in entries}
        return Stored(path, ours["where"], ours["versions"], found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaselineError(f"{path}: is no stored run ({type(error).__name__}: {error}); remove it") from error


def check_device(stored: Mapping[str, Any], now: str, where: str) -> None:
    """Refuse a stored run of other devices, by name.

    Raises:
        BaselineError: naming both.
    """
    before = stored.get(KEY, {}).get("where", "devices that it does not name")
    if before != now:
        raise BaselineError(
            f"--benchmark-compare {where}: was measured on {before}, must be {now} as here; "
            "times of other devices say nothing about these"
        )


def same_program(run: Stored, versions: Mapping[str, str]) -> bool:
    """Whether counts of compiled programs must be the same there."""
    return all(run.versions.get(name) == versions.get(name) for name in SAME_PROGRAM)
