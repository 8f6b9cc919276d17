"""`sftref explain`: a law's id -> its requirement, what breaks it, what to do, and its results in the last report."""

import difflib
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.fault import seen_by
from ..core.law import RUNGS, Law, laws


def find(word: str) -> list[Law]:
    """The laws that a word names: the id of a law, the start of an id, the id of a check, or the number of a rung.

    If the word names no law, a ValueError lists similar ids.
    """
    name = word.partition("[")[0]
    if name in laws():
        return [laws()[name]]
    matching = [law for law in laws().values() if law.id.startswith(f"{name}.") or str(law.rung) == name]
    if not matching:
        similar = difflib.get_close_matches(name, laws(), 3, 0.4)
        hint = f"similar: {', '.join(similar)}" if similar else "`sftref explain` lists all laws"
        raise ValueError(f"explain {word}: no such law, nor a rung from 0 to {len(RUNGS) - 1} with laws; {hint}")
    return matching


def table(listed: list[Law]) -> Iterator[str]:
    """One line for each law, rung by rung."""
    width = max(len(law.id) for law in listed)
    for rung in sorted({law.rung for law in listed}):
        yield f"rung {rung}: {RUNGS[rung]}"
        for law in listed:
            if law.rung == rung:
                yield f"  {law.id:<{width}}  {law.level:<8} {law.requirement}"


def explained(law: Law, report: dict[str, Any] | None) -> Iterator[str]:
    """Everything about one law, in lines of text; its results are those in `report`."""
    checked = "each trainer" if law.per == "subject" else "the machine"
    yield f"{law.id} (rung {law.rung}, {law.rung_name}; from level {law.level} on; checks {checked})"
    yield from _paragraph("", law.requirement)
    yield "  It detects:"
    for kind in law.catches:
        yield from _paragraph("- ", kind)
    must_see = seen_by(law.id)
    if must_see:
        yield f"  It must see {'these seeded faults' if len(must_see) > 1 else 'this seeded fault'}:"
    for fault in must_see:
        yield from _paragraph("- ", f"{fault.id}: {fault.does} ({fault.looks_like})")
    yield from _paragraph("Likely cause: ", law.cause)
    yield from _paragraph("Next step: ", law.next_step)
    yield from _paragraph("", f"A check that takes more than {law.deadline:g} s counts as hung.")
    for check in [check for check in report["checks"] if check["law"] == law.id] if report else ():
        message = f": {' '.join(check['message'].split())}" if check["message"] else ""
        yield from _paragraph("", f"{check['id']} in the report: {check['status']}{message}")
        if check["bound_from"]:
            numbers = f"error {check['measured']:.3g}, bound {check['bound']:.3g}: {check['bound_from']}"
            yield from _paragraph("  ", f"{check['comparisons']} comparisons; the worst ({check['worst']}): {numbers}")


def read_report(path: Path) -> dict[str, Any]:
    """The content of a report.json; a ValueError if it cannot be read, or is not a report."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read ({reason}); give the report.json of a run") from error
    if not isinstance(report, dict) or not str(report.get("schema")).startswith("sftref.report/"):
        raise ValueError(f"{path}: is not a report of `sftref verify`; give its report.json")
    return report


def _paragraph(first: str, text: str) -> list[str]:
    return textwrap.wrap(first + text, 110, initial_indent="  ", subsequent_indent="    ")


def seconds_before(out: Path, level: str) -> dict[str, float]:
    """The seconds of each check in the report in `out`, if that run had this level."""
    try:
        report = read_report(out / "report.json")
        same = report["settings"]["level"] == level
        ran = [check for check in report["checks"] if check["status"] in ("pass", "fail", "deviation")]
        return {check["id"]: float(check["seconds"]) for check in ran} if same else {}
    except (ValueError, KeyError, TypeError):
        return {}
