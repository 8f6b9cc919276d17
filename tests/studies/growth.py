"""Measures, fits and draws how the cost of an update grows with batch, length, width, layers and devices.

    python tests/studies/growth.py --adapter sftref.conformance.adapters.sftref:mesh --out growth

One quantity varies at a time. A straight line is fitted to the first three points. The distance of later points from
the line shows where another cost begins: attention's square, a full cache, devices that share cores. Times are medians
over rounds. Each is divided by the time of the calibration kernel beside it and multiplied by the kernel's median over
the whole run, so that a machine whose speed changes during the run does not bend a line. Memory is what the compiled
update needs beside its arguments, as reported by the compiler.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sftref.conformance.adapter import AdapterError, Case
from sftref.conformance.benchmarks.measuring.bench import ENDLESS, SIZES, Bench
from sftref.conformance.benchmarks.measuring.kernels import TRIES, kernels
from sftref.conformance.benchmarks.measuring.timing import repeats, rounded
from sftref.conformance.core.sections import Block, Figure, Row, Section, Table, as_html, escape, number, svg
from sftref.conformance.core.settings import Settings, start_jax
from sftref.conformance.oracle.cases import start_params
from sftref.conformance.oracle.draws import batch_of

# The values of each axis; all other quantities are those of the size `small`.
AXES = {
    "batch": (8, 16, 32, 64, 128),
    "length": (16, 32, 64, 128, 256),
    "width": (64, 128, 256, 384, 512),
    "layers": (1, 2, 3, 4, 6, 8),
    "devices": (1, 2, 3, 4, 6, 8),
}
HEAD = 64
ROUNDS = 15
# The number of points that the line is fitted to.
STRAIGHT = 3
WIDTH, HEIGHT, EDGE = 420, 240, 44


@dataclass(frozen=True)
class Sample:
    """The measurement of one size.

    Attributes:
        axis: the quantity that varies.
        value: its value.
        relative: an update's time divided by that of the kernel beside it, the median of rounds.
        kernel: seconds of the kernel, the median of rounds.
        memory: the update's bytes beside its arguments; None if the trainer does not report them.
    """

    axis: str
    value: int
    relative: float
    kernel: float
    memory: float | None


@dataclass(frozen=True)
class Point:
    """One size: its value on the axis, seconds of an update, and bytes of memory beside its arguments, or None."""

    value: int
    seconds: float
    memory: float | None


def gathered(samples: Sequence[Sample]) -> dict[str, list[Point]]:
    """Axis -> its points, in seconds of a machine on which the kernel always takes its median time."""
    kernel = statistics.median(sample.kernel for sample in samples)
    points: dict[str, list[Point]] = {}
    for sample in samples:
        points.setdefault(sample.axis, []).append(Point(sample.value, sample.relative * kernel, sample.memory))
    return points


@dataclass(frozen=True)
class Line:
    """A straight line through the first points, and the relative distance of each point from the line.

    A cost that is divided among n devices is linear in 1/n: `power` is then -1.
    """

    constant: float
    slope: float
    power: int
    beyond: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float], costs: Sequence[float], power: int = 1) -> Line:
        """The line with the least squares of relative errors at the first `STRAIGHT` points."""
        x, y = np.asarray(values, float) ** power, np.asarray(costs, float)
        first = slice(STRAIGHT)
        design = np.stack([np.ones_like(x), x], axis=1)
        constant, slope = np.linalg.lstsq(design[first] / y[first, None], np.ones(STRAIGHT), rcond=None)[0]
        return cls(float(constant), float(slope), power, tuple((y / (constant + slope * x) - 1).tolist()))

    def at(self, value: float) -> float:
        """The cost on the line at `value`."""
        return self.constant + self.slope * float(value) ** self.power


def sized(axis: str, value: int) -> tuple[Case, int, int | None]:
    """An axis and a value -> the case, its rows, and the number of devices (None: all)."""
    case, rows, _ = SIZES["small"]
    case = dataclasses.replace(case, total_steps=ENDLESS)
    if axis == "batch":
        return case, value, None
    if axis == "length":
        return dataclasses.replace(case, max_position_embeddings=value), rows, None
    if axis == "width":
        wide = {"hidden_size": value, "intermediate_size": 4 * value, "num_attention_heads": value // HEAD}
        return dataclasses.replace(case, **wide), rows, None  # type: ignore[arg-type]
    if axis == "layers":
        return dataclasses.replace(case, num_hidden_layers=value), rows, None
    return case, rows, value


def measured(bench: Bench, label: str, axes: Sequence[str]) -> Iterator[Sample]:
    """The samples of all sizes, one after the other."""
    trainer = bench.trainer(label)
    kernel = kernels(bench.devices[0])["matmul"]
    most = bench.widest(label)
    # One device on a CPU, because simulated devices share its cores and would hide the cost of the varied quantity.
    usual = 1 if bench.devices[0].platform == "cpu" else most
    dropout = "dropout" in trainer.capabilities
    for axis in axes:
        for value in AXES[axis]:
            case, rows, n = sized(axis, value)
            if (n or usual) > most:
                continue
            if not dropout:
                case = dataclasses.replace(case, hidden_dropout=0.0, attention_dropout=0.0, classifier_dropout=0.0)
            rng = bench.rng(axis)
            batch = batch_of(case, rng, rows=rows, longest=case.max_position_embeddings)
            trainer.start(case, start_params(case, rng), n or usual)

            def step(batch: Any = batch) -> Any:
                return trainer.step(batch)

            repeat, pairs = repeats(step), []
            for _ in range(ROUNDS):
                beside = min(rounded(kernel, 1).wall for _ in range(TRIES))
                pairs.append((rounded(step, repeat).wall, beside))
            costs = trainer.costs(batch) if "costs" in trainer.capabilities else {}
            yield Sample(
                axis, value, statistics.median(a / k for a, k in pairs), statistics.median(k for _, k in pairs),
                costs.get("temporary"),
            )  # fmt: skip


def section(axis: str, points: Sequence[Point]) -> Section:
    """The section of an axis: a picture of time, one of memory if that is known, and a table."""
    values = [point.value for point in points]
    # The memory of one device falls with the number of devices, and grows with every other quantity.
    memory = [point.memory / 2**20 for point in points if point.memory]
    series = [("ms", "ms a step", [point.seconds * 1e3 for point in points], 1, ".2f")]
    if len(memory) == len(points):
        series.append(("MiB", "MiB beside its arguments", memory, -1 if axis == "devices" else 1, ".1f"))
    blocks: list[Block] = []
    heads, columns = [axis], [[number(value, "d") for value in values]]
    for unit, name, costs, power, form in series:
        line = Line.of(values, costs, power)
        blocks.append(Figure(_picture(axis, values, costs, unit, line)))
        heads += [name, "from the line"]
        columns += [
            [number(cost, form) for cost in costs],
            [number(_rounded(beyond), "+.0%") for beyond in line.beyond],
        ]
    rows: list[Row] = [list(cells) for cells in zip(*columns, strict=True)]
    return Section(axis, [*blocks, Table(heads, rows)])


def _rounded(share: float) -> float:
    return round(share, 2) + 0.0  # no -0 %


def _picture(axis: str, values: Sequence[int], costs: Sequence[float], unit: str, line: Line) -> str:
    """A picture of the points and the line, with the distance of the last point from the line."""
    right, top = max(values), max(*costs, *map(line.at, values))

    def at(x: float, y: float) -> tuple[str, str]:
        height = (HEIGHT - 2 * EDGE) * max(y, 0) / top
        return f"{EDGE + (WIDTH - 2 * EDGE) * x / right:.1f}", f"{HEIGHT - EDGE - height:.1f}"

    ends = " ".join(",".join(at(x, line.at(x))) for x in np.linspace(min(values), right, 40))
    words = f"{line.constant:.2f} {unit} + {line.slope:.3g} {unit} {'x' if line.power == 1 else '/'} {axis}"
    words += f"; at {right}: {_rounded(line.beyond[-1]):+.0%} from the line"
    marks = [
        f'<path d="M{EDGE} {EDGE} V{HEIGHT - EDGE} H{WIDTH - EDGE}" fill="none" stroke="var(--line)"/>',
        f'<polyline points="{ends}" fill="none" stroke="var(--quiet)" stroke-dasharray="4 3"/>',
        f'<text x="{EDGE}" y="{EDGE - 8}">{top:.1f} {unit}</text>',
        f'<text x="{WIDTH - EDGE}" y="{HEIGHT - 8}" text-anchor="end">{axis}</text>',
    ]
    for value, cost in zip(values, costs, strict=True):
        x, y = at(value, cost)
        marks.append(f'<circle cx="{x}" cy="{y}" r="4" fill="var(--good)"/>')
        marks.append(f'<text x="{x}" y="{HEIGHT - EDGE + 14}" text-anchor="middle">{value}</text>')
    return f"<figure>{svg(words, WIDTH, HEIGHT, marks)}<figcaption>{escape(words)}</figcaption></figure>"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write `growth.json` and `growth.html`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default="sftref.conformance.adapters.sftref:mesh", metavar="MODULE:FACTORY")
    parser.add_argument("--axis", action="append", choices=AXES, help="axis to vary (default: all)")
    parser.add_argument("--out", type=Path, default=Path("sftref-bench"), metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        settings = Settings(adapters=(options.adapter,))
        start_jax(settings)
        settings.check_adapters()
    except (AdapterError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    import jax

    (label,) = settings.subjects
    bench = Bench(jax.devices(), settings.subjects, "small", 0)
    samples = []
    for sample in measured(bench, label, options.axis or list(AXES)):
        samples.append(sample)
        seconds = sample.relative * sample.kernel
        print(f"{sample.axis} {sample.value}: {seconds * 1e3:.2f} ms", file=sys.stderr, flush=True)
    axes = {axis: points for axis, points in gathered(samples).items() if len(points) >= STRAIGHT} if samples else {}
    if not axes:
        print(
            f"--axis {' '.join(options.axis)}: {label} has fewer than {STRAIGHT} points, as it uses "
            f"{bench.widest(label)} of {len(bench.devices)} devices; a line needs {STRAIGHT}",
            file=sys.stderr,
        )
        return 2
    sections = [section(axis, points) for axis, points in axes.items()]
    print("\n\n".join(part.markdown() for part in sections))
    options.out.mkdir(parents=True, exist_ok=True)
    content = {axis: [dataclasses.asdict(point) for point in points] for axis, points in axes.items()}
    (options.out / "growth.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    title = f"Cost of an update: {label}, {len(bench.devices)} x {bench.devices[0].device_kind}"
    page = as_html(title, f"<h1>{escape(title)}</h1>", sections)
    (options.out / "growth.html").write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
