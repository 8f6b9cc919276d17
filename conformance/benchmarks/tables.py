"""Verdicts -> lines for a terminal."""

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
    """Seconds with a suitable unit."""
    size, unit = next((size, unit) for size, unit in UNITS if seconds >= size)
    return f"{seconds / (size or 1e-9):.3g} {unit}"


def rates(measured: Mapping[str, float]) -> str:
    """Amounts in a second, with their units."""
    return ", ".join(f"{measured[name] / size:,.3g} {unit}" for name, (unit, size) in RATES.items() if name in measured)


def table(judged: Sequence[Judged], widest: int) -> Iterator[str]:
    """A line for each benchmark, with ids padded to `widest`, and one more for the reason of a failure."""
    for j in judged:
        seconds = "" if j.measured is None else duration(j.measured.seconds["wall"])
        rate = "" if j.measured is None else rates(j.measured.rates)
        compared = "; ".join(in_words(series, ratio) for series, ratio in j.ratios.items() if series in ("wall", "cpu"))
        yield f"{GLYPHS[j.word]} {j.id:<{widest}}  {seconds:>8}  {rate:<34}  {j.word}  {compared}".rstrip()
        if j.message and j.word in ("FAIL", "WRONG"):
            yield f"    {j.message}"
