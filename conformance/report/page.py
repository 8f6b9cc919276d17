"""report.json -> report.html, one page that loads nothing, and report.md, from the same sections."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.law import RUNGS
from ..core.sections import Block, Cell, Figure, Items, Section, Table, Text, as_html, as_markdown, code, escape, number
from ..machine import remedies
from . import cluster
from .checks import GLYPHS, WORDS, Check, Checks, counted, state_of
from .pictures import curves, matrix

SCRIPT = Path(__file__).with_name("page.js")
EMPTY: tuple[object, ...] = (None, "", [], {})
# The most characters of a piece of evidence, and of a message in a table; the check's own entry has the whole text.
MOST_EVIDENCE, MOST_MESSAGE = 400, 300
FLOORS = (
    "The smallest relative errors that a check sees if they are injected into its values. All: into every number. "
    "Tensor: into all of the least sensitive comparison, which is named. Element: into one number of that comparison. "
    "Noise: the relative error of correct arithmetic; 0 where identical bits are required."
)
MARGINS = "Error divided by bound, for comparisons whose bound is not zero."
FATES = {"killed": ("seen", "good"), "survived": ("not seen", "bad"), "not_run": ("not run", "idle")}


def page(report: Mapping[str, Any]) -> str:
    """A report.json -> the text of report.html."""
    state, glyph = ("good", "✓") if report["exit_code"] == 0 else ("bad", "✗")
    verdict, reason = escape(report["verdict"]), escape(report["line"].partition(": ")[2])
    skip = '<a class="skip" href="#checks">to the checks</a>'
    top = f'{skip}\n<h1 class="{state}">{glyph} {verdict}</h1>\n<p>{reason}</p>'
    return as_html(f"{report['verdict']}: sftref", top, sections(report), script=SCRIPT.read_text(encoding="utf-8"))


def markdown(report: Mapping[str, Any]) -> str:
    """A report.json -> the text of report.md."""
    return as_markdown(report["verdict"], report["line"].partition(": ")[2], sections(report))


def sections(report: Mapping[str, Any]) -> list[Section]:
    """The sections of a report.json, without empty ones; a KeyError or a TypeError if it is not a report.

    `sftref report --bench` adds the content of a bench.json to the report, as `speed`.
    """
    checks, diagnosis = report["checks"], report["diagnosis"]
    title = f"Diagnosis: {diagnosis['layer']}" if diagnosis else ""
    parts = [
        Section(title, list(_diagnosis(diagnosis)), card=True),
        Section("Settings tried", list(_tries(report.get("tries"))), "tries"),
        Section("Findings on this machine", list(_findings(report.get("findings", ())))),
        Section("Ladder", [_ladder(checks)], "ladder"),
        *(cluster.sections(report["cluster"]) if report.get("cluster") else ()),
        Section("Checks", [Checks(checks)], "checks"),
        Section("Not run, and known deviations", list(_quiet(checks))),
        Section("Deviations that no longer apply", _items(report.get("stale_deviations"))),
        Section("Problems of child processes", _items([*(report.get("troubles") or ()), *_outlived(report)])),
        Section("Margins", [Text(MARGINS), margins(checks)]),
        Section("Detection floors", list(_floors(checks))),
        Section("Seeded faults", list(_faults(report["faults"], report["settings"]["level"])), "faults"),
        Section("Fifty updates", list(_curves(checks)), "curves"),
        *_speed(report.get("speed")),
        Section("Time", list(_timing(report["timing"])), "time"),
        Section("Environment", list(_environment(report)), "environment"),
    ]
    return [part for part in parts if part.blocks]


def _items(texts: Sequence[str] | None) -> list[Block]:
    return [Items(texts)] if texts else []


def _outlived(report: Mapping[str, Any]) -> Iterator[str]:
    return (f"It outlived the run, and was ended: {command}" for command in report.get("outlived", ()))


def _diagnosis(diagnosis: Mapping[str, Any] | None) -> Iterator[Block]:
    if diagnosis is not None:
        yield Text(diagnosis["cause"])
        yield Items([textwrap.shorten(text, MOST_EVIDENCE) for text in diagnosis["evidence"]])
        yield Text(diagnosis["next_step"], "Next step")


def _tries(tries: Mapping[str, Any] | None) -> Iterator[Block]:
    if tries is None:
        return
    yield Text(
        f"Rerun one setting at a time: {', '.join(tries['asked'])}. "
        f"Without any change, {tries['passed_unchanged']} of {tries['unchanged']} reruns passed."
    )
    rows = []
    for one in tries["tries"]:
        state = "good" if one["words"] == tries["workaround"] else "bad" if one["result"] == remedies.FAILS else "idle"
        outcome = (one["everything"] or one["message"])[:MOST_MESSAGE]
        result, source = Cell(remedies.WORDS[one["result"]], state), Cell("source", link=one["source"])
        rows.append((code(one["words"]), result, one["does"], outcome, source))
    if rows:
        yield Table(("setting", "result", "effect", "outcome", ""), rows)


def _findings(findings: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    rows = [
        (Cell(one["level"], "bad" if one["level"] == "broken" else "idle"), one["what"], one["why"], one["next"],
         Cell("source", link=one["source"]))
        for one in findings
    ]  # fmt: skip
    if rows:
        yield Table(("", "finding", "why it matters", "next step", ""), rows)


def _ladder(checks: Sequence[Check]) -> Table:
    """A table with a row for each rung, and a column for the machine and for each trainer."""
    columns = [None, *dict.fromkeys(check["subject"] for check in checks if check["subject"])]
    rows: list[Sequence[str | Cell]] = []
    for rung, name in sorted({(check["rung"], check["rung_name"]) for check in checks}):
        members = [check for check in checks if check["rung"] == rung]
        cells = []
        for column in columns:
            statuses = [check["status"] for check in members if check["subject"] == column]
            state = state_of(statuses)
            cells.append(Cell(f"{GLYPHS[state]} {counted(statuses)}", state) if statuses else Cell(""))
        made, seconds = (sum(check[key] for check in members) for key in ("comparisons", "seconds"))
        rows.append((f"{rung} {name}", *cells, number(made), number(seconds, ".1f")))
    return Table(("rung", *(name or "machine" for name in columns), "comparisons", "seconds"), rows)


def _quiet(checks: Sequence[Check]) -> Iterator[Block]:
    rows = [(code(check["id"]), WORDS[check["status"]], check["message"])
            for check in checks if check["status"] in ("blocked", "not_run", "deviation")]  # fmt: skip
    if rows:
        yield Table(("check", "status", "reason"), rows, f"reasons of {len(rows)} checks", folded=True)


def margins(checks: Sequence[Check]) -> Table:
    """A table with a row for each rung: checks, comparisons, numbers compared, median and worst margin."""
    rows: list[Sequence[str | Cell]] = []
    for rung in sorted({check["rung"] for check in checks}):
        members = [check for check in checks if check["rung"] == rung]
        counts = len(members), *(sum(check[name] for check in members) for name in ("comparisons", "compared"))
        # Exact comparisons are left out: their margin is 0 or infinite.
        bounded = [check for check in members if check["median_margin"] is not None]
        medians = sorted(check["median_margin"] for check in bounded)
        middle = medians[len(medians) // 2] if medians else None
        worst = max((check["margin"] for check in bounded), default=None)
        rows.append((f"{rung} {RUNGS[rung]}", *map(number, counts), number(middle, ".3g"), number(worst, ".3g")))
    return Table(("rung", "checks", "comparisons", "numbers compared", "median", "worst"), rows)


def _floors(checks: Sequence[Check]) -> Iterator[Block]:
    kinds = ("all", "tensor", "element", "noise")
    rows = []
    for check in checks:
        for dtype, floor in check["facts"].get("floor", {}).items() if check["status"] == "pass" else ():
            # JSON has no infinity, so an infinite floor is a text.
            values = {kind: float(floor[kind]) for kind in kinds if floor.get(kind) is not None}
            ratio = values["tensor"] / values["noise"] if values.get("noise") and "tensor" in values else None
            numbers = [number(values.get(kind), ".1e") for kind in kinds]
            worst = floor.get("least_sensitive", "the same bits")
            rows.append((code(check["id"]), dtype, *numbers, number(ratio, ".0f"), worst))
    if rows:
        yield Text(FLOORS)
        head = ("check", "dtype", *kinds, "tensor / noise", "least sensitive comparison")
        yield Table(head, rows, f"detection floors of {len(rows)} checks", folded=True)


def _faults(faults: Sequence[Mapping[str, Any]], level: str) -> Iterator[Block]:
    if not faults:
        yield Text("No fault was seeded, so this run does not show what its laws can see.")
        return
    ends = [fault["status"] for fault in faults]
    more = "" if level == "full" else "; --level full seeds all of them"
    yield Text(f"{ends.count('killed')} of {len(ends) - ends.count('not_run')} seeded faults seen{more}.")
    yield Figure(matrix(faults))
    ended = Counter((fault["layer"], fault["status"]) for fault in faults)
    layers = dict.fromkeys(fault["layer"] for fault in faults)
    by_layer = [(layer, *(number(ended[layer, end]) for end in FATES)) for layer in layers]
    yield Table(("layer", *(words for words, _ in FATES.values())), by_layer)
    rows = [
        (code(fault["id"]), fault["layer"], fault["does"], Cell(*FATES[fault["status"]]),
         ", ".join(fault["seen_by"]) or "none", fault["message"])
        for fault in faults
    ]  # fmt: skip
    yield Table(("fault", "layer", "what is wrong", "", "seen by", "message"), rows, "all seeded faults", folded=True)


def _curves(checks: Sequence[Check]) -> Iterator[Block]:
    # A report has NaN and infinity as texts.
    lines = {
        check["subject"]: [float(loss) for loss in check["facts"]["losses"]]
        for check in checks
        if check["facts"].get("losses")
    }
    if lines:
        yield Figure(curves(lines, "loss"))


def _speed(speed: Mapping[str, Any] | None) -> Iterator[Section]:
    if speed is not None:
        from ..benchmarks.page import section  # loads SciPy, which no other section needs

        yield section(speed)


def _timing(timing: Mapping[str, Any]) -> Iterator[Block]:
    share = timing["compile_share"]
    yield Text(
        f"{timing['seconds']:.1f} s, started at {timing['started']}; {timing['check_seconds']:.1f} s in checks, of "
        f"which {timing['compile_seconds']:.1f} s{'' if share is None else f' ({share:.0%})'} compiling."
    )
    rows = [(code(one["id"]), number(one["seconds"], ".2f"), number(one["compile_seconds"], ".2f"))
            for one in timing["slowest"]]  # fmt: skip
    yield Table(("slowest checks", "seconds", "compiling"), rows)


def _environment(report: Mapping[str, Any]) -> Iterator[Block]:
    trainers = {one["label"]: {name: one[name] for name in one if name != "label"} for one in report["subject"]}
    tables = {
        "kit": report.get("kit"), "environment": report["environment"], "settings": report["settings"],
        "trainers": trainers, "JAX start": report.get("start"),
    }  # fmt: skip
    for title, values in tables.items():
        rows = [(name, flat(value)) for name, value in (values or {}).items() if value not in EMPTY]
        if rows:
            yield Table((title, ""), rows, title, folded=True)


def flat(value: Any) -> str:
    """A value from JSON as one line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {flat(item)}" for name, item in value.items() if item not in EMPTY)
    if isinstance(value, list):
        return ("; " if value and isinstance(value[0], dict) else ", ").join(map(flat, value))
    return str(value)
