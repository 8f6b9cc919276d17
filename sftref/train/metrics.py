"""Counts, moments and predictions of a whole evaluation -> GLUE's metrics: NumPy only, no device code.

Accuracy, F1 and Matthews' correlation come from a confusion matrix of integers, so they are the same however many
devices counted; Pearson's correlation from six sums; Spearman's from the predictions themselves, for ranks do not add.
Names and conventions are those of `metrics/glue` in https://github.com/huggingface/evaluate, which calls
scikit-learn's `f1_score` and `matthews_corrcoef`, and SciPy's `pearsonr` and `spearmanr`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from sftref.data.tasks import Task

FloatArray = npt.NDArray[np.float64]
Metric = TypeVar("Metric", bound=Callable[..., float])


def classification_metrics(confusion: npt.ArrayLike, names: Sequence[str]) -> dict[str, float]:
    """The confusion matrix of an evaluation -> the metrics asked for.

    Args:
        confusion: integers [C, C], rows the true class, columns the predicted one; at least one example.
        names: of "accuracy", "f1" (of class 1, C = 2) and "matthews_correlation" (any C).

    Raises:
        ValueError: the matrix is not square, holds a negative count or no example; F1 with C != 2; an unknown name.

    Example:
        >>> classification_metrics([[50, 10], [5, 35]], ["accuracy", "f1"])
        {'accuracy': 0.85, 'f1': 0.8235294117647058}
    """
    matrix = np.asarray(confusion)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.issubdtype(matrix.dtype, np.integer):
        raise ValueError(f"confusion is {matrix.dtype} {list(matrix.shape)}, must be integers [C, C]")
    if matrix.min(initial=0) < 0 or not matrix.any():
        raise ValueError(f"confusion sums to {matrix.sum()}, must hold at least one example and no negative count")
    return {name: _lookup(_CLASSIFICATION, name)(matrix.astype(np.int64)) for name in names}


def _accuracy(confusion: npt.NDArray[np.int64]) -> float:
    return int(confusion.trace()) / int(confusion.sum())


def _f1(confusion: npt.NDArray[np.int64]) -> float:
    """2 TP / (2 TP + FP + FN) of class 1; 0 where nobody is in class 1 nor was put there, as in scikit-learn."""
    if confusion.shape != (2, 2):
        raise ValueError(f"f1 of a confusion matrix {list(confusion.shape)}, must be [2, 2]")
    (_, false_positive), (false_negative, true_positive) = confusion.tolist()
    denominator = 2 * true_positive + false_positive + false_negative
    return 2 * true_positive / denominator if denominator else 0.0


def _matthews(confusion: npt.NDArray[np.int64]) -> float:
    """R_K of Gorodkin (2004), which is Matthews' coefficient for C = 2; 0 where a side is constant (scikit-learn).

    In Python's integers: the product below has four times the digits of n, and overflows int64 from n = 78,000 on.
    """
    true, predicted = confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    n, correct = sum(true), sum(confusion.diagonal().tolist())
    covariance = correct * n - sum(t * p for t, p in zip(true, predicted, strict=True))
    product = (n * n - sum(t * t for t in true)) * (n * n - sum(p * p for p in predicted))
    return covariance / math.sqrt(product) if product else 0.0


_CLASSIFICATION: dict[str, Callable[[npt.NDArray[np.int64]], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
}


class Moments(NamedTuple):
    """n, and the sums of u, v, u^2, v^2 and uv, where u = x - shift_x and v = y - shift_y.

    Sums about a point near the mean do not cancel, as those about 0 do once the mean is far larger than the spread.
    The first six fields in their order are the regression counts of `loss.EvalSums`.
    """

    n: float
    x: float
    y: float
    xx: float
    yy: float
    xy: float
    shift_x: float = 0.0
    shift_y: float = 0.0

    @classmethod
    def from_arrays(cls, x: npt.ArrayLike, y: npt.ArrayLike) -> Moments:
        """Two arrays, real [n] -> their moments in float64 about their means; n may be 0."""
        u, v = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if u.ndim != 1 or u.shape != v.shape:
            raise ValueError(f"x is {list(u.shape)} and y {list(v.shape)}, must be [n] and [n]")
        if not u.size:
            return cls(0, 0, 0, 0, 0, 0)
        with np.errstate(invalid="ignore", over="ignore"):
            shift_x, shift_y = (float(a.mean()) for a in (u, v))
            u, v = u - shift_x, v - shift_y
            sums = [float(a.sum()) for a in (u, v, u * u, v * v, u * v)]
        return cls._make([u.size, *sums, shift_x, shift_y])

    def about(self, shift_x: float, shift_y: float) -> Moments:
        """The same moments about another point: sum (u + d)^2 = sum u^2 + 2 d sum u + n d^2."""
        n, dx, dy = self.n, self.shift_x - shift_x, self.shift_y - shift_y
        return Moments(
            n,
            self.x + n * dx,
            self.y + n * dy,
            self.xx + 2 * dx * self.x + n * dx * dx,
            self.yy + 2 * dy * self.y + n * dy * dy,
            self.xy + dx * self.y + dy * self.x + n * dx * dy,
            shift_x,
            shift_y,
        )

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of examples together, about their common mean.

        This is the pairwise update of Chan, Golub and LeVeque (1979): only squares are added, so nothing cancels.
        """
        if not self.n or not other.n:
            return self if self.n else other
        share = other.n / (self.n + other.n)
        (ax, ay), (bx, by) = self.means(), other.means()
        shift = ax + (bx - ax) * share, ay + (by - ay) * share
        first, second = self.about(*shift), other.about(*shift)
        return Moments._make([*(a + b for a, b in zip(first[:6], second[:6], strict=True)), *shift])

    def means(self) -> tuple[float, float]:
        """The means of x and of y; there must be an example."""
        return self.shift_x + self.x / self.n, self.shift_y + self.y / self.n

    def pearson(self) -> float:
        """Pearson's correlation cov(x, y) / sqrt(var(x) var(y)), within -1 to 1.

        NaN where it is not defined: fewer than two examples, x or y constant, or a value that is not finite. SciPy's
        `pearsonr` agrees, save that it raises on fewer than two examples.
        """
        if self.n < 2:
            return math.nan
        xx = self.xx - self.x * self.x / self.n
        yy = self.yy - self.y * self.y / self.n
        xy = self.xy - self.x * self.y / self.n
        if not (xx > 0 and yy > 0 and math.isfinite(xy)):
            return math.nan
        return min(1.0, max(-1.0, xy / (math.sqrt(xx) * math.sqrt(yy))))


