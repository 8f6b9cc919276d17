"""Records of a run -> progress on the terminal, metrics.jsonl, summary.json and curves.png."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sftref.config import ConfigError, one_line

METRICS, SUMMARY = "metrics.jsonl", "summary.json"
# Seconds between two lines of progress where no bar is drawn.
EVERY = 10.0
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "transformers", "datasets", "orbax-checkpoint", "sftref")


class StepRecord(NamedTuple):
    """One update: its number from 1, mean loss, learning rate, examples, real tokens, seconds."""

    step: int
    loss: float
    learning_rate: float
    examples: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """The result of one pass over a split; `logits` are float [n, C], in the order of the split's examples."""

    split: str
    loss: float
    metrics: dict[str, float]
    logits: np.ndarray
    examples: int
    seconds: float


class Screen:
    """Progress on stderr, as a bar in a terminal or notebook and as plain lines in a pipe; results on stdout."""

    def __init__(self, total_steps: int, epochs: int, done: int = 0) -> None:
        self.console = Console(stderr=True)
        self._live = self.console.is_terminal or self.console.is_jupyter
        self._total, self._epochs = total_steps, epochs
        self._shown = time.monotonic()
        text, state = TextColumn("{task.description}"), TextColumn("{task.fields[state]}")
        columns = (text, BarColumn(), MofNCompleteColumn(), state, TimeRemainingColumn())
        self._bar = Progress(*columns, console=self.console, disable=not self._live)
        self._task = self._bar.add_task("training", total=total_steps, completed=done, state="compiling")

    def __enter__(self) -> Screen:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, record: StepRecord) -> None:
        """Move the bar; in a pipe, print a line every 10 seconds."""
        state = f"loss {record.loss:.4f}, {record.examples / max(record.seconds, 1e-9):.0f} examples/s"
        self._bar.update(self._task, completed=record.step, state=state)
        if not self._live and time.monotonic() - self._shown >= EVERY:
            self._shown = time.monotonic()
            print(f"step {record.step}/{self._total} | {state}", file=sys.stderr, flush=True)

    def epoch(self, epoch: float, loss: float, evaluations: Sequence[Evaluation]) -> None:
        """Print the article's line: epoch, loss of the last update, metrics."""
        scores = " | ".join(_scores(e, named=len(evaluations) > 1) for e in evaluations)
        line = f"{epoch:.4g}/{self._epochs} | Train loss: {round(loss, 3)} | {scores}"
        if self._live:
            self._bar.console.print(line, highlight=False, markup=False)
        if not self._live or not sys.stdout.isatty():
            print(line, flush=True)


