"""A run and its verdict -> one folder: report.json for programs, report.html and .md for people, junit.xml for CI."""

from __future__ import annotations

import json
from pathlib import Path

from ..judge.outcome import Outcome
from ..judge.verdict import Verdict
from .document import document
from .junit import junit
from .markdown import markdown
from .page import page


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
