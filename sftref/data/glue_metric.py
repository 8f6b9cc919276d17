"""Predictions and labels of an evaluation -> the scores of GLUE's metric in the Hugging Face package `evaluate`.

`evaluate.load("glue", TASK)` runs a script, `glue.py`, from a folder, from the hub or from the hub's cache. These are
other people's code for the scores that `train/metrics.py` computes from counts, so the two are compared.
"""

import functools
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sftref.config import ConfigError, ScoreError, one_line
from sftref.data.tasks import Task

# Unit roundoff of float64 and float32.
U64, U32 = 2.0**-53, 2.0**-24
# More than the roundings in scikit-learn's accuracy, F1 and Matthews' correlation, whose counts are exact.
ROUNDINGS = 64


class GlueMetric(NamedTuple):
    """The loaded metric of one task."""

    source: str  # for messages
    module: Any  # an `evaluate.EvaluationModule`


@functools.cache
def load_metric(task_name: str, script: Path | None = None) -> GlueMetric | str:
    """GLUE's metric, or one line that says why it cannot be loaded.

    Args:
        task_name: the task.
        script: a `glue.py` of the metric, or its folder; None for the folder glue here, the hub or the hub's cache,
            where `evaluate` looks by itself.

    Raises:
        ConfigError: `script` cannot be loaded.
    """
    try:
        import evaluate
    except ImportError:
        reason = "the package evaluate is not installed; pip install 'sftref[train]' has it"
    else:
        file = None if script is None else script.resolve() / "glue.py" if script.is_dir() else script.resolve()
        where = "glue" if file is None else str(file)
        try:
            module = evaluate.load(where, task_name, module_type="metric", keep_in_memory=True)
            return GlueMetric(f"evaluate {evaluate.__version__}", module)
        except Exception as error:  # of the hub's client, of the script, and of what the script imports
            reason = f"evaluate {evaluate.__version__} cannot load {where} ({one_line(error)})"
            if file is None and isinstance(error, (FileNotFoundError, ConnectionError)):
                # The error's own text names a file in the current folder, where `evaluate` looks first.
                reason = "glue is not in its cache, and the hub was not reached; --glue-metric DIR takes a copy"
    if script is not None:
        raise ConfigError(f"--glue-metric {script}: {reason}; give the folder of a glue.py")
    return reason


class SecondScores:
    """The scores of `evaluate` beside ours: prints them, and remembers what differs until the run has saved its work.

    Args:
        task: the task.
        script: see `load_metric`.

    Raises:
        ConfigError: see `load_metric`.
    """

    def __init__(self, task: Task, script: Path | None = None) -> None:
        self._task, self._script = task, script
        self.differences: list[str] = []
        if script is not None:
            load_metric(task.name, script)  # before the training, so that its error is too

    @functools.cached_property
    def _metric(self) -> GlueMetric | str:
        """Loaded for the first scores: importing `evaluate` takes seconds, and a run should start at once."""
        loaded = load_metric(self._task.name, self._script)
        if isinstance(loaded, str):
            _say(loaded)
        return loaded

    def check(
        self, name: str, ours: Mapping[str, float], logits: npt.NDArray[Any], labels: npt.NDArray[Any]
    ) -> dict[str, float]:
        """Compute and print the scores of one evaluation; returns them, or nothing if they cannot be computed.

        Args:
            name: of the evaluation.
            ours: our scores, by the metric's names.
            logits: [n, C].
            labels: [n].
        """
        metric = self._metric
        if isinstance(metric, str):
            return {}
        predictions = logits[:, 0].astype(np.float32) if self._task.regression else logits.argmax(axis=1)
        if self._task.regression and (predictions != logits[:, 0]).any():
            # Numbers that differ in float64 may be equal in float32, the metric's type: their ranks are then others.
            ours = {key: value for key, value in ours.items() if key != "spearmanr"}
        try:
            got = metric.module.compute(predictions=predictions.tolist(), references=labels.tolist())
            scores = {key: float(got[key]) for key in ours}
        except Exception as error:  # of the script, and of what the script imports
            _say(f"{metric.source} cannot compute those of {name} ({one_line(error)})")
            return {}
        different = [
            f"{name} {key} = {ours[key]!r}, must be {value!r} as {metric.source} computes it, within {bound:.1e}"
            for key, value in scores.items()
            if not _equal(ours[key], value, bound := _bound(key, predictions, labels))
        ]
        self.differences += different
        shown = ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
        print(f"{name} by {metric.source}: {shown}, {'DIFFERENT' if different else 'equal'}", flush=True)
        return scores

    def finish(self) -> None:
        """Fail if any score differed.

        Raises:
            ScoreError: see `check`.
        """
        if self.differences:
            raise ScoreError(
                f"{self.differences[0]}; {len(self.differences)} scores differ. Compare the predictions, and the "
                "version of the metric's script"
            )


def _say(reason: str) -> None:
    print(f"scores are not compared with those of Hugging Face's evaluate: {reason}", file=sys.stderr, flush=True)


def _equal(a: float, b: float, bound: float) -> bool:
    return abs(a - b) <= bound or (math.isnan(a) and math.isnan(b))


def _bound(name: str, predictions: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """The most that two right scores can differ by rounding.

    Pearson's correlation of float32 numbers is computed in float32 by SciPy. Each of the sums over n numbers (two
    means, two norms, one product of unit vectors) has a relative error of at most n u (Higham, Accuracy and Stability
    of Numerical Algorithms, section 3.1), to first order in u. An error of a mean is relative to the root mean square
    of the numbers, which is k times their standard deviation. Ranks, for Spearman's, are exact, and their sums in
    float64.
    """
    n = len(labels)
    if name != "pearson":
        return U64 * (8 * n if name == "spearmanr" else ROUNDINGS)
    columns = predictions.astype(np.float64), labels.astype(np.float64)
    if not all(np.std(x) for x in columns):
        return 0.0  # both scores are NaN
    return U32 * n * (3 + sum(float(np.sqrt(np.mean(x**2)) / np.std(x)) for x in columns))
