"""Writes conformance/docs/coverage.md: which observable each law asks for, in which phase and under which settings.

    python tests/support/coverage.py

Every law of trainers runs with a right trainer that records its calls, so the page shows what the laws really do.
`tests/pages/test_coverage.py` fails if a cell of the contract has no law.
"""

import collections
from pathlib import Path
from typing import Any

import numpy as np
from sftref.conformance.adapter import Arrays, Case, HostBatch, StepResult
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trainers.numpy_trainer import NumpyTrainer
from sftref.conformance.faults.trial import run_law

PAGE = Path(__file__).parents[2] / "conformance" / "docs" / "coverage.md"
OBSERVABLES = (
    "loss", "learning rate", "gradient", "moments", "parameters", "logits", "scores", "data order", "replicas",
)  # fmt: skip
PHASES = (
    "first update", "later updates", "after the warm-up", "last update", "past the end", "after an evaluation",
    "after a restart",
)  # fmt: skip
Cell = tuple[str, str]  # an observable, and a phase or a value of a setting
Laws = dict[Cell, set[str]]


class Recorder(NumpyTrainer):
    """The right trainer, which records what it is asked for: observable, phase and settings."""

    def __init__(self) -> None:
        self.cells: set[Cell] = set()
        self.evaluated = self.restarted = False

    def note(self, *observables: str, batch: HostBatch | None = None) -> None:
        case, done = self.case, self.t
        batch = self.batch if batch is None else batch
        phases = {
            "first update": done <= 1, "later updates": done > 1, "after the warm-up": done > case.warmup_steps,
            "last update": done == case.total_steps, "past the end": done > case.total_steps,
            "after an evaluation": self.evaluated and done > 0, "after a restart": self.restarted,
        }  # fmt: skip
        values = [phase for phase, now in phases.items() if now] + settings_of(case, self.n, batch)
        self.cells |= {(observable, value) for observable in observables for value in values}

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.evaluated = self.restarted = False
        self.batch: HostBatch | None = None

    def step(self, batch: HostBatch) -> StepResult:
        result, self.batch = super().step(batch), batch
        self.note("loss", "learning rate", batch=batch)
        return result

    def gradients(self, batch: HostBatch) -> Arrays:
        self.t += 1  # the gradient of the update that would come next
        self.note("gradient", batch=batch)
        self.t -= 1
        return super().gradients(batch)

    def evaluate(self, batch: HostBatch) -> Any:
        self.note("logits", batch=batch)
        self.evaluated = True
        return super().evaluate(batch)

    def score(self, batches: Any) -> dict[str, float]:
        self.note("scores", batch=batches[0])
        return super().score(batches)

    def params(self) -> Arrays:
        self.note("parameters")
        return super().params()

    def moments(self) -> tuple[Arrays, Arrays]:
        self.note("moments")
        return super().moments()

    def replicas(self) -> list[Arrays]:
        self.note("replicas")
        return super().replicas()

    def epoch(self, examples: int, batch_size: int, number: int) -> Any:
        self.note("data order")
        return super().epoch(examples, batch_size, number)

    def restore(self, path: Path) -> None:
        super().restore(path)
        self.restarted = True


def settings_of(case: Case, n: int, batch: HostBatch | None) -> list[str]:
    """The values of settings that a call has, mostly in the words of `oracle/settings.py`."""
    values = [
        "regression" if case.regression else f"{case.num_labels} labels", case.precision,
        "no clipping" if case.clip_norm is None else "clipping", "one device" if n == 1 else "several devices",
        "micro-batches" if case.accumulate > 1 else "one batch", "packed rows" if case.pack else "padded rows",
        "dropout" if case.dropout else "no dropout", "large epsilon" if case.eps >= 0.1 else "small epsilon",
    ]  # fmt: skip
    if batch is not None:
        real = batch.weights > 0
        values.append("full batches" if real.all() else "ragged batches")
        values.append("equal weights" if len(np.unique(batch.weights[real])) == 1 else "unequal weights")
    return values


def cells(level: str, *, only: tuple[str, ...] = ()) -> Laws:
    """Cell -> the laws that ask for it at a level; `only` selects laws."""
    asked: Laws = collections.defaultdict(set)
    for law in laws().values():
        if law.per != "subject" or law.rung_name in ("processes", "performance") or not law.runs_at(level, None):
            continue
        if not only or law.id in only:
            recorder = Recorder()
            settings = Settings(level=level, devices=8)
            run_law(law, {"subject": recorder, "against": NumpyTrainer(), "devices": list(range(8))}, settings)
            for cell in recorder.cells:
                asked[cell].add(law.id)
    return asked


def table(title: str, columns: list[str], quick: Laws, standard: Laws) -> list[str]:
    """A table of observables and columns; a cell has the number of laws at `quick` and at `standard`."""
    lines = [f"## {title}", "", f"| | {' | '.join(OBSERVABLES)} |", f"|---|{'---|' * len(OBSERVABLES)}"]
    for column in columns:
        counts = [(len(quick.get((name, column), ())), len(standard.get((name, column), ()))) for name in OBSERVABLES]
        lines.append(f"| {column} | {' | '.join(f'{a}, {b}' if b else '-' for a, b in counts)} |")
    return [*lines, ""]


def page(quick: Laws, standard: Laws) -> str:
    """The page as Markdown."""
    values = sorted({value for _, value in standard} - set(PHASES))
    return "\n".join([
        "# What the laws of trainers ask for",
        "",
        "This page is generated (`tests/support/coverage.py`): every law of trainers, except those of rungs 9 and",
        "10, ran with a trainer that records its calls.",
        "A cell has the number of laws that ask for the observable, at `quick` and at `standard`; `-` is none.",
        "Level `full` has these laws too, with more values and with every triple of settings, and the laws of rung 10.",
        "",
        *table("By phase", list(PHASES), quick, standard),
        *table("By setting", values, quick, standard),
        "## Pairs of settings",
        "",
        "The rows of `oracle/settings.csv` contain every pair of values at `standard` and every triple at `full`, as a",
        "test checks; `training.settings` asks for all observables in each row, except two: scores need two labels,",
        "and gradients are asked for in the rows that say so (each value occurs in one of them).",
        "A trainer that does not claim a setting runs these rows without it, so all pairs of what it claims remain.",
        "",
        "## What no law covers",
        "",
        "Loss scaling for float16, layer-wise learning rates, frozen layers, and a vocabulary that is sharded: the",
        "adapter interface has no words for them. Examples have at most 72 tokens, and a model at most two layers.",
        "",
    ])  # fmt: skip


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(cells("quick"), cells("standard")), encoding="utf-8")


if __name__ == "__main__":
    import jax

    jax.config.update("jax_platforms", "cpu")
    main()
