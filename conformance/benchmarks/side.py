"""One of the two environments of a paired comparison, as the process that measures in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.kit import INSTALLED, KIT, PACKAGE
from ..workers import process

# Seconds in which a question must be answered: most of a minute compiles, the rest is a machine that is busy.
DEADLINE = 600.0
MOST_LINES = 12


class SideError(Exception):
    """A side that cannot measure; `hung` where it gives no answer or died."""

    def __init__(self, message: str, *, hung: bool = False) -> None:
        super().__init__(message)
        self.hung = hung


class Side:
    """A running worker.

    Args:
        name: for messages.
        python: the interpreter of its environment.
        words: its arguments.
        overlay: a folder in which Python finds this kit; see `overlay`.
    """

    def __init__(self, name: str, python: str, words: Sequence[str], overlay: Path) -> None:
        self.name = name
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the side
        variables = dict(os.environ)
        # The same code on both sides, whatever of it the environments have installed themselves.
        variables["PYTHONPATH"] = os.pathsep.join([str(overlay), *filter(None, [variables.get("PYTHONPATH")])])
        # Nor the folder this starts in, which `python -m` would put before it: a checkout has a `sftref` of its own.
        variables["PYTHONSAFEPATH"] = "1"
        # A cache of compiled programs could hold another version's.
        variables["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        module = f"{PACKAGE}.benchmarks.worker"
        try:
            self.process = subprocess.Popen(
                [python, "-m", module, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said,
                env=variables, start_new_session=True, preexec_fn=process.tied_to(os.getpid()),  # noqa: PLW1509
            )  # fmt: skip
        except OSError as error:
            raise SideError(f"{python}: {error.strerror}; must be a Python interpreter or MODULE:FACTORY") from error
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.asks, self.answers = self.process.stdin, self.process.stdout
        self.rest = b""

    def ask(self, **question: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self.send(**question)
        return self.answer()

    def send(self, **question: Any) -> None:
        """Ask; the answer is read by `answer`."""
        try:
            self.asks.write(json.dumps(question).encode() + b"\n")
            self.asks.flush()
        except OSError as error:
            raise self._died() from error

    def answer(self) -> dict[str, Any]:
        """The answer to what was sent.

        Raises:
            SideError: it says that something went wrong, died, or says nothing.
        """
        until = time.monotonic() + DEADLINE
        while b"\n" not in self.rest:
            if not process.wait([self.answers.fileno()], 1.0):
                if time.monotonic() > until:
                    raise SideError(f"{self.name}: no answer within {DEADLINE:g} s", hung=True)
                continue
            more = os.read(self.answers.fileno(), 1 << 16)
            if not more:
                raise self._died()
            self.rest += more
        line, _, self.rest = self.rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise SideError(f"{self.name}: {found['error']}")
        return found

    def _died(self) -> SideError:
        code = self.process.wait()
        self.said.seek(0)
        words = process.last_words(self.said.read().decode(errors="replace").splitlines()[-MOST_LINES:])
        return SideError(f"{self.name} ended with {process.how_it_ended(code)}: {words}", hung=code < 0)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.asks, self.answers, self.said):
            with contextlib.suppress(OSError):  # a question that nobody reads any more
                stream.close()


def overlay(folder: Path) -> Path:
    """Lay links out in `folder` by which any Python finds this kit, and `sftref` where the kit is installed in it."""
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
    found = shutil.which(against)
    if found is not None:
        return found
    if ":" in against and os.sep not in against:
        return None
    raise SideError(f"--against {against}: must be a Python interpreter, as .venv-old/bin/python, or MODULE:FACTORY")


def labels(described: Mapping[str, Any]) -> str:
    """A side in words."""
    versions = described["versions"]
    return f"JAX {versions.get('jax')}, jaxlib {versions.get('jaxlib')}, Python {versions['python']}"
