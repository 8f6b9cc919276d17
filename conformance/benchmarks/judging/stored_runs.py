"""Runs stored in pytest-benchmark's format, which this run is compared with.

pytest-benchmark names the folder of a machine after its operating system and Python only, so runs of two accelerators
would be mixed. Here each kind and number of devices has its own folder, and each stored run contains its environment.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..measuring.rounds import Measured

FOLDER = Path(".benchmarks")
KEY = "sftref"
# Number of stored runs from which the scatter between runs is known.
ENOUGH = 3
# Packages that must be the same for counts of a compiled program to be comparable.
SAME_PROGRAM = ("jax", "jaxlib")


@dataclass(frozen=True)
class Stored:
    """The versions of packages in a stored run, its benchmarks by id, and its processor (empty if it is unknown)."""

    versions: Mapping[str, str]
    measured: Mapping[str, Measured]
    processor: str = ""


def described(devices: Sequence[Any], size: str) -> str:
    """Devices and size in words: `8 x cpu, small`."""
    return f"{len(devices)} x {devices[0].device_kind}, {size}"


def storage(described: str, root: Path = FOLDER) -> Path:
    """The folder of the runs on these devices."""
    return root / re.sub(r"[^A-Za-z0-9.]+", "-", described).strip("-")


def load(folder: Path) -> list[Stored]:
    """All runs of this kit below a folder, oldest first; other files are ignored; ValueError for a damaged file."""
    paths = sorted(folder.glob("**/[0-9][0-9][0-9][0-9]_*.json"), key=lambda path: path.name)
    return [run for path in paths if (run := _read(path))]


def _read(path: Path) -> Stored | None:
    """The run in a file; None if it has no benchmark of this kit."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ours = content["machine_info"].get(KEY)
        entries = [bench["extra_info"][KEY] for bench in content["benchmarks"] if KEY in bench["extra_info"]]
        if ours is None or not entries:
            return None
        measured = {entry["id"]: Measured(**entry) for entry in entries}
        return Stored(ours["versions"], measured, stored_processor(content["machine_info"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a stored run ({type(error).__name__}: {error}); remove it") from error


def processor(cores: int, path: Path = Path("/proc/cpuinfo")) -> str:
    """This machine's processor and the cores that this process may use; empty if the system does not name it."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return _named(names[0], cores) if names else ""


def stored_processor(info: Mapping[str, Any]) -> str:
    """The processor in a stored run's `machine_info`, whose name pytest-benchmark wrote; empty if it has none."""
    name, machine = (info.get("cpu") or {}).get("brand_raw"), info.get(KEY, {}).get("machine") or {}
    return _named(name, machine["cores"]) if name and machine.get("cores") else ""


def _named(name: str, cores: int) -> str:
    return f"{' '.join(name.split())}, {cores} cores"


def comparable(runs: Sequence[Stored], here: str) -> tuple[list[Stored], str]:
    """The runs of the processor `here`, and a text on the others; an unknown processor counts as this one."""
    others = [run.processor for run in runs if here and run.processor and run.processor != here]
    same = [run for run in runs if run.processor not in others]
    names = ", ".join(dict.fromkeys(others))
    several = f"{len(others)} stored run{'s' if len(others) > 1 else ''}"
    return same, f"{several} of another processor ({names}; here {here}) not compared" if others else ""


def check_device(stored: Mapping[str, Any], now: str, where: str, here: str = "") -> None:
    """Raise a ValueError, which names both, if a stored run is of other devices than `now`, or processors than `here`.

    `here` is empty if the devices are accelerators.
    """
    before = stored.get(KEY, {}).get("where", "unknown devices")
    other = stored_processor(stored)
    if here and other and before == now and other != here:
        before, now = other, here
    if before != now:
        raise ValueError(
            f"--benchmark-compare {where}: measured on {before}, must be {now} as in this run; times of other devices "
            "cannot be compared"
        )


def same_program(run: Stored, versions: Mapping[str, str]) -> bool:
    """Whether a stored run used the same JAX, so that its counts of compiled programs must be the same."""
    return all(run.versions.get(name) == versions.get(name) for name in SAME_PROGRAM)