class RunRecorder:
    """Writes `metrics.jsonl` during the run, `summary.json` and `curves.png` at its end, and updates the screen.

    Args:
        out: the run's folder, which exists; None for a process that keeps no records.
        screen: shows the progress.
        resumed_at: the step that a resumed run continues from; later lines of the interrupted run are dropped.
        also: called with each evaluation, after it is recorded and printed.
    """

    def __init__(
        self,
        out: Path | None,
        screen: Screen,
        resumed_at: int = 0,
        also: Callable[[Evaluation], object] | None = None,
    ) -> None:
        self._out, self._screen, self._also = out or Path(os.devnull), screen, also
        self.path = self._out if out is None else out / METRICS
        self.lines: list[dict[str, Any]] = []
        if out is not None:
            self.lines = _earlier(self.path, resumed_at) if resumed_at and self.path.exists() else []
            part = out / f".{METRICS}.part"
            part.write_text("".join(as_json(line) + "\n" for line in self.lines), encoding="utf-8")
            part.replace(self.path)
        self._file = self.path.open("a", buffering=1, encoding="utf-8")

    def step(self, record: StepRecord) -> None:
        """Record a finished update."""
        self._write({"kind": "step", **record._asdict()})
        self._screen.step(record)

    def epoch(self, step: int, epoch: float, loss: float, evaluations: list[Evaluation]) -> None:
        """Record the evaluations at the end of an epoch or of the run; `loss` is the loss of the last update."""
        for e in evaluations:
            line = {"kind": "eval", "step": step, "epoch": epoch, "split": e.split, "loss": e.loss, **e.metrics}
            self._write(line | {"examples": e.examples, "seconds": e.seconds})
        self._screen.epoch(epoch, loss, evaluations)
        if self._also:
            for e in evaluations:
                self._also(e)

    def _write(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        try:
            self._file.write(as_json(line) + "\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        """Close `metrics.jsonl`."""
        self._file.close()

    def finish(self, config: dict[str, Any], devices: Sequence[jax.Device], seconds: float) -> dict[str, Any]:
        """Write `summary.json`; returns the summary."""
        steps, evals = self._of("step"), self._of("eval")
        final = {e["split"]: {k: v for k, v in e.items() if k not in ("kind", "split")} for e in evals}
        summary = {
            "steps": len(steps),
            "train_loss": steps[-1]["loss"] if steps else None,
            "final": final,
            "seconds": seconds,
            "examples_per_second": sum(s["examples"] for s in steps) / max(sum(s["seconds"] for s in steps), 1e-9),
            "config": config,
            "versions": versions(),
            "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in devices],
        }
        (self._out / SUMMARY).write_text(as_json(summary, indent=2) + "\n", encoding="utf-8")
        return summary

    def draw(self) -> None:
        """Write `curves.png`; a picture that cannot be drawn costs a line on stderr, not the run."""
        try:
            draw(self._of("step"), self._of("eval"), self._out / "curves.png")
        except Exception as error:  # matplotlib, its fonts and its cache raise types of their own
            print(f"sftref: curves.png was not drawn ({one_line(error)})", file=sys.stderr)

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["kind"] == kind]


def _earlier(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines of a run's metrics up to a step; lines that cannot be read, as after a power failure, are left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            line = json.loads(text)
            if line["kind"] in ("step", "eval") and line["step"] <= step:
                lines.append(line)
    return lines


def as_json(value: Any, *, indent: int | None = None) -> str:
    """A value as JSON; null for NaN and infinity, which JSON lacks, as for an undefined correlation."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_pictures() -> None:
    """Import the library that draws `curves.png`, before any training.

    Raises:
        ImportError: matplotlib is not installed.
        ConfigError: it refuses its variables or settings.
    """
    try:
        import matplotlib  # noqa: F401
    except ValueError as error:
        names = [name for name in ("MPLBACKEND", "MATPLOTLIBRC") if name in os.environ]
        what = f"; check {' and '.join(names)}" if names else ""
        raise ConfigError(f"matplotlib cannot be imported ({one_line(error)}){what}") from error


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that affect results; "absent" for one that is not installed."""
    numbers = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            numbers[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            numbers[name] = "absent"
    return numbers


def draw(steps: Sequence[dict[str, Any]], evals: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot the loss and the metrics by step into a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot([s["step"] for s in steps], [s["loss"] for s in steps], lw=0.8, label="training, each step")
    for split in dict.fromkeys(e["split"] for e in evals):
        lines = [e for e in evals if e["split"] == split]
        at = [e["step"] for e in lines]
        left.plot(at, [e["loss"] for e in lines], "o-", label=split)
        for name in sorted(lines[0].keys() - {"kind", "step", "epoch", "split", "loss", "examples", "seconds"}):
            right.plot(at, [e[name] for e in lines], "o-", label=f"{split} {name}")
    for axes, title in ((left, "mean loss"), (right, "metrics")):
        axes.set(xlabel="step", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _scores(evaluation: Evaluation, *, named: bool) -> str:
    scores = ", ".join(f"{name}: {round(value, 3)}" for name, value in evaluation.metrics.items())
    return f"Eval {evaluation.split} {scores}" if named else f"Eval {scores}"
