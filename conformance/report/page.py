"""report.json -> report.html, one page that loads nothing, and report.md, from the same sections."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.sections import as_html, as_markdown, escape
from .sections import sections

SCRIPT = Path(__file__).with_name("page.js")


def page(report: Mapping[str, Any]) -> str:
    """The text of report.html; see `sections`."""
    state, glyph = ("good", "✓") if report["exit_code"] == 0 else ("bad", "✗")
    top = (
        '<a class="skip" href="#checks">to the checks</a>\n'
        f'<h1 class="{state}">{glyph} {escape(report["verdict"])}</h1>\n<p>{escape(_reason(report))}</p>'
    )
    return as_html(f"{report['verdict']}: sftref", top, sections(report), script=SCRIPT.read_text(encoding="utf-8"))


def markdown(report: Mapping[str, Any]) -> str:
    """The text of report.md; see `sections`."""
    return as_markdown(report["verdict"], _reason(report), sections(report))


def _reason(report: Mapping[str, Any]) -> str:
    """The verdict's line without the verdict."""
    return str(report["line"]).partition(": ")[2]
