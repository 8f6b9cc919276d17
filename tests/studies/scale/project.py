"""Measured rates, published figures -> README.md and scale.png beside this file: the model's check and projection.

python tests/studies/scale/measure.py scale.json
python tests/studies/scale/project.py scale.json
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from model import BASE, SMALL, Machine

HERE = Path(__file__).parent
LENGTH = 128
DEVICES = tuple(2**k for k in range(3, 13))
BATCHES = (4096, 16384, 65536)
ENOUGH = 0.8
PAYS = 0.5


def machines() -> list[Machine]:
    """The machines in `machines.toml`."""
    entries = tomllib.loads((HERE / "machines.toml").read_text(encoding="utf-8"))["machine"]
    return [Machine(**entry | {"sources": tuple(entry["sources"])}) for entry in entries]


def fitted(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """(a, b) of seconds = a + b * bytes, fitted by least squares of relative errors."""
    size, seconds = (np.array(column, float) for column in zip(*points, strict=True))
    design = np.stack([np.ones_like(size), size], axis=1) / seconds[:, None]
    a, b = np.linalg.lstsq(design, np.ones_like(seconds), rcond=None)[0]
    return max(float(a), 0.0), max(float(b), 0.0)


def checked(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """For each layout: the measured update, the model's prediction, and the difference."""
    [alone] = [entry for entry in measured["layouts"] if entry["processes"] == entry["devices"] == 1]
    found = []
    for entry in measured["layouts"]:
        n = entry["processes"] * entry["devices"]
        a, b = fitted(entry["reduce"]) if n > 1 else (0.0, 0.0)
        messages = SMALL.leaves if entry["processes"] > 1 else 1
        sent = messages * a + b * 4 * SMALL.parameters if n > 1 else 0.0
        said = n * alone["update"] + sent
        layout = f"{entry['processes']} x {entry['devices']}"
        found.append({"layout": layout, "measured": entry["update"], "model": said, "sent": sent})
    return found


def largest_that_pays(machine: Machine, batch: int, *, overlap: bool) -> int:
    """The largest number in `DEVICES` at which a batch of `batch` rows has at least the efficiency `PAYS`."""
    found = 0
    for n in DEVICES:
        rows = batch // n
        if rows and machine.efficiency(BASE, rows * LENGTH, LENGTH, n, overlap=overlap) >= PAYS:
            found = n
    return found


def _span(machine: Machine, batch: int) -> str:
    return " to ".join(str(largest_that_pays(machine, batch, overlap=overlap)) for overlap in (False, True))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of these rows."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(measured: dict[str, Any]) -> str:
    """The text of README.md."""
    found = checked(measured)
    check = [
        [
            e["layout"],
            *(f"{e[name]:.3f}" for name in ("measured", "model", "sent")),
            f"{e['model'] / e['measured']:.2f}",
        ]
        for e in found
    ]
    needed = [
        [machine.name, *(str(machine.tokens_for(ENOUGH, BASE, LENGTH, n) // LENGTH) for n in (8, 64, 512, 4096))]
        for machine in machines()
    ]
    pays = [[machine.name, *(_span(machine, batch) for batch in BATCHES)] for machine in machines()]
    sources = "\n".join(f"- {machine.name}: {'; '.join(machine.sources)}" for machine in machines())
    return f"""# Scale, on paper

**A projection, not a measurement**: nothing below "Projected" was run on an accelerator. `model.py` has the formulas,
`machines.toml` the published figures and their sources; `project.py` made this page.

## Checked here

The model was checked on a BERT of {SMALL.layers} layers of width {SMALL.width}, with 8 rows of 64 tokens a device. All
devices share {measured["cores"]} cores, so N devices have N times the work of one. The model adds N times the update
of one device and the time of the all-reduce, which was measured separately and fitted as a + b bytes. Between processes
`a` counts {SMALL.leaves} times, because these times are older than commit 594cfe2: gloo then sent each leaf of the
gradient separately. Since that commit, the leaves of one dtype are one message. Times are medians in seconds:

{table(("processes x devices", "measured", "model", "all-reduce in the model", "model / measured"), check)}

The model is a sum of measurements. It leaves out that threads wait for each other on two cores.

## Projected

The projection is for bert-base ({BASE.parameters / 1e6:.0f} million parameters, float32 gradients of
{4 * BASE.parameters / 1e6:.0f} MB) with {LENGTH} tokens a row. Products in bfloat16 are assumed to run at
{machines()[0].share:.0%} of the published peak; [on CPUs](../peers/SPEED.md) the trainers reach 39 to 56 %.

This table has the rows a device that give an efficiency of {ENOUGH:.0%} without overlap, by the number of devices:

{table(("", "8", "64", "512", "4,096"), needed)}

This table has the largest number of devices, up to 4,096, on which a batch of so many rows in all still runs at
{PAYS:.0%} of the efficiency of one device. The first number is without overlap; for the second, the backward pass hides
as much of the all-reduce as it can. 0 means fewer than 8.

{table(("", *(f"{batch:,} rows" for batch in BATCHES)), pays)}

![Efficiency by devices, for three batches](scale.png)

Sources:

{sources}
"""


def draw(path: Path) -> None:
    """Draw efficiency by devices for each batch and machine: a band from no overlap to the most possible."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(BATCHES), figsize=(12, 3.8), sharey=True, layout="constrained")
    for axis, batch in zip(axes, BATCHES, strict=True):
        for machine in machines():
            some = [n for n in DEVICES if batch // n]
            band = [
                [machine.efficiency(BASE, batch // n * LENGTH, LENGTH, n, overlap=overlap) for n in some]
                for overlap in (False, True)
            ]
            [line] = axis.plot(some, band[0], label=machine.name)
            axis.fill_between(some, *band, color=line.get_color(), alpha=0.15)
        axis.axhline(PAYS, color="grey", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", xlabel="devices", title=f"{batch:,} rows of {LENGTH} in all", ylim=(0, 1.02))
        axis.set_xticks(DEVICES[::2], [f"{n:,}" for n in DEVICES[::2]])
        axis.minorticks_off()
    axes[0].set_ylabel("efficiency (projected)")
    axes[0].legend(fontsize=8)
    figure.suptitle("bert-base, data parallel: a projection from published figures, not a measurement", fontsize=11)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", type=Path, metavar="FILE.json", help="the file that measure.py wrote")
    given = parser.parse_args()
    measured = json.loads(given.measured.read_text(encoding="utf-8"))
    (HERE / "README.md").write_text(page(measured), encoding="utf-8")
    draw(HERE / "scale.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
