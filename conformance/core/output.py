"""The folder of a report: a test before the run that files can be written to it, and the files after the run."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

PROBE_BYTES = 1 << 18


def prepare(out: Path) -> None:
    """Make the folder; a ValueError says why no report can be written to it."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file, must be a folder; choose another name")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe(out)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"--out {out}: cannot be written ({reason}); free some space, or choose another") from error


def probe(folder: Path) -> None:
    """Write and delete a file in the folder, which raises an OSError if it is full or read-only."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0" * PROBE_BYTES)
        file.flush()
        os.fsync(file.fileno())


def write(out: Path, texts: Mapping[str, str]) -> None:
    """Write each text to the file of its name, completely or not at all; an OSError if a file cannot be written."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        part = out / f".{name}.part"
        try:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
            part.replace(out / name)
        finally:
            part.unlink(missing_ok=True)