def average_ranks(values: npt.ArrayLike) -> FloatArray:
    """Real [n] -> float64 [n]: ranks from 1, equal values sharing the mean of theirs (SciPy's `rankdata`).

    Example:
        >>> average_ranks([10.0, 30.0, 10.0, 20.0]).tolist()
        [1.5, 4.0, 1.5, 3.0]
    """
    _, inverse, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: FloatArray = (last - (counts - 1) / 2)[inverse]
    return ranks


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Two arrays, real [n] -> Spearman's correlation, Pearson's of the ranks; NaN as there, or if a value is NaN."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if np.isnan(a).any() or np.isnan(b).any():
        return math.nan
    return Moments.from_arrays(average_ranks(a), average_ranks(b)).pearson()


def regression_metrics(
    moments: Moments, predictions: npt.ArrayLike, labels: npt.ArrayLike, names: Sequence[str]
) -> dict[str, float]:
    """Moments of (prediction, label), and both in full -> the metrics asked for.

    Args:
        moments: of the same examples, x the prediction and y the label, however they were accumulated.
        predictions: real [n].
        labels: real [n].
        names: of "pearson" and "spearmanr"; NaN where all predictions, or all labels, are equal, as SciPy has it.

    Raises:
        ValueError: the numbers of examples differ, or a name is unknown.

    Example:
        >>> x, y = [0.0, 1.0, 2.0, 5.0], [1.0, 2.0, 2.0, 5.0]
        >>> metrics = regression_metrics(Moments.from_arrays(x, y), x, y, ["spearmanr"])
        >>> round(metrics["spearmanr"], 6)
        0.948683
    """
    x, y = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    if x.ndim != 1 or x.shape != y.shape or round(moments.n) != x.size:
        raise ValueError(
            f"predictions are {list(x.shape)} and labels {list(y.shape)}, must be [n] and [n] with "
            f"n = {moments.n:g}, the examples in the moments"
        )
    # Sums that were rounded on a device can leave a constant a little variance, and with it a meaningless correlation.
    constant = not x.size or x.min() == x.max() or y.min() == y.max()
    values: dict[str, Callable[[], float]] = {
        "pearson": lambda: math.nan if constant else moments.pearson(),
        "spearmanr": lambda: spearman(x, y),
    }
    return {name: _lookup(values, name)() for name in names}


def task_metrics(
    task: Task,
    *,
    confusion: npt.ArrayLike | None = None,
    moments: Moments | None = None,
    predictions: npt.ArrayLike | None = None,
    labels: npt.ArrayLike | None = None,
) -> dict[str, float]:
    """What an evaluation gathered -> the task's metrics, under the names of `evaluate.load("glue", task.name)`.

    A classification task needs `confusion`, integers [C, C]; a regression task `predictions` and `labels`, real [n],
    from which the `moments` follow unless they are given.

    Raises:
        ValueError: something needed is missing, or its shape does not fit the task.
    """
    if task.regression:
        if predictions is None or labels is None:
            raise ValueError(f"task {task.name} is a regression: predictions and labels are needed")
        moments = Moments.from_arrays(predictions, labels) if moments is None else moments
        return regression_metrics(moments, predictions, labels, task.metrics)
    shape = None if confusion is None else np.shape(confusion)
    if confusion is None or shape != (task.num_labels, task.num_labels):
        raise ValueError(f"confusion is {shape}, must be {(task.num_labels, task.num_labels)} for task {task.name}")
    return classification_metrics(confusion, task.metrics)


def _lookup(table: Mapping[str, Metric], name: str) -> Metric:
    if name not in table:
        raise ValueError(f"metric = {name!r}, must be one of {', '.join(table)}")
    return table[name]
