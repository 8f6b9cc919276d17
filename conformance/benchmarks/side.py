"""One of the two environments of a paired comparison, as the process that measures in it."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.kit import INSTALLED, KIT, PACKAGE
from ..workers.channel import Worker

# Seconds for an answer: a program compiles within a minute, the rest is for a machine that is busy.
DEADLINE = 600.0


def start(python: str, timed: Sequence[Any], overlay: Path) -> Worker:
    """Start a process of `worker.py`.

    Args:
        python: the interpreter of its environment.
        timed: the arguments of `worker.Timer`.
        overlay: a folder in which Python finds this kit; see `overlay`.

    Raises:
        ValueError: `python` cannot be run.
    """
    # Both sides run this kit's code, whatever version of it their environments have.
    paths = [str(overlay), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A cache of compiled programs could hold another version's.
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    try:
        return Worker(f"{PACKAGE}.benchmarks.worker:Timer", *timed, python=python, variables=variables, alone=True)
    except OSError as error:
        raise ValueError(f"{python}: {error.strerror}; must be a Python interpreter or MODULE:FACTORY") from error


def overlay(folder: Path) -> Path:
    """Fill `folder` with links by which any Python finds this kit, and `sftref` where the kit is installed in it."""
    if PACKAGE != INSTALLED:
        (folder / PACKAGE.partition(".")[0]).symlink_to(KIT, target_is_directory=True)
        return folder
    home = Path(sys.modules["sftref"].__file__ or "").parent
    inside = folder / "sftref"
    inside.mkdir()
    for entry in home.iterdir():
        if entry.name not in ("conformance", "__pycache__"):
            (inside / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    (inside / "conformance").symlink_to(KIT, target_is_directory=True)
    return folder


def interpreter(against: str) -> str | None:
    """The Python that `--against` names; None where it names a trainer, MODULE:FACTORY.

    Raises:
        ValueError: it is neither.
    """
    python = shutil.which(against)
    if python is None and (":" not in against or os.sep in against):
        raise ValueError(f"--against {against}: must be a Python interpreter (.venv-old/bin/python) or MODULE:FACTORY")
    return python


def labels(described: Mapping[str, Any]) -> str:
    """A side in words: its versions."""
    versions = described["versions"]
    return f"JAX {versions.get('jax')}, jaxlib {versions.get('jaxlib')}, Python {versions['python']}"
