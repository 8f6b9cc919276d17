"""Starts the process that measures in one of the two environments of a paired comparison."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.kit import INSTALLED, KIT, PACKAGE
from ..workers.channel import Worker

# Seconds for an answer: a program compiles within a minute; the rest is for busy machines.
DEADLINE = 600.0


def start(python: str, timed: Sequence[Any], overlay: Path) -> Worker:
    """Start a process of `worker.Timer`, with the arguments `timed`, in the environment of an interpreter.

    Raises ValueError if `python` cannot be run.
    """
    # Both sides run this copy of the kit, whatever version is installed in their environments.
    paths = [str(overlay), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A cache of compiled programs could hold another version's.
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    try:
        return Worker(f"{PACKAGE}.benchmarks.worker:Timer", *timed, python=python, variables=variables, alone=True)
    except OSError as error:
        raise ValueError(f"{python}: {error.strerror}; must be a Python interpreter or MODULE:FACTORY") from error


def overlay(folder: Path) -> Path:
    """Fill `folder` with links, so that any Python imports this kit, and `sftref` if the kit is installed in it."""
    if PACKAGE != INSTALLED:
        (folder / PACKAGE.partition(".")[0]).symlink_to(KIT, target_is_directory=True)
        return folder
    home = Path(sys.modules["sftref"].__file__ or "").parent
    inside = folder / "sftref"
    inside.mkdir()
    entries = {entry.name: entry for entry in home.iterdir() if entry.name != "__pycache__"} | {"conformance": KIT}
    for name, entry in entries.items():
        (inside / name).symlink_to(entry, target_is_directory=entry.is_dir())
    return folder


def interpreter(against: str) -> str | None:
    """The Python that `--against` names, or None if it is MODULE:FACTORY, a trainer; ValueError if it is neither."""
    python = shutil.which(against)
    if python is None and (":" not in against or os.sep in against):
        raise ValueError(f"--against {against}: must be a Python interpreter (.venv-old/bin/python) or MODULE:FACTORY")
    return python
