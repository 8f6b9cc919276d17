"""`sftref compare`: two reports -> what got worse, what got better, and how the machines differ."""

from collections.abc import Iterator
from typing import Any

# Status of a check -> how bad it is.
RANK = {"pass": 0, "deviation": 1, "not_run": 2, "blocked": 3, "fail": 4, "error": 4, "crash": 5, "hang": 5}
# A margin (error over bound) is worse if it grew by more than this factor, and beyond this value; small margins vary.
GREW, NOTABLE = 2.0, 0.1
# A check is slower if it takes this many times as long, and more than this many seconds.
SLOWER, MOMENT = 1.5, 1.0
# The most checks that one line names.
MOST_NAMED = 4


def compare(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], bool]:
    """Differences in lines of text, and whether anything got worse.

    Worse are: a verdict that is no longer CONFORMANT, a check with a worse status, a missing check, and a margin that
    grew twofold to more than a tenth. Times are listed but do not count: they depend on the load of the machine.
    """
    old, new = ({check["id"]: check for check in report["checks"]} for report in (before, after))
    verdicts = before["verdict"], after["verdict"]
    lines = [] if verdicts[0] == verdicts[1] else [f"verdict: {verdicts[0]} -> {verdicts[1]}"]
    lines += [line for check in new if (line := _status(check, old.get(check), new[check]))]
    both = {check: (old[check], new[check]) for check in old if check in new}
    for check, (one, two) in both.items():
        margins = one["margin"], two["margin"]
        if None not in margins and margins[1] > max(NOTABLE, GREW * margins[0]):
            lines.append(f"worse: {check}: margin {margins[0]:.3g} -> {margins[1]:.3g}")
    lines += _named("worse: missing", [check for check in old if check not in new])
    lines += _named("new", [check for check in new if check not in old])
    for part in ("settings", "environment"):
        lines += _differences(part, before[part], after[part])
    lines.append(f"time: {before['timing']['seconds']:.1f} s -> {after['timing']['seconds']:.1f} s")
    for check, (one, two) in both.items():
        slower = two["seconds"] > max(MOMENT, SLOWER * one["seconds"])
        if slower and one["status"] == two["status"] == "pass":
            lines.append(f"slower: {check}: {one['seconds']:.1f} s -> {two['seconds']:.1f} s")
    lost = verdicts[0] == "CONFORMANT" and verdicts[1] != "CONFORMANT"
    return lines, lost or any(line.startswith("worse: ") for line in lines)


def _status(check: str, old: dict[str, Any] | None, new: dict[str, Any]) -> str:
    if old is None:
        return f"worse: {check}, new: {new['status']}{_why(new)}" if RANK[new["status"]] >= RANK["fail"] else ""
    if old["status"] == new["status"]:
        return ""
    step = RANK[new["status"]] - RANK[old["status"]]
    word = "worse" if step > 0 else "better" if step < 0 else "changed"
    return f"{word}: {check}: {old['status']} -> {new['status']}{_why(new)}"


def _named(what: str, checks: list[str]) -> Iterator[str]:
    """One line that counts and names the checks which only one of the reports has."""
    if checks:
        more = f" and {len(checks) - MOST_NAMED} more" if len(checks) > MOST_NAMED else ""
        count = f"{len(checks)} check{'' if len(checks) == 1 else 's'}"
        yield f"{what}: {count}: {', '.join(checks[:MOST_NAMED])}{more}"


def _why(check: dict[str, Any]) -> str:
    return f" ({' '.join(check['message'].split())[:200]})" if check["message"] else ""


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
