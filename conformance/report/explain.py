"""`explain`: a law's id -> what it asks, what breaks it, what to do; and what the last report measured of it."""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.fault import seen_by
from ..core.law import RUNGS, Law, laws


class UnknownLawError(ValueError):
    """An id that no law has."""


def find(word: str) -> list[Law]:
    """An id, a check's id, a rung's number, or the start of ids -> laws.

    Raises:
        UnknownLawError: naming the nearest ids.
    """
    name = word.partition("[")[0]
    if name in laws():
        return [laws()[name]]
    found = [law for law in laws().values() if law.id.startswith(f"{name}.") or str(law.rung) == name]
    if not found:
        near = difflib.get_close_matches(name, laws(), 3, 0.4)
        hint = f"nearest: {', '.join(near)}" if near else "without an id it lists them all"
        raise UnknownLawError(f"explain {word}: is no law, and no rung of 0 to {len(RUNGS) - 1} that has laws; {hint}")
    return found


def table(found: list[Law]) -> Iterator[str]:
    """One line for each law, rung by rung."""
    width = max(len(law.id) for law in found)
    for rung in sorted({law.rung for law in found}):
        yield f"rung {rung}: {RUNGS[rung]}"
        for law in found:
            if law.rung == rung:
                yield f"  {law.id:<{width}}  {law.level:<8} {law.requirement}"


def explained(law: Law, report: dict[str, Any] | None) -> Iterator[str]:
    """Everything about one law."""
    yield f"{law.id} (rung {law.rung}, {law.rung_name}; from level {law.level} on; asked of {_whom(law)})"
    yield from _paragraph("", law.requirement)
    yield "  It catches:"
    for kind in law.catches:
        yield from _paragraph("- ", kind)
    must_see = seen_by(law.id)
    if must_see:
        yield f"  It must see {'these seeded faults' if len(must_see) > 1 else 'this seeded fault'}:"
        for fault in must_see:
            yield from _paragraph("- ", f"{fault.id}: {fault.does} ({fault.looks_like})")
    yield from _paragraph("Likely cause: ", law.cause)
    yield from _paragraph("Next step: ", law.next_step)
    yield from _paragraph("", f"It counts as hung after {law.deadline:g} s.")
    checks = [check for check in report["checks"] if check["law"] == law.id] if report else []
    for check in checks:
        said = f"{check['id']} in the report: {check['status']}"
        if check["message"]:
            said += f": {' '.join(check['message'].split())}"
        yield from _paragraph("", said)
        if check["bound_from"]:
            yield from _paragraph(
                "  ",
                f"{check['comparisons']} comparisons; at the worst one ({check['worst']}) error "
                f"{check['measured']:.3g}, bound {check['bound']:.3g}: {check['bound_from']}",
            )


def read_report(path: Path) -> dict[str, Any]:
    """A report.json, if it is one.

    Raises:
        ValueError: it cannot be read, or is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read ({reason}); give the report.json of a run") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if not str(schema).startswith("sftref.report/"):
        raise ValueError(f"{path}: is not a report of `verify`; give its report.json")
    report: dict[str, Any] = found
    return report


def _whom(law: Law) -> str:
    return "each trainer" if law.per == "subject" else "the machine"


def _paragraph(first: str, text: str) -> list[str]:
    return textwrap.wrap(first + text, 110, initial_indent="  ", subsequent_indent="    ")
