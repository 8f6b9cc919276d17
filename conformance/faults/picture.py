"""The kill matrix as a picture: a column for each law, a row for each fault, a mark where the law sees the fault."""

from pathlib import Path
from typing import Any

from ..core.law import RUNGS, laws

# Inches of a cell, and colours that do not depend on telling red from green.
CELL, SEEN, MUST, MISSED, IDLE = 0.14, "#4c78a8", "#1b3a5c", "#d62728", "#eeeeee"


def draw(content: dict[str, Any], file: Path) -> bool:
    """Write the picture if matplotlib is installed and there is a fault; returns whether it did."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.colors import to_rgb
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError:
        return False
    columns, rows = list(laws()), content["faults"]
    if not rows:
        return False
    colours = [[to_rgb(_colour(row, law)) for law in columns] for row in rows]
    figure = Figure(figsize=(CELL * len(columns) + 4, CELL * len(rows) + 3))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(colours, aspect="equal", interpolation="none")
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=6)
    axes.set_yticks(range(len(rows)), [row["id"] for row in rows], fontsize=6)
    axes.tick_params(length=0)
    axes.set_xticks([x - 0.5 for x in range(1, len(columns))], minor=True)
    axes.set_yticks([y - 0.5 for y in range(1, len(rows))], minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    for x in range(1, len(columns)):
        if laws()[columns[x]].rung != laws()[columns[x - 1]].rung:
            axes.axvline(x - 0.5, color="black", linewidth=0.6)
    for rung, name in enumerate(RUNGS):
        here = [x for x, law in enumerate(columns) if laws()[law].rung == rung]
        if here:
            axes.text(sum(here) / len(here), -1.2, f"{rung} {name}", fontsize=6, rotation=30, ha="left", va="bottom")
    labels = {MUST: "must see it, and does", SEEN: "sees it too", MISSED: "must see it, and does not", IDLE: "not run"}
    axes.legend(handles=[Patch(color=colour, label=label) for colour, label in labels.items()], fontsize=6,
                frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0))  # fmt: skip
    figure.savefig(file, dpi=150, bbox_inches="tight")
    return True


def _colour(row: dict[str, Any], law: str) -> str:
    status = row["laws"].get(law)
    if status in (None, "not_run"):
        return IDLE
    if law in row["expected"]:
        return MUST if status == "fail" else MISSED
    return SEEN if status == "fail" else "white"
