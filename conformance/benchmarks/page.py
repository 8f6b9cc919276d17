"""Verdicts -> `bench.json` for programs and `bench.html` for people: one page, no network, a picture in each row."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core import output
from ..core.result import plain
from ..core.sections import Block, Cell, Section, Table, Text, as_html, code, escape, svg
from .judging import verdict
from .judging.intervals import FAIL, PASS, Ratio, word
from .judging.verdict import Judged, in_words
from .tables import duration, rates

SCHEMA = "sftref.bench/1"
# Size of the picture in a row, in pixels, and the ratios at its ends: half as long, twice as long.
WIDTH, HEIGHT, MARGIN = 260, 24, 8
LOWEST, HIGHEST = 0.5, 2.0
# The series in the picture, with the height of their bars.
SHOWN = {"wall": 8, "cpu": 17}
STATES = {"PASS": "good", "RECORDED": "quiet", "AMBIGUOUS": "idle", "FAIL": "bad", "WRONG": "bad"}


def document(results: Sequence[Judged], where: str, matters: float, more: Mapping[str, Any]) -> dict[str, Any]:
    """A run in JSON's own values; `more` is the environment, or both environments."""
    content: dict[str, Any] = plain({
        "schema": SCHEMA,
        "verdict": verdict.overall(results),
        "exit_code": verdict.CODES[verdict.overall(results)],
        "line": verdict.line(results, where),
        "devices": where,
        "matters": matters,
        "benchmarks": [judged.to_json() for judged in results],
        **more,
    })  # fmt: skip
    return content


def write(out: Path, results: Sequence[Judged], where: str, matters: float, more: Mapping[str, Any]) -> None:
    """Write bench.json and bench.html, each complete or not at all.

    Raises:
        OSError: one cannot be written.
    """
    content = document(results, where, matters, more)
    output.write(out, {"bench.json": json.dumps(content, indent=1) + "\n", "bench.html": page(content)})


def page(content: Mapping[str, Any]) -> str:
    """bench.json -> bench.html."""
    title = f"{content['verdict']}: speed of {content['devices']}"
    top = f'<h1><span class="{STATES[content["verdict"]]}">{content["verdict"]}</span></h1>'
    environment = json.dumps(content.get("environment", content.get("sides")), indent=1)
    folded = f"<details><summary>environment</summary><pre>{escape(environment)}</pre></details>"
    return as_html(title, f"{top}<p>{escape(content['devices'])}</p>", [section(content)], below=folded)


def section(content: Mapping[str, Any]) -> Section:
    """bench.json -> a table with a row for each benchmark.

    Raises:
        KeyError, TypeError: it is not a bench.json.
    """
    matters = float(content["matters"])
    rows = [_row(Judged.from_json(one), matters) for one in content["benchmarks"]]
    legend = (
        "Time divided by the time before, with an interval: the upper bar is wall time, the lower one processor time. "
        f"The dashed line is at {1 + matters:g}, the smallest slow-down that matters. FAIL: the whole interval is "
        f"above {1 + matters / 2:g}. PASS: it ends below {1 + matters:g}."
    )
    head = ("benchmark", "verdict", "time", "rate", "ratio to before", "details")
    blocks: list[Block] = [Text(content["line"].partition(": ")[2]), Text(legend), Table(head, rows)]
    return Section(f"Speed: {content['verdict']}", blocks, "speed")


def _row(judged: Judged, matters: float) -> list[str | Cell]:
    seconds, rate = "", ""
    if judged.measured is not None:
        seconds, rate = duration(judged.measured.seconds["wall"]), rates(judged.measured.rates)
    shown = {name: ratio for name, ratio in judged.ratios.items() if name in SHOWN}
    others = [in_words(name, ratio) for name, ratio in judged.ratios.items() if name not in SHOWN]
    words = "; ".join(in_words(name, ratio) for name, ratio in shown.items())
    return [
        code(judged.id),
        Cell(judged.word, STATES[judged.word]),
        Cell(seconds, "n"),
        Cell(rate, "n"),
        Cell(words, svg=picture(shown, words, matters)),
        judged.message if judged.word != PASS else "; ".join(others),
    ]


def picture(ratios: Mapping[str, Ratio], words: str, matters: float) -> str:
    """Each interval as a bar on a logarithmic axis, with lines at 1 and at the smallest ratio that matters."""
    if not ratios:
        return ""
    marks = [
        f'<line x1="{_x(1):.1f}" x2="{_x(1):.1f}" y1="0" y2="{HEIGHT}" stroke="var(--quiet)"/>',
        f'<line x1="{_x(1 + matters):.1f}" x2="{_x(1 + matters):.1f}" y1="0" y2="{HEIGHT}" stroke="var(--bad)" '
        'stroke-dasharray="3 2"/>',
    ]
    for name, ratio in ratios.items():
        marks += _bar(ratio, SHOWN[name], matters)
    return svg(words, WIDTH, HEIGHT, marks)


def _bar(ratio: Ratio, y: int, matters: float) -> Iterator[str]:
    colour = {PASS: "var(--good)", FAIL: "var(--bad)"}.get(word(ratio, matters), "var(--idle)")
    ends = f'x1="{_x(ratio.low):.1f}" x2="{_x(ratio.high):.1f}" y1="{y}" y2="{y}"'
    yield f'<line {ends} stroke="{colour}" stroke-width="3"/>'
    yield f'<circle cx="{_x(ratio.value):.1f}" cy="{y}" r="3.5" fill="{colour}"/>'


def _x(ratio: float) -> float:
    inside = min(max(ratio, LOWEST), HIGHEST)
    return MARGIN + (WIDTH - 2 * MARGIN) * math.log(inside / LOWEST) / math.log(HIGHEST / LOWEST)
