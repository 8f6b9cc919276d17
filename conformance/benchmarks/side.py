"""One of the two environments of a paired comparison, as the process that measures in it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.kit import INSTALLED, KIT, PACKAGE
from ..workers.channel import NoAnswer, Worker, answers

# Seconds for an answer: a program compiles within a minute, the rest is for a machine that is busy.
DEADLINE = 600.0


class SideError(Exception):
    """A side that cannot measure; `hung` if it does not answer or was killed by a signal."""

    def __init__(self, message: str, *, hung: bool = False) -> None:
        super().__init__(message)
        self.hung = hung


class Side(Worker):
    """A running process of `worker.py`.

    Args:
        name: for messages.
        python: the interpreter of its environment.
        timed: the arguments of `worker.Timer`.
        overlay: a folder in which Python finds this kit; see `overlay`.

    Raises:
        SideError: `python` cannot be run.
    """

    def __init__(self, name: str, python: str, timed: Sequence[Any], overlay: Path) -> None:
        self.name = name
        # Both sides run this kit's code, whatever version of it their environments have.
        paths = [str(overlay), *filter(None, [os.environ.get("PYTHONPATH")])]
        # A cache of compiled programs could hold another version's.
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_ENABLE_COMPILATION_CACHE": "false"}
        try:
            super().__init__(
                f"{PACKAGE}.benchmarks.worker:Timer", *timed, python=python, variables=variables, alone=True
            )
        except OSError as error:
            raise SideError(f"{python}: {error.strerror}; must be a Python interpreter or MODULE:FACTORY") from error

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method; see `answer`."""
        self.send(method, *arguments)
        return self.answer()

    def answer(self) -> Any:
        """The answer to the last call.

        Raises:
            SideError: the method raised, the process ended, or it did not answer within `DEADLINE` seconds.
        """
        [answer] = answers([self], DEADLINE)
        if isinstance(answer, NoAnswer):
            raise SideError(f"{self.name}: {answer.how}", hung=answer.silent or (answer.code or 0) < 0)
        return answer


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
        SideError: it is neither.
    """
    python = shutil.which(against)
    if python is not None:
        return python
    if ":" in against and os.sep not in against:
        return None
    raise SideError(f"--against {against}: must be a Python interpreter, as .venv-old/bin/python, or MODULE:FACTORY")


def labels(described: Mapping[str, Any]) -> str:
    """A side in words: its versions."""
    versions = described["versions"]
    return f"JAX {versions.get('jax')}, jaxlib {versions.get('jaxlib')}, Python {versions['python']}"
