"""How the cost of an update grows with batch, length, width, layers and devices: measured, fitted, drawn.

    python -m sftref.conformance.benchmarks.growth --adapter sftref.conformance.adapters.sftref:mesh --out growth

One thing is varied at a time around the middle of each axis. A straight line goes through the first three points, and
beside every further one stands how far it lies from that line: where a cost leaves it, something else has set in
(attention's square, a cache that no longer holds, devices that share cores). Times are medians over rounds, each
divided by that of the calibration kernel beside it and multiplied by the kernel's median over the whole run, so that a
machine that changes its speed meanwhile bends no line. Memory is what the compiled update asks for beside its
arguments; nothing is run for it.
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import AdapterError, Case
from ..core.settings import Settings, start_jax
from ..oracle.cases import start_params
from ..oracle.draws import batch_of
from .measuring.bench import ENDLESS, SIZES, Bench
from .measuring.kernels import kernels
from .measuring.rounds import Timer
from .measuring.timing import Prepared, repeats
from .page import STYLE

# Values of each axis; the others stay at those of the size `small`.
AXES = {
    "batch": (8, 16, 32, 64, 128),
    "length": (16, 32, 64, 128, 256),
    "width": (64, 128, 256, 384, 512),
    "layers": (1, 2, 3, 4, 6, 8),
    "devices": (1, 2, 3, 4, 6, 8),
}
HEAD = 64
ROUNDS = 15
# Points through which the line goes.
STRAIGHT = 3
WIDTH, HEIGHT, EDGE = 420, 240, 44


@dataclass(frozen=True)
class Sample:
    """One size as it was measured.

    Attributes:
        axis: what was varied.
        value: on that axis.
        relative: an update's time over the kernel's beside it, the median of rounds.
        kernel: seconds of the kernel, the median of rounds.
        memory: bytes beside its arguments; None where nobody says.
    """

    axis: str
    value: int
    relative: float
    kernel: float
    memory: float | None


@dataclass(frozen=True)
class Point:
    """One size: its value on the axis, seconds of an update, and bytes of memory beside its arguments, if known."""

    value: int
    seconds: float
    memory: float | None


def gathered(samples: Sequence[Sample]) -> dict[str, list[Point]]:
    """By axis, in seconds of a machine that all the while runs as fast as the kernel's median says."""
    kernel = statistics.median(sample.kernel for sample in samples)
    found: dict[str, list[Point]] = {}
    for sample in samples:
        found.setdefault(sample.axis, []).append(Point(sample.value, sample.relative * kernel, sample.memory))
    return found


@dataclass(frozen=True)
class Line:
    """A straight line through the first points, and how far each point lies from it, as a share.

    What is divided among n devices is a line over 1/n: `power` is then -1.
    """

    constant: float
    slope: float
    power: int
    beyond: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float], costs: Sequence[float], power: int = 1) -> Line:
        """Least squares of relative errors, through the first `STRAIGHT` points."""
        x, y = np.asarray(values, float) ** power, np.asarray(costs, float)
        first = slice(STRAIGHT)
        design = np.stack([np.ones_like(x), x], axis=1)
        constant, slope = np.linalg.lstsq(design[first] / y[first, None], np.ones(STRAIGHT), rcond=None)[0]
        return cls(float(constant), float(slope), power, tuple((y / (constant + slope * x) - 1).tolist()))

    def at(self, value: float) -> float:
        """Its cost there."""
        return self.constant + self.slope * float(value) ** self.power


def sized(axis: str, value: int) -> tuple[Case, int, int | None]:
    """The case, its rows, and the number of devices (None: all)."""
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
    """All sizes, as they are measured."""
    trainer = bench.trainer(label)
    kernel = kernels(bench.devices[0])["matmul"]
    most = bench.widest(label)
    # Simulated devices share the cores: what they cost would hide what is varied.
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

            timer = Timer(Prepared(step), kernel, repeats(step))
            for _ in range(ROUNDS):
                timer.before()
                timer.during()
            pairs = timer.series(cpu=False)["wall"]
            costs = trainer.costs(batch) if "costs" in trainer.capabilities else {}
            yield Sample(
                axis, value, statistics.median(a / k for a, k in pairs), statistics.median(k for _, k in pairs),
                costs.get("temporary"),
            )  # fmt: skip


def drawn(axis: str, points: Sequence[Point]) -> str:
    """An axis as pictures: of time and, where it is known, of memory."""
    values, memory = [point.value for point in points], _mebibytes(points)
    took = _picture(axis, values, [point.seconds * 1e3 for point in points], "ms")
    return took + (_picture(axis, values, memory, "MiB", _power(axis)) if memory else "")


def _share(beyond: float) -> str:
    return f"{round(beyond, 2) + 0.0:+.0%}"  # no -0 %


def _power(axis: str) -> int:
    """Memory of a device is shared among devices, and grows with all else."""
    return -1 if axis == "devices" else 1


