"""A run and its verdict -> one folder: report.json for programs, report.html and .md for people, junit.xml for CI."""

import json
from pathlib import Path

from ..core import output
from ..judge.outcome import Outcome
from ..judge.verdict import Verdict
from .document import document
from .junit import junit
from .page import markdown, page


def write(out: Path, outcome: Outcome, verdict: Verdict) -> None:
    """Write all files, each complete or not at all; an OSError if a file cannot be written."""
    report = document(outcome, verdict)
    texts = {
        "report.json": json.dumps(report, indent=1, allow_nan=False) + "\n",
        "report.html": page(report),
        "report.md": markdown(report),
        "junit.xml": junit(outcome, report["checks"]),
    }
    output.write(out, texts)
