"""Numbers of a report -> pictures in SVG, each with a description in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.sections import escape, svg

# The axis of errors: the powers of ten at its ends, and its size in pixels.
FIRST, LAST = -17.0, 3.0
WIDTH, HEIGHT, EDGE = 320, 26, 6
COLOURS = ("var(--mark)", "var(--bad)", "var(--good)", "var(--idle)", "var(--quiet)")


def scale(check: Mapping[str, Any]) -> str:
    """A check's error, noise, bound, floor and control on one logarithmic axis; empty without a bound."""
    bound, error = check["bound"], check["measured"]
    if not bound or error is None:
        return ""
    floor = min((float(f["all"]) for f in check["facts"].get("floor", {}).values() if f.get("all")), default=None)
    values = {"error": error, "noise": check["noise"], "bound": bound, "floor": floor, "control": check["control"]}
    words = ", ".join(f"{name} {value:.2g}" for name, value in values.items() if value is not None)
    y, at = HEIGHT / 2, _x(bound)
    marks = [
        f'<path d="M{EDGE} {y} H{WIDTH - EDGE}" stroke="var(--line)"/>',
        f'<rect x="{at:.1f}" y="{y - 7}" width="{WIDTH - EDGE - at:.1f}" height="14" fill="var(--bad)" opacity=".15"/>',
        f'<path d="M{at:.1f} {y - 9} v18" stroke="var(--bad)" stroke-width="2"/>',
    ]
    if check["noise"]:
        marks.append(f'<path d="M{_x(check["noise"]):.1f} {y - 6} v12" stroke="var(--quiet)" stroke-dasharray="2 2"/>')
    if floor:
        marks.append(f'<path d="M{_x(floor):.1f} {y + 1} l-4 8 h8 z" fill="var(--idle)"/>')
    if check["control"]:
        marks.append(f'<path d="M{_x(check["control"]) - 4:.1f} {y - 4} l8 8 m0 -8 l-8 8" stroke="var(--quiet)"/>')
    colour = "var(--bad)" if error > bound else "var(--good)"
    marks.append(f'<circle cx="{_x(error):.1f}" cy="{y}" r="4.5" fill="{colour}"/>')
    return svg(words, WIDTH, HEIGHT, marks)


def _x(value: float) -> float:
    decade = math.log10(value) if value > 0 else FIRST
    inside = min(max(decade, FIRST), LAST)
    return EDGE + (WIDTH - 2 * EDGE) * (inside - FIRST) / (LAST - FIRST)


def curves(lines: Mapping[str, Sequence[float]], what: str, width: int = 640, height: int = 260) -> str:
    """A chart of values over steps, with one line and one entry of the legend for each name."""
    every = [value for line in lines.values() for value in line if math.isfinite(value)]
    if not every:
        return ""
    left, bottom, top = 52, 26, 12
    low, high = min(every), max(every)
    span = (high - low) or 1.0
    most = max(len(line) for line in lines.values())

    def at(step: int, value: float) -> str:
        x = left + (width - left - 8) * step / max(most - 1, 1)
        return f"{x:.1f},{top + (height - top - bottom) * (high - value) / span:.1f}"

    marks = []
    for number, (name, line) in enumerate(lines.items()):
        points = " ".join(at(step, value) for step, value in enumerate(line) if math.isfinite(value))
        # Earlier lines are wider, so that identical lines are all visible.
        wide = 1.5 + 2.5 * (len(lines) - 1 - number)
        colour = COLOURS[number % len(COLOURS)]
        marks.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{wide:g}"/>')
        x = left + 90 * number
        marks.append(f'<path d="M{x} {height - 7} h18" stroke="{colour}" stroke-width="{wide:g}"/>')
        marks.append(f'<text x="{x + 22}" y="{height - 3}">{escape(name)}</text>')
    marks.append(f'<text x="4" y="{top + 8}">{high:.3f}</text><text x="4" y="{height - bottom}">{low:.3f}</text>')
    marks.append(f'<text x="{width - 70}" y="{height - 3}">{most} steps</text>')
    return svg(f"{what}: {', '.join(lines)}, {most} steps, {high:.3f} to {low:.3f}", width, height, marks)


def matrix(faults: Sequence[Mapping[str, Any]], cell: int = 14) -> str:
    """A grid of seeded faults by laws: filled where a law saw the fault, with a red edge where a law missed it."""
    laws = sorted({law for fault in faults for law in (*fault["expected"], *fault["seen_by"])})
    if not laws:
        return ""
    left, top = 230, 150
    marks = []
    for column, law in enumerate(laws):
        x = left + column * cell + cell / 2
        marks.append(f'<text transform="rotate(-60 {x} {top - 6})" x="{x}" y="{top - 6}">{escape(law)}</text>')
    for row, fault in enumerate(faults):
        y = top + row * cell
        marks.append(f'<text x="{left - 6}" y="{y + cell - 4}" text-anchor="end">{escape(fault["id"][:36])}</text>')
        for column, law in enumerate(laws):
            seen = law in fault["seen_by"]
            missed = law in fault["expected"] and not seen and fault["status"] == "survived"
            fill, edge = "var(--good)" if seen else "none", "var(--bad)" if missed else "var(--line)"
            shape = f'x="{left + column * cell}" y="{y}" width="{cell - 2}" height="{cell - 2}"'
            marks.append(f'<rect {shape} fill="{fill}" stroke="{edge}"/>')
    killed = sum(fault["status"] == "killed" for fault in faults)
    words = f"{killed} of {len(faults)} seeded faults were seen, by {len(laws)} laws"
    return svg(words, left + len(laws) * cell + 80, top + len(faults) * cell + 4, marks)
