"""Verdicts -> `bench.json` for programs and `bench.html` for people: one page, no network, a picture in each row."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.result import plain
from .judging import verdict
from .judging.intervals import FAIL, PASS, Ratio, word
from .judging.verdict import Judged, told
from .tables import duration, rates

SCHEMA = "sftref.bench/1"
# The picture of a row, in pixels, and the ratios at its ends: half as long, twice as long.
WIDTH, HEIGHT, MARGIN = 260, 24, 8
LOWEST, HIGHEST = 0.5, 2.0
SHOWN = {"wall": 8, "cpu": 17}
STYLE = """
:root{color-scheme:light dark;--good:#1a7f37;--bad:#cf222e;--unsure:#9a6700;--quiet:#656d76;--line:#d0d7de}
@media(prefers-color-scheme:dark){:root{--good:#3fb950;--bad:#f85149;--unsure:#d29922;--quiet:#8b949e;--line:#30363d}}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:auto;padding:1rem}
h1{font-size:1.5rem}.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line);vertical-align:middle}
td.n{font-variant-numeric:tabular-nums;white-space:nowrap}small,.quiet{color:var(--quiet)}
.PASS{color:var(--good)}.FAIL,.WRONG{color:var(--bad)}.AMBIGUOUS{color:var(--unsure)}.RECORDED{color:var(--quiet)}
svg{max-width:100%;vertical-align:middle}svg text{fill:var(--quiet);font-size:10px}
"""


def document(found: Sequence[Judged], where: str, matters: float, more: Mapping[str, Any]) -> dict[str, Any]:
    """A run in JSON's own values; `more` is the environment, or both environments."""
    content = {
        "schema": SCHEMA,
        "verdict": verdict.overall(found),
        "exit_code": verdict.CODES[verdict.overall(found)],
        "line": verdict.line(found, where),
        "devices": where,
        "matters": matters,
        "benchmarks": [judged.to_json() for judged in found],
        **more,
    }
    result: dict[str, Any] = plain(content)
    return result


def write(out: Path, found: Sequence[Judged], where: str, matters: float, more: Mapping[str, Any]) -> None:
    """Write both files, each complete or not at all.

    Raises:
        OSError: one cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    content = document(found, where, matters, more)
    texts = {"bench.json": json.dumps(content, indent=1) + "\n", "bench.html": page(found, content, matters)}
    for name, text in texts.items():
        part = out / f".{name}.part"
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(out / name)
        finally:
            part.unlink(missing_ok=True)


def page(found: Sequence[Judged], content: Mapping[str, Any], matters: float) -> str:
    """The page."""
    rows = "\n".join(_row(judged, matters) for judged in found)
    verdict_word = content["verdict"]
    said = html.escape(content["line"].partition(": ")[2])
    environment = html.escape(json.dumps(content.get("environment", content.get("sides")), indent=1))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{verdict_word}: speed of {html.escape(content["devices"])}</title><style>{STYLE}</style></head><body>
<h1><span class="{verdict_word}">{verdict_word}</span> <small>speed, {html.escape(content["devices"])}</small></h1>
<p>{said}</p>
<p class="quiet">How many times as long as before, with an interval: the upper bar is time on the wall, the lower one
time on processors. The dashed line stands at {1 + matters:g}, the least slow-down that matters; an interval that is
certain to lie beyond half of it is a FAIL, one that ends before it a PASS.</p>
<div class="scroll"><table><thead><tr><th>benchmark</th><th>verdict</th><th>time</th><th>rate</th>
<th>times as long</th></tr></thead><tbody>
{rows}
</tbody></table></div>
<details><summary>environment</summary><pre>{environment}</pre></details>
</body></html>
"""


def _row(judged: Judged, matters: float) -> str:
    took, rate = "", ""
    if judged.measured is not None:
        took, rate = duration(judged.measured.seconds["wall"]), rates(judged.measured.rates)
    ratios = {name: ratio for name, ratio in judged.ratios.items() if name in SHOWN}
    others = [told(name, ratio) for name, ratio in judged.ratios.items() if name not in SHOWN]
    why = judged.message if judged.word != PASS else "; ".join(others)
    return (
        f'<tr><td>{html.escape(judged.id)}</td><td class="{judged.word}">{judged.word}</td><td class="n">{took}</td>'
        f'<td class="n">{rate}</td><td>{picture(ratios, matters)}'
        f"{f'<br><small>{html.escape(why)}</small>' if why else ''}</td></tr>"
    )


def picture(ratios: Mapping[str, Ratio], matters: float) -> str:
    """Each interval as a bar over a logarithmic axis, with lines at 1 and at the least that matters."""
    if not ratios:
        return ""
    said = html.escape("; ".join(told(name, ratio) for name, ratio in ratios.items()))
    marks = [
        f'<line x1="{_x(1):.1f}" x2="{_x(1):.1f}" y1="0" y2="{HEIGHT}" stroke="var(--quiet)"/>',
        f'<line x1="{_x(1 + matters):.1f}" x2="{_x(1 + matters):.1f}" y1="0" y2="{HEIGHT}" stroke="var(--bad)" '
        'stroke-dasharray="3 2"/>',
    ]
    for name, ratio in ratios.items():
        marks += _bar(ratio, SHOWN[name], matters)
    return (
        f'<svg role="img" aria-label="{said}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"<title>{said}</title>{''.join(marks)}</svg>"
    )


def _bar(ratio: Ratio, y: int, matters: float) -> Iterator[str]:
    colour = {PASS: "var(--good)", FAIL: "var(--bad)"}.get(word(ratio, matters), "var(--unsure)")
    ends = f'x1="{_x(ratio.low):.1f}" x2="{_x(ratio.high):.1f}" y1="{y}" y2="{y}"'
    yield f'<line {ends} stroke="{colour}" stroke-width="3"/>'
    yield f'<circle cx="{_x(ratio.value):.1f}" cy="{y}" r="3.5" fill="{colour}"/>'


def _x(ratio: float) -> float:
    inside = min(max(ratio, LOWEST), HIGHEST)
    return MARGIN + (WIDTH - 2 * MARGIN) * math.log(inside / LOWEST) / math.log(HIGHEST / LOWEST)
