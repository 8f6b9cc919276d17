"""Numbers of a report -> pictures in SVG, each with a description in words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.sections import escape, svg

# The axis of errors: the powers of ten at its ends, and its size in pixels.
FIRST, LAST = -17.0, 3.0
WIDTH, HEIGHT, EDGE = 320, 26, 6
COLOURS = ("var(--mark)", "var(--bad)", "var(--good)", "var(--idle)", "var(--quiet)")
# A colour of the page by its name, and an opacity.
Colour = tuple[str, float]


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


def cells(
    places: Iterable[tuple[int, int, Colour | None]], size: int, left: float = 0, top: float | None = None
) -> list[str]:
    """Squares of a grid, as one path for each colour: (column, row, (name of a colour, opacity)).

    Args:
        places: the squares; those without a colour are left out.
        size: the width of a square, with its gap of one pixel.
        left: where the grid begins.
        top: the same for its rows; None: as `left`.
    """
    paths: dict[Colour, list[str]] = {}
    down = left if top is None else top
    for column, row, colour in places:
        if colour is not None:
            move = f"M{left + column * size:g} {down + row * size:g}h{size - 1}v{size - 1}h{1 - size}z"
            paths.setdefault(colour, []).append(move)
    return [f'<path d="{"".join(moves)}" fill="var(--{name})" opacity="{opacity:g}"/>'
            for (name, opacity), moves in sorted(paths.items())]  # fmt: skip


def grid(words: str, titles: Sequence[str], colours: Sequence[Sequence[Colour | None]], across: int = 32) -> str:
    """A grid below each title, with a square for each of its colours, in rows of `across`."""
    size, marks, top = 12, list[str](), 0
    for title, row in zip(titles, colours, strict=True):
        marks.append(f'<text x="0" y="{top + 14}">{escape(title)}</text>')
        marks += cells([(i % across, i // across, colour) for i, colour in enumerate(row)], size, 0, top + 20)
        top += 26 + size * -(-len(row) // across)
    return svg(words, across * size, top, marks)


def ratios(words: str, points: Sequence[tuple[int, float, float, float, bool]], places: int) -> str:
    """A dot and a bar for each (place, ratio, low, high, whether it is marked), on an axis from 0.8 to 1.5."""
    width, height, left, lowest, highest = 384, 74, 30, 0.8, 1.5

    def y(ratio: float) -> float:
        inside = min(max(ratio, lowest), highest)
        return 18 + (height - 22) * math.log(highest / inside) / math.log(highest / lowest)

    marks = [f'<text x="{left}" y="11">{escape(words)}</text>', f'<text x="0" y="{y(1) + 4:.1f}">1.0</text>',
             f'<path d="M{left} {y(1):.1f}H{width}" stroke="var(--line)"/>']  # fmt: skip
    for marked, colour in ((False, "var(--mark)"), (True, "var(--bad)")):
        mine = [(left + (width - left) * (at + 0.5) / places, *map(y, more))
                for at, *more, bad in points if bad is marked]  # fmt: skip
        bars = "".join(f"M{x:.1f} {high:.1f}V{low:.1f}" for x, _, low, high in mine)
        dots = "".join(f"M{x:.1f} {middle:.1f}h0" for x, middle, _, _ in mine)
        if mine:
            marks.append(f'<path d="{bars}" stroke="{colour}"/>')
            marks.append(f'<path d="{dots}" stroke="{colour}" stroke-width="5" stroke-linecap="round"/>')
    return svg(words, width, height, marks)
