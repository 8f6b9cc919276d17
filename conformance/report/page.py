"""report.json -> one HTML page for a person: it opens from a file, asks no network, and needs no script to be read.

Verdict and diagnosis first, then the ladder, each check with its error and bound on one axis, seeded faults, curves,
speed where a bench.json is given too, times, and the environment. Everything is taken from the JSON, so that a page can
be made of any report.
"""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..machine.remedies import FAILS
from .pictures import curves, matrix, scale
from .terminal import WORDS

HERE = Path(__file__).parent
MOODS = {"pass": "good", "deviation": "idle", "not_run": "idle", "blocked": "idle"}
GLYPHS = {"good": "✓", "bad": "✗", "idle": "·"}
# Characters of a line of evidence.
MOST = 200
LEGEND = (
    "One axis for all, from 1e-17 to 1e3: the dot is the error measured, the bar where its bound lies, with what is "
    "beyond it tinted; the dashed tick is the noise expected of correct arithmetic, the triangle the smallest error "
    "that this check would still see, the cross a comparison that must fail."
)


def text(value: Any) -> str:
    """Escaped."""
    return html.escape(str(value))


def mood(status: str) -> str:
    """Of a check."""
    return MOODS.get(status, "bad")


def page(content: Mapping[str, Any]) -> str:
    """The file's text."""
    style, script = (HERE / "page.css").read_text(encoding="utf-8"), (HERE / "page.js").read_text(encoding="utf-8")
    good = content["exit_code"] == 0
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{text(content['verdict'])}: sftref</title><style>{style}</style></head><body>",
        '<a class="skip" href="#checks">to the checks</a><main>',
        f'<h1 class="{"good" if good else "bad"}">{"✓" if good else "✗"} {text(content["verdict"])}</h1>',
        f"<p>{text(content['line'].partition(': ')[2])}</p>",
        *_diagnosis(content["diagnosis"]),
        *_tries(content.get("tries")),
        *_findings(content.get("findings", [])),
        *_ladder(content["checks"]),
        *_checks(content["checks"]),
        *_faults(content["faults"]),
        *_curves(content["checks"]),
        *_speed(content.get("speed")),
        *_timing(content["timing"]),
        *_environment(content),
        f"</main><script>{script}</script></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _diagnosis(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found is None:
        return
    # The check itself, further down, has all of it.
    evidence = "".join(f"<li>{text(textwrap.shorten(line, MOST))}</li>" for line in found["evidence"])
    yield (
        f'<section class="card" aria-label="diagnosis"><h2>Diagnosis: {text(found["layer"])}</h2>'
        f"<p>{text(found['cause'])}</p><ul>{evidence}</ul><p><b>Next step:</b> {text(found['next_step'])}</p></section>"
    )