def _picture(axis: str, values: Sequence[int], costs: Sequence[float], unit: str, power: int = 1) -> str:
    """The points, the line through the first of them, and the share beyond it at the last."""
    line = Line.of(values, costs, power)
    right, top = max(values), max(*costs, *map(line.at, values))

    def at(x: float, y: float) -> str:
        return (
            f"{EDGE + (WIDTH - 2 * EDGE) * x / right:.1f},{HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * max(y, 0) / top:.1f}"
        )

    dots = "".join(
        f'<circle cx="{at(x, y).split(",")[0]}" cy="{at(x, y).split(",")[1]}" r="4" fill="var(--good)"/>'
        f'<text x="{at(x, y).split(",")[0]}" y="{HEIGHT - EDGE + 14}" text-anchor="middle">{x}</text>'
        for x, y in zip(values, costs, strict=True)
    )
    ends = " ".join(at(x, line.at(x)) for x in np.linspace(min(values), right, 40))
    said = f"{line.constant:.2f} {unit} + {line.slope:.3g} {unit} {'x' if power == 1 else '/'} {axis}"
    said += f"; at {right}: {_share(line.beyond[-1])} from the line"
    return (
        f'<figure><svg role="img" aria-label="{html.escape(said)}" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}">'
        f'<path d="M{EDGE} {EDGE} V{HEIGHT - EDGE} H{WIDTH - EDGE}" fill="none" stroke="var(--line)"/>'
        f'<polyline points="{ends}" fill="none" stroke="var(--quiet)" stroke-dasharray="4 3"/>{dots}'
        f'<text x="{EDGE}" y="{EDGE - 8}">{top:.1f} {unit}</text><text x="{WIDTH - EDGE}" y="{HEIGHT - 8}" '
        f'text-anchor="end">{axis}</text></svg><figcaption>{html.escape(said)}</figcaption></figure>'
    )


def table(axis: str, points: Sequence[Point]) -> Iterator[str]:
    """An axis in Markdown."""
    took = [point.seconds * 1e3 for point in points]
    columns = [[str(point.value) for point in points], *_columns(points, took, ".2f")]
    heads = [axis, "ms a step", "from the line"]
    memory = _mebibytes(points)
    if memory:
        columns += _columns(points, memory, ".1f", _power(axis))
        heads += ["MiB beside its arguments", "from the line"]
    for cells in (heads, ["---"] * len(heads), *zip(*columns, strict=True)):
        yield f"| {' | '.join(cells)} |"


def _columns(points: Sequence[Point], costs: Sequence[float], form: str, power: int = 1) -> list[list[str]]:
    line = Line.of([point.value for point in points], costs, power)
    return [[f"{cost:{form}}" for cost in costs], [_share(beyond) for beyond in line.beyond]]


def _mebibytes(points: Sequence[Point]) -> list[float]:
    """Of each point; empty where one does not say."""
    known = [point.memory / 2**20 for point in points if point.memory]
    return known if len(known) == len(points) else []


def page(found: Mapping[str, Sequence[Point]], title: str) -> str:
    """All axes on one page."""
    pictures = "\n".join(f"<h2>{axis}</h2>{drawn(axis, points)}" for axis, points in found.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><title>{html.escape(title)}</title><style>{STYLE}</style></head>'
        f"<body><h1>{html.escape(title)}</h1>{pictures}</body></html>\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write `growth.json` and `growth.html`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default="sftref.conformance.adapters.sftref:mesh", metavar="MODULE:FACTORY")
    parser.add_argument("--axis", action="append", choices=AXES, help="default: all")
    parser.add_argument("--out", type=Path, default=Path("sftref-bench"), metavar="DIR")
    given = parser.parse_args(arguments)
    try:
        settings = Settings(adapters=(given.adapter,))
        start_jax(settings)
        settings.check_adapters()
    except (AdapterError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    import jax

    (label,) = settings.subjects
    bench = Bench(jax.devices(), settings.subjects, "small", 0)
    samples = []
    for sample in measured(bench, label, given.axis or list(AXES)):
        samples.append(sample)
        took = sample.relative * sample.kernel
        print(f"{sample.axis} {sample.value}: {took * 1e3:.2f} ms", file=sys.stderr, flush=True)
    found = {axis: kept for axis, kept in gathered(samples).items() if len(kept) >= STRAIGHT} if samples else {}
    if not found:
        print(
            f"--axis {' '.join(given.axis)}: {label} has fewer than {STRAIGHT} points on it, as it uses "
            f"{bench.widest(label)} of {len(bench.devices)} devices; a line needs {STRAIGHT}",
            file=sys.stderr,
        )
        return 2
    print("\n\n".join("\n".join(table(axis, points)) for axis, points in found.items()))
    given.out.mkdir(parents=True, exist_ok=True)
    content = {axis: [dataclasses.asdict(p) for p in points] for axis, points in found.items()}
    (given.out / "growth.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    title = f"Cost of an update: {label}, {len(bench.devices)} x {bench.devices[0].device_kind}"
    (given.out / "growth.html").write_text(page(found, title), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
