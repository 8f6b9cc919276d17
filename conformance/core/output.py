"""The folder of a report: a check before a run, and the files after it."""

import os
from collections.abc import Mapping
from pathlib import Path

PROBE_BYTES = 1 << 18


class FolderError(ValueError):
    """A folder that cannot be written."""


def prepare(out: Path) -> None:
    """Make the folder, and check that a report can be written to it.

    Raises:
        FolderError: it cannot.
    """
    if out.exists() and not out.is_dir():
        raise FolderError(f"--out {out}: is a file, must be a folder; choose another name")
    probe = out / ".sftref-probe"
    try:
        out.mkdir(parents=True, exist_ok=True)
        try:
            with probe.open("wb") as file:
                file.write(b"\0" * PROBE_BYTES)
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise FolderError(f"--out {out}: cannot be written ({reason}); free some space, or choose another") from error


def write(out: Path, texts: Mapping[str, str]) -> None:
    """Write files, each complete or not at all.

    Args:
        out: the folder; made if it does not exist.
        texts: by file name.

    Raises:
        OSError: a file cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        part = out / f".{name}.part"
        try:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
            part.replace(out / name)
        finally:
            part.unlink(missing_ok=True)
