"""`compare`: two reports -> what got worse, what got better, and what was different about the machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# From good to bad; what stands on the same step is another way to be as bad.
RANK = {"pass": 0, "deviation": 1, "not_run": 2, "blocked": 3, "fail": 4, "error": 4, "crash": 5, "hang": 5}
# A margin (error over bound) that grew by this factor, and to this much, is told: a small one moves with the values.
GREW, NOTABLE = 2.0, 0.1
# A run or a check that takes this many times as long is told, if it is longer than a moment.
SLOWER, MOMENT = 1.5, 1.0
# Checks of one line that are named.
MOST_NAMED = 4


def compare(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], bool]:
    """Lines for a person, and whether anything got worse.

    Worse are a verdict that is no longer CONFORMANT, a check of a worse status, one that is gone, and a margin that
    grew twofold to more than a tenth. Time is told and decides nothing: it depends on what else the machine does.
    """
    lines, worse = [], False
    old, new = ({check["id"]: check for check in report["checks"]} for report in (before, after))
    if before["verdict"] != after["verdict"]:
        worse |= before["verdict"] == "CONFORMANT"
        lines.append(f"verdict: {before['verdict']} -> {after['verdict']}")
    for check in new:
        said, bad = _status(check, old.get(check), new[check])
        worse |= bad
        lines += [said] if said else []
    for check in old:
        if check in new and _grew(old[check]["margin"], new[check]["margin"]):
            worse = True
            lines.append(f"worse: {check}: margin {old[check]['margin']:.3g} -> {new[check]['margin']:.3g}")
    gone, come = [check for check in old if check not in new], [check for check in new if check not in old]
    worse |= bool(gone)
    lines += _named("worse: no longer asked", gone) + _named("new", come)
    lines += _differences("settings", before["settings"], after["settings"])
    lines += _differences("environment", before["environment"], after["environment"])
    lines += _times(before["timing"], after["timing"], old, new)
    return lines, worse


def _status(check: str, old: dict[str, Any] | None, new: dict[str, Any]) -> tuple[str, bool]:
    if old is None:
        bad = RANK[new["status"]] >= RANK["fail"]
        return f"worse: {check}, new: {new['status']}{_why(new)}" if bad else "", bad
    if old["status"] == new["status"]:
        return "", False
    bad = RANK[new["status"]] > RANK[old["status"]]
    word = "worse" if bad else "better" if RANK[new["status"]] < RANK[old["status"]] else "changed"
    return f"{word}: {check}: {old['status']} -> {new['status']}{_why(new)}", bad


def _named(what: str, checks: list[str]) -> list[str]:
    """One line for checks that only one of the reports has: another level has dozens of them."""
    if not checks:
        return []
    more = f" and {len(checks) - MOST_NAMED} more" if len(checks) > MOST_NAMED else ""
    several = f"{len(checks)} check{'' if len(checks) == 1 else 's'}"
    return [f"{what}: {several}: {', '.join(checks[:MOST_NAMED])}{more}"]


def _why(check: dict[str, Any]) -> str:
    return f" ({' '.join(check['message'].split())[:200]})" if check["message"] else ""


def _grew(old: float | None, new: float | None) -> bool:
    return old is not None and new is not None and new > NOTABLE and new > GREW * old


def _differences(name: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(f"{name} {key}", old.get(key), new.get(key))
    elif old != new:
        yield f"{name}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    if isinstance(value, list):
        kinds = sorted({str(item.get("kind", item)) if isinstance(item, dict) else str(item) for item in value})
        return f"{len(value)} ({', '.join(kinds)})"
    return "absent" if value is None else str(value)


def _times(before: dict[str, Any], after: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    yield f"time: {before['seconds']:.1f} s -> {after['seconds']:.1f} s"
    for check in old:
        if check not in new or {old[check]["status"], new[check]["status"]} != {"pass"}:
            continue
        was, now = old[check]["seconds"], new[check]["seconds"]
        if now > MOMENT and now > SLOWER * was:
            yield f"slower: {check}: {was:.1f} s -> {now:.1f} s"
