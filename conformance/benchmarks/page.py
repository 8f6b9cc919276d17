"""Verdicts -> `bench.json` for programs, `bench.html` for people, and lines for a terminal."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core import output
from ..core.result import plain
from ..core.sections import Block, Cell, Section, Table, Text, as_html, code, escape, svg
from .judging import verdict
from .judging.intervals import FAIL, PASS, Ratio, word
from .judging.verdict import Judged, in_words

SCHEMA = "sftref.bench/1"
# Size in pixels of the picture in each row of the table, and the ratios at its ends: half the time, twice the time.
WIDTH, HEIGHT, MARGIN = 260, 24, 8
LOWEST, HIGHEST = 0.5, 2.0
# Series in the picture -> the vertical position of its bar.
SHOWN = {"wall": 8, "cpu": 17}
STATES = {"PASS": "good", "RECORDED": "quiet", "AMBIGUOUS": "idle", "FAIL": "bad", "WRONG": "bad"}
GLYPHS = {"PASS": "✓", "RECORDED": "·", "AMBIGUOUS": "?", "FAIL": "✗", "WRONG": "✗"}
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (0.0, "ns"))
RATES = {
    "flops": ("GFLOP/s", 1e9), "bytes": ("GB/s", 1e9), "bus_bytes": ("GB/s bus", 1e9), "examples": ("examples/s", 1.0),
}  # fmt: skip


def document(results: Sequence[Judged], where: str, matters: float, more: Mapping[str, Any]) -> dict[str, Any]:
    """The content of bench.json; `more` has the environment, or both environments of a comparison."""
    word = verdict.overall(results)
    content: dict[str, Any] = plain({
        "schema": SCHEMA, "verdict": word, "exit_code": verdict.CODES[word], "line": verdict.line(results, where),
        "devices": where, "matters": matters, "benchmarks": [asdict(judged) for judged in results], **more,
    })  # fmt: skip
    return content


def write(out: Path, results: Sequence[Judged], where: str, matters: float, more: Mapping[str, Any]) -> None:
    """Write bench.json and bench.html, each complete or not at all; OSError if one cannot be written."""
    content = document(results, where, matters, more)
    output.write(out, {"bench.json": json.dumps(content, indent=1) + "\n", "bench.html": page(content)})


def page(content: Mapping[str, Any]) -> str:
    """The content of bench.json -> that of bench.html."""
    title = f"{content['verdict']}: speed of {content['devices']}"
    top = f'<h1><span class="{STATES[content["verdict"]]}">{content["verdict"]}</span></h1>'
    environment = json.dumps(content.get("environment", content.get("sides")), indent=1)
    folded = f"<details><summary>environment</summary><pre>{escape(environment)}</pre></details>"
    return as_html(title, f"{top}<p>{escape(content['devices'])}</p>", [section(content)], below=folded)


def section(content: Mapping[str, Any]) -> Section:
    """The content of bench.json -> a table with a row for each benchmark; KeyError or TypeError for other content."""
    matters = float(content["matters"])
    rows = [_row(Judged.from_json(one), matters) for one in content["benchmarks"]]
    legend = (
        "The time now divided by the time before, with its interval; upper bar: wall time, lower bar: processor time. "
        f"The dashed line is at {1 + matters:g}, the smallest slow-down that matters. FAIL: the whole interval is "
        f"above {1 + matters / 2:g}. PASS: the interval ends below {1 + matters:g}."
    )
    head = ("benchmark", "verdict", "time", "rate", "ratio to before", "details")
    blocks: list[Block] = [Text(content["line"].partition(": ")[2]), Text(legend), Table(head, rows)]
    return Section(f"Speed: {content['verdict']}", blocks, "speed")


def duration(seconds: float) -> str:
    """Seconds with a suitable unit."""
    size, unit = next((size, unit) for size, unit in UNITS if seconds >= size)
    return f"{seconds / (size or 1e-9):.3g} {unit}"


def _times(judged: Judged) -> tuple[str, str]:
    """The time of one execution, and its rates, such as GB/s, as texts with units."""
    if judged.measured is None:
        return "", ""
    rates = judged.measured.rates
    words = ", ".join(f"{rates[name] / size:,.3g} {unit}" for name, (unit, size) in RATES.items() if name in rates)
    return duration(judged.measured.seconds["wall"]), words


def table(results: Sequence[Judged], widest: int) -> Iterator[str]:
    """A line for each benchmark, with ids padded to `widest`, and one more for the reason of a failure."""
    for judged in results:
        seconds, rate = _times(judged)
        compared = "; ".join(in_words(series, judged.ratios[series]) for series in SHOWN if series in judged.ratios)
        glyph, word = GLYPHS[judged.word], judged.word
        yield f"{glyph} {judged.id:<{widest}}  {seconds:>8}  {rate:<34}  {word}  {compared}".rstrip()
        if judged.message and word in ("FAIL", "WRONG"):
            yield f"    {judged.message}"


def _row(judged: Judged, matters: float) -> list[str | Cell]:
    seconds, rate = _times(judged)
    shown = {name: ratio for name, ratio in judged.ratios.items() if name in SHOWN}
    others = [in_words(name, ratio) for name, ratio in judged.ratios.items() if name not in SHOWN]
    words = "; ".join(in_words(name, ratio) for name, ratio in shown.items())
    details = judged.message if judged.word != PASS else "; ".join(others)
    seen = Cell(words, svg=_picture(shown, words, matters))
    return [code(judged.id), Cell(judged.word, STATES[judged.word]), Cell(seconds, "n"), Cell(rate, "n"), seen, details]


def _picture(ratios: Mapping[str, Ratio], words: str, matters: float) -> str:
    """Each interval as a bar on a logarithmic axis, with lines at 1 and at the smallest ratio that matters."""
    if not ratios:
        return ""
    marks = [
        f'<path d="M{_x(1):.1f} 0 V{HEIGHT}" stroke="var(--quiet)"/>',
        f'<path d="M{_x(1 + matters):.1f} 0 V{HEIGHT}" stroke="var(--bad)" stroke-dasharray="3 2"/>',
    ]
    for name, ratio in ratios.items():
        y = SHOWN[name]
        colour = {PASS: "var(--good)", FAIL: "var(--bad)"}.get(word(ratio, matters), "var(--idle)")
        marks.append(f'<path d="M{_x(ratio.low):.1f} {y} H{_x(ratio.high):.1f}" stroke="{colour}" stroke-width="3"/>')
        marks.append(f'<circle cx="{_x(ratio.value):.1f}" cy="{y}" r="3.5" fill="{colour}"/>')
    return svg(words, WIDTH, HEIGHT, marks)


def _x(ratio: float) -> float:
    inside = min(max(ratio, LOWEST), HIGHEST)
    return MARGIN + (WIDTH - 2 * MARGIN) * math.log(inside / LOWEST) / math.log(HIGHEST / LOWEST)
