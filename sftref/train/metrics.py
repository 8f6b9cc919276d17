"""Counts and predictions of a whole evaluation -> GLUE's metrics: NumPy and SciPy, no device code.

Accuracy, F1 and Matthews' correlation come from a confusion matrix of integers, so they do not depend on the number of
devices. Names and conventions are those of `metrics/glue` in https://github.com/huggingface/evaluate, which calls
scikit-learn's `f1_score` and `matthews_corrcoef`, and SciPy's `pearsonr` and `spearmanr`.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from sftref.config import require_choice
from sftref.data.tasks import Task


def classification_metrics(confusion: npt.ArrayLike, names: Sequence[str]) -> dict[str, float]:
    """The confusion matrix of an evaluation -> metrics by name.

    Args:
        confusion: integers [C, C], rows the true class, columns the predicted one; at least one example.
        names: any of "accuracy", "f1" (of class 1, C = 2) and "matthews_correlation" (any C).

    Raises:
        ValueError: the matrix is not square, has a negative count or no example; F1 with C != 2; an unknown name.

    Example:
        >>> classification_metrics([[50, 10], [5, 35]], ["accuracy", "f1"])
        {'accuracy': 0.85, 'f1': 0.8235294117647058}
    """
    matrix = np.asarray(confusion)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.issubdtype(matrix.dtype, np.integer):
        raise ValueError(f"confusion is {matrix.dtype} {list(matrix.shape)}, must be integers [C, C]")
    if matrix.min(initial=0) < 0 or not matrix.any():
        raise ValueError(f"confusion sums to {matrix.sum()}, must have at least one example and no negative count")
    for name in names:
        require_choice("metric", name, _CLASSIFICATION)
    return {name: _CLASSIFICATION[name](matrix.astype(np.int64)) for name in names}


def _f1(confusion: npt.NDArray[np.int64]) -> float:
    """2 TP / (2 TP + FP + FN) of class 1; 0 if no example has or gets class 1, as in scikit-learn."""
    if confusion.shape != (2, 2):
        raise ValueError(f"f1 of a confusion matrix {list(confusion.shape)}, must be [2, 2]")
    (_, false_positive), (false_negative, true_positive) = confusion.tolist()
    denominator = 2 * true_positive + false_positive + false_negative
    return 2 * true_positive / denominator if denominator else 0.0


def _matthews(confusion: npt.NDArray[np.int64]) -> float:
    """R_K of Gorodkin (2004); for C = 2, Matthews' coefficient. As in scikit-learn, 0 if a side has one class only.

    Python's integers are used, because the product below has four times the digits of n: it would overflow int64 at
    78,000 examples.
    """
    true, predicted = confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    n, correct = sum(true), sum(confusion.diagonal().tolist())
    covariance = correct * n - sum(t * p for t, p in zip(true, predicted, strict=True))
    product = (n * n - sum(t * t for t in true)) * (n * n - sum(p * p for p in predicted))
    return covariance / math.sqrt(product) if product else 0.0


_CLASSIFICATION: dict[str, Callable[[npt.NDArray[np.int64]], float]] = {
    "accuracy": lambda confusion: int(confusion.trace()) / int(confusion.sum()),
    "f1": _f1,
    "matthews_correlation": _matthews,
}


def regression_metrics(predictions: npt.ArrayLike, labels: npt.ArrayLike, names: Sequence[str]) -> dict[str, float]:
    """Predictions and labels -> metrics by name, computed by SciPy in float64.

    Args:
        predictions: real [n].
        labels: real [n].
        names: any of "pearson" and "spearmanr". Both are NaN, with SciPy's warning, where all predictions or all labels
            are equal; NaN too with fewer than two examples.

    Raises:
        ValueError: the two shapes differ or are not [n], or a name is unknown.

    Example:
        >>> round(regression_metrics([0.0, 1.0, 2.0, 5.0], [1.0, 2.0, 2.0, 5.0], ["spearmanr"])["spearmanr"], 6)
        0.948683
    """
    import scipy.stats

    x, y = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"predictions are {list(x.shape)} and labels {list(y.shape)}, must be [n] and [n]")
    functions = {"pearson": scipy.stats.pearsonr, "spearmanr": scipy.stats.spearmanr}
    for name in names:
        require_choice("metric", name, functions)
    return {name: float(functions[name](x, y)[0]) if len(x) > 1 else math.nan for name in names}


def task_metrics(
    task: Task,
    *,
    confusion: npt.ArrayLike | None = None,
    predictions: npt.ArrayLike | None = None,
    labels: npt.ArrayLike | None = None,
) -> dict[str, float]:
    """The task's metrics, under the names of `evaluate.load("glue", task.name)`.

    A classification task needs `confusion`, integers [C, C]; a regression task `predictions` and `labels`, real [n].

    Raises:
        ValueError: an argument that the task needs is missing, or its shape does not fit the task.
    """
    if task.regression:
        if predictions is None or labels is None:
            raise ValueError(f"task {task.name} is a regression: predictions and labels are needed")
        return regression_metrics(predictions, labels, task.metrics)
    shape = None if confusion is None else np.shape(confusion)
    if confusion is None or shape != (task.num_labels, task.num_labels):
        raise ValueError(f"confusion is {shape}, must be {(task.num_labels, task.num_labels)} for task {task.name}")
    return classification_metrics(confusion, task.metrics)