def _tries(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found is None:
        return
    yield '<h2 id="tries">Settings that were tried</h2>'
    yield f"<p>One at a time, before {text(', '.join(found['asked']))}; without any change "
    yield f"{found['passed_unchanged']} of {found['unchanged']} tries passed.</p>"
    if not found["tries"]:
        return
    yield '<div class="scroll"><table><thead><tr><th>setting</th><th></th><th>what came of it</th></tr></thead>'
    for one in found["tries"]:
        state = "good" if one["words"] == found["workaround"] else "bad" if one["result"] == FAILS else "idle"
        yield (
            f"<tr><td><code>{text(one['words'])}</code><br><small>{text(one['does'])} "
            f'(<a href="{text(one["source"])}">source</a>)</small></td>'
            f'<td class="{state}">{text(one["result"])}</td>'
            f"<td>{text((one['everything'] or one['message'])[:300])}</td></tr>"
        )
    yield "</table></div>"


def _findings(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for finding in found:
        kind = "card" if finding["level"] == "broken" else "card risk"
        yield (
            f'<section class="{kind}" aria-label="{text(finding["level"])}"><p><b>{text(finding["level"])}:</b> '
            f"{text(finding['what'])}</p><p>{text(finding['why'])}</p><p><b>Next step:</b> {text(finding['next'])} "
            f'(<a href="{text(finding["source"])}">source</a>)</p></section>'
        )


MACHINE = "machine"


def _ladder(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A row for each rung, a column for the machine and for each trainer."""
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for check in checks:
        groups.setdefault((check["rung"], check["subject"] or MACHINE), []).append(check)
    rungs = {check["rung"]: check["rung_name"] for check in checks}
    columns = [MACHINE, *dict.fromkeys(check["subject"] for check in checks if check["subject"])]
    heads = "".join(f"<th>{text(name)}</th>" for name in ("rung", *columns, "comparisons", "seconds"))
    yield '<h2 id="ladder">The ladder</h2><div class="scroll"><table>'
    yield f"<caption>From the bottom up; a rung stands on those below.</caption><thead><tr>{heads}</tr></thead>"
    for rung, name in sorted(rungs.items()):
        cells = "".join(_cell(groups.get((rung, column), [])) for column in columns)
        mine = [check for check in checks if check["rung"] == rung]
        made, took = sum(check["comparisons"] for check in mine), sum(check["seconds"] for check in mine)
        yield (f'<tr><th>{rung} {text(name)}</th>{cells}<td class="n">{made:,}</td><td class="n">{took:.1f}</td></tr>')
    yield "</table></div>"


def _cell(members: Sequence[Mapping[str, Any]]) -> str:
    if not members:
        return "<td></td>"
    moods = {mood(check["status"]) for check in members}
    worst = "bad" if "bad" in moods else "good" if "good" in moods else "idle"
    counts = [f"{n} {word}" for status, word in WORDS.items() if (n := sum(c["status"] == status for c in members))]
    return f'<td class="{worst}">{GLYPHS[worst]} {text(", ".join(counts))}</td>'


def _options(name: str, label: str, values: Sequence[tuple[str, str]]) -> str:
    options = "".join(f'<option value="{text(value)}">{text(said)}</option>' for value, said in values)
    return f'<label>{label}<select id="{name}"><option value="">all</option>{options}</select></label>'


def _checks(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    statuses = [(s, word) for s, word in WORDS.items() if any(check["status"] == s for check in checks)]
    rungs = sorted({(check["rung"], check["rung_name"]) for check in checks})
    subjects = sorted({check["subject"] for check in checks if check["subject"]})
    yield f'<h2 id="checks">Checks</h2><p class="quiet">{LEGEND}</p><div class="filters" role="search">'
    yield '<label>words<input id="words" type="search" placeholder="gradient, step.update"></label>'
    yield _options("status", "status", statuses)
    yield _options("rung", "rung", [(str(rung), f"{rung} {name}") for rung, name in rungs])
    yield _options("subject", "trainer", [(subject, subject) for subject in subjects])
    yield '<button id="open" type="button">open or close all</button><button id="clear" type="button">clear</button>'
    yield '<span id="count" role="status" class="quiet"></span></div>'
    # What fell is told first, and open.
    order = {"bad": 0, "idle": 1, "good": 2}
    for check in sorted(checks, key=lambda check: order[mood(check["status"])] == 0, reverse=True):
        yield _check(check)


def _check(check: Mapping[str, Any]) -> str:
    state = mood(check["status"])
    margin = "" if not check["bound"] else f"{check['margin']:.2g} of its bound"
    if check["bound"] == 0 and state == "good":
        margin = "the same bits"
    rows = [("it asks", check["requirement"])]
    if check["message"]:
        rows.append(("it found", check["message"]))
    if state == "bad":
        rows += [("likely cause", check["cause"]), ("next step", check["next_step"])]
    if check["worst"]:
        rows += [
            ("nearest to its bound", check["worst"]),
            ("the bound", f"{check['bound']:.3g}: {check['bound_from']}"),
        ]
    for dtype, floor in check["facts"].get("floor", {}).items():
        parts = ", ".join(f"{name} {floor[name]:.2g}" for name in ("all", "tensor", "element") if floor.get(name))
        if parts:
            rows.append((f"smallest error seen, {dtype}", f"{parts} (noise {floor.get('noise') or 0:.2g})"))
    rows.append(("catches", "; ".join(check["catches"])))
    if check["comparisons"]:
        rows.append(("compared", f"{check['compared']:,} numbers in {check['comparisons']:,} comparisons"))
    body = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in rows)
    again = f"<pre>{text(check['repro'])}</pre>" if check["repro"] else ""
    return (
        f'<details class="check" data-status="{check["status"]}" data-rung="{check["rung"]}" '
        f'data-subject="{text(check["subject"] or "")}"{" open" if state == "bad" else ""}><summary>'
        f'<span class="{state}">{GLYPHS[state]} {WORDS[check["status"]]}</span><code>{text(check["id"])}</code>'
        f"{scale(check)}<small>{margin}</small></summary><div><dl>{body}</dl>{again}</div></details>"
    )


def _faults(faults: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield '<h2 id="faults">Seeded faults</h2>'
    if not faults:
        yield "<p>None was seeded: this run does not say what its laws see.</p>"
        return
    yield f'<div class="scroll">{matrix(faults)}</div>'
    yield "<details><summary>as a table</summary><div class=scroll><table><thead><tr><th>fault</th><th>layer</th>"
    yield "<th>does</th><th></th><th>seen by</th></tr></thead>"
    for fault in faults:
        state = {"killed": "good", "survived": "bad"}.get(fault["status"], "idle")
        word = {"killed": "seen", "survived": "not seen"}.get(fault["status"], f"not run: {fault['message']}")
        yield (
            f"<tr><td><code>{text(fault['id'])}</code></td><td>{text(fault['layer'])}</td><td>{text(fault['does'])}</td>"
            f'<td class="{state}">{text(word)}</td><td>{text(", ".join(fault["seen_by"]))}</td></tr>'
        )
    yield "</table></div></details>"


def _curves(checks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    lines = {check["subject"]: check["facts"]["losses"] for check in checks if check["facts"].get("losses")}
    if lines:
        yield '<h2 id="curves">Fifty updates</h2><div class="scroll">'
        yield curves(lines, "loss") + "</div>"


def _speed(found: Mapping[str, Any] | None) -> Iterator[str]:
    """What `sftref bench` measured, where its bench.json was given beside the report."""
    if found is None:
        return
    from ..benchmarks.judging.intervals import Ratio
    from ..benchmarks.page import SHOWN, picture
    from ..benchmarks.tables import duration

    yield f'<h2 id="speed">Speed: {text(found["verdict"])}</h2><p>{text(found["line"].partition(": ")[2])}</p>'
    yield '<div class="scroll"><table><thead><tr><th>benchmark</th><th>verdict</th><th>time</th>'
    yield "<th>times as long as before, with an interval</th></tr></thead>"
    for one in found["benchmarks"]:
        ratios = {name: Ratio(float(ratio["value"]), float(ratio["low"]), float(ratio["high"]), int(ratio["n"]))
                  for name, ratio in one["ratios"].items() if name in SHOWN}  # fmt: skip
        took = duration(one["measured"]["seconds"]["wall"]) if one["measured"] else ""
        state = {"PASS": "good", "RECORDED": "quiet", "AMBIGUOUS": "idle"}.get(one["word"], "bad")
        why = f"<br><small>{text(one['message'])}</small>" if one["message"] else ""
        yield (
            f'<tr><td><code>{text(one["id"])}</code></td><td class="{state}">{text(one["word"])}</td>'
            f'<td class="n">{text(took)}</td><td>{picture(ratios, found["matters"])}{why}</td></tr>'
        )
    yield "</table></div>"


def _timing(timing: Mapping[str, Any]) -> Iterator[str]:
    share = timing.get("compile_share")
    yield f'<h2 id="time">Time</h2><p>{timing["seconds"]:.0f} s from the start at {text(timing["started"])}'
    yield f"; {share:.0%} of the checks' own time was compilation</p>" if share else "</p>"
    yield '<div class="scroll"><table><caption>The slowest checks</caption>'
    yield from (f'<tr><td><code>{text(slow["id"])}</code></td><td class="n">{slow["seconds"]:.1f} s</td></tr>'
                for slow in timing["slowest"])  # fmt: skip
    yield "</table></div>"


def _environment(content: Mapping[str, Any]) -> Iterator[str]:
    yield '<h2 id="environment">Environment</h2>'
    for title, value in (
        ("the kit", content.get("kit")), ("versions, devices, variables", content["environment"]),
        ("settings", content["settings"]), ("trainers", content["subject"]), ("how JAX started", content.get("start")),
    ):  # fmt: skip
        if value:
            yield f"<details><summary>{title}</summary><pre>{text(json.dumps(value, indent=1))}</pre></details>"
