"""Verdicts -> lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .judging.verdict import Judged, in_words

GLYPHS = {"PASS": "✓", "RECORDED": "·", "AMBIGUOUS": "?", "FAIL": "✗", "WRONG": "✗"}
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (0.0, "ns"))
RATES = {
    "flops": ("GFLOP/s", 1e9),
    "bytes": ("GB/s", 1e9),
    "bus_bytes": ("GB/s bus", 1e9),
    "examples": ("examples/s", 1.0),
}


def duration(seconds: float) -> str:
    """Seconds with the unit that suits them."""
    size, unit = next((size, unit) for size, unit in UNITS if seconds >= size)
    return f"{seconds / (size or 1e-9):.3g} {unit}"


def rates(found: Mapping[str, float]) -> str:
    """What was done in a second."""
    return ", ".join(f"{found[name] / unit:,.3g} {said}" for name, (said, unit) in RATES.items() if name in found)


def table(judged: Sequence[Judged], widest: int) -> Iterator[str]:
    """A line for each benchmark, whose ids are at most so wide, and one more for each reason."""
    for j in judged:
        took = "" if j.measured is None else duration(j.measured.seconds["wall"])
        done = "" if j.measured is None else rates(j.measured.rates)
        compared = "; ".join(in_words(series, ratio) for series, ratio in j.ratios.items() if series in ("wall", "cpu"))
        yield f"{GLYPHS[j.word]} {j.id:<{widest}}  {took:>8}  {done:<34}  {j.word}  {compared}".rstrip()
        if j.message and j.word in ("FAIL", "WRONG"):
            yield f"    {j.message}"
