"""`sftref compare`: two reports -> what got worse, what got better, and how the machines differ."""

from collections.abc import Iterator
from typing import Any

# From good to bad; equal numbers are equally bad.
RANK = {"pass": 0, "deviation": 1, "not_run": 2, "blocked": 3, "fail": 4, "error": 4, "crash": 5, "hang": 5}
# A margin (error over bound) is worse if it grew by this factor and to this value: small ones vary with the values.
GREW, NOTABLE = 2.0, 0.1
# A check is slower if it takes this many times as long, and more than this many seconds.
SLOWER, MOMENT = 1.5, 1.0
# Checks named in one line.
MOST_NAMED = 4


def compare(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], bool]:
    """Differences in lines of text, and whether anything got worse.

    Worse are: a verdict that is no longer CONFORMANT, a check with a worse status, a missing check, and a margin that
    grew twofold to more than a tenth. Times are listed but do not count: they depend on the load of the machine.
    """
    lines, worse = [], False
    old, new = ({check["id"]: check for check in report["checks"]} for report in (before, after))
    if before["verdict"] != after["verdict"]:
        worse |= before["verdict"] == "CONFORMANT"
        lines.append(f"verdict: {before['verdict']} -> {after['verdict']}")
    for check in new:
        text, bad = _status(check, old.get(check), new[check])
        worse |= bad
        lines += [text] if text else []
    for check in old:
        if check in new and _grew(old[check]["margin"], new[check]["margin"]):
            worse = True
            lines.append(f"worse: {check}: margin {old[check]['margin']:.3g} -> {new[check]['margin']:.3g}")
    missing = [check for check in old if check not in new]
    worse |= bool(missing)
    lines += _named("worse: missing", missing) + _named("new", [check for check in new if check not in old])
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
    """One line for all checks that only one of the reports has."""
    if not checks:
        return []
    more = f" and {len(checks) - MOST_NAMED} more" if len(checks) > MOST_NAMED else ""
    count = f"{len(checks)} check{'' if len(checks) == 1 else 's'}"
    return [f"{what}: {count}: {', '.join(checks[:MOST_NAMED])}{more}"]


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
        earlier, later = old[check]["seconds"], new[check]["seconds"]
        if later > MOMENT and later > SLOWER * earlier:
            yield f"slower: {check}: {earlier:.1f} s -> {later:.1f} s"
