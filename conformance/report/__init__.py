"""A run and its verdict -> one folder: report.json for programs, report.html and .md for people, junit.xml for CI."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..outcome import Outcome
from ..verdict import Verdict
from .document import document
from .junit import junit
from .markdown import markdown
from .page import page

PROBE_BYTES = 1 << 18


class FolderError(ValueError):
    """A folder that no report can be written to."""


def prepare(out: Path) -> None:
    """Make the folder, and prove that a report can be written to it.

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


def write(out: Path, outcome: Outcome, verdict: Verdict) -> None:
    """Write all files, each complete or not at all.

    Raises:
        OSError: one cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    content = document(outcome, verdict)
    texts = {
        "report.json": json.dumps(content, indent=1, allow_nan=False) + "\n",
        "report.html": page(content),
        "report.md": markdown(outcome, verdict, content),
        "junit.xml": junit(outcome),
    }
    for name, text in texts.items():
        part = out / f".{name}.part"
        try:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
            part.replace(out / name)
        finally:
            part.unlink(missing_ok=True)
