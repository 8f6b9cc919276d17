"""Metrics against scikit-learn, SciPy and the formulas of `evaluate`'s GLUE metric.

`evaluate` ships no metric scripts: `evaluate.load("glue", ...)` fetches `metrics/glue/glue.py` from the hub. So `glue`
below makes the same calls to scikit-learn and SciPy as that script.
"""

import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef

from sftref.data.tasks import TASKS, get_task
from sftref.train.metrics import classification_metrics, regression_metrics, task_metrics

FEW = settings(max_examples=60, deadline=None)
LABEL_PAIRS = st.integers(2, 4).flatmap(
    lambda c: st.tuples(
        st.just(c), st.lists(st.tuples(st.integers(0, c - 1), st.integers(0, c - 1)), min_size=1, max_size=60)
    )
)
# Quarters give ties and constants; the rest is dense.
NUMBERS = st.integers(-20, 20).map(lambda i: i / 4) | st.floats(-1e3, 1e3, width=32)
REAL_PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=50)


def glue(name: str, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """`Glue._compute` of evaluate's metrics/glue/glue.py, restated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # undefined F1, constant input: the value is what is compared
        if name == "cola":
            return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}
        if name == "stsb":
            return {
                "pearson": float(scipy.stats.pearsonr(predictions, references)[0]),
                "spearmanr": float(scipy.stats.spearmanr(predictions, references)[0]),
            }
        result = {"accuracy": float((predictions == references).mean())}
        if name in ("mrpc", "qqp"):
            result["f1"] = float(f1_score(y_true=references, y_pred=predictions))
        return result


def exactly(message: str) -> str:
    """A pattern that matches `message` and nothing else."""
    return f"^{re.escape(message)}$"


def same(got: dict[str, float], want: dict[str, float], tolerance: float = 1e-12) -> None:
    """Same names in the same order; values equal to `tolerance`, NaN equal to NaN only."""
    assert list(got) == list(want)
    np.testing.assert_allclose(list(got.values()), list(want.values()), rtol=0, atol=tolerance)


class TestClassification:
    """Metrics of a confusion matrix MUST equal scikit-learn's of the labels it counts."""

    @given(LABEL_PAIRS)
    @example((2, [(0, 0)]))  # F1 and Matthews undefined
    @example((2, [(1, 0), (1, 0)]))
    @example((3, [(0, 0), (1, 1), (2, 2)]))
    @FEW
    def test_equals_scikit_learn(self, drawn: tuple[int, list[tuple[int, int]]]) -> None:
        classes, pairs = drawn
        true, predicted = np.array(pairs).T
        names = ["accuracy", "matthews_correlation", *(["f1"] if classes == 2 else [])]
        got = classification_metrics(confusion_matrix(true, predicted, labels=range(classes)), names)
        want = {**glue("qqp" if classes == 2 else "mnli", predicted, true), **glue("cola", predicted, true)}
        same(got, {name: want[name] for name in names})

    def test_rows_are_true_and_columns_predicted(self) -> None:
        got = classification_metrics([[70, 10], [20, 0]], ["accuracy", "f1", "matthews_correlation"])
        assert got["accuracy"] == 0.7
        assert got["f1"] == 0.0
        got = classification_metrics([[1, 2], [3, 4]], ["f1"])
        assert got["f1"] == pytest.approx(8 / 13)
        lopsided = [[5, 4, 0], [0, 3, 0], [0, 0, 2]]
        assert classification_metrics(lopsided, ["accuracy"])["accuracy"] == pytest.approx(10 / 14)

    def test_zero_division_is_zero_as_in_scikit_learn(self) -> None:
        assert classification_metrics([[9, 0], [0, 0]], ["f1", "matthews_correlation"]) == {
            "f1": 0.0,
            "matthews_correlation": 0.0,
        }

    @pytest.mark.parametrize("unit", [np.int32(100_000_000), np.int64(10_000_000_000)])
    def test_no_overflow_at_a_billion_examples(self, unit: Any) -> None:
        counts = unit * np.array([[4, 1], [1, 4]], unit.dtype)
        got = classification_metrics(counts, ["accuracy", "f1", "matthews_correlation"])
        same(got, {"accuracy": 0.8, "f1": 0.8, "matthews_correlation": 0.6})

    @pytest.mark.parametrize(
        ("confusion", "names", "message"),
        [
            ([[1, 2, 3], [4, 5, 6]], ["accuracy"], "confusion is int64 [2, 3], must be integers [C, C]"),
            ([[1.0, 2.0], [3.0, 4.0]], ["accuracy"], "confusion is float64 [2, 2], must be integers [C, C]"),
            (
                [[0, 0], [0, 0]],
                ["accuracy"],
                "confusion sums to 0, must have at least one example and no negative count",
            ),
            (
                [[3, -1], [0, 0]],
                ["accuracy"],
                "confusion sums to 2, must have at least one example and no negative count",
            ),
            (np.eye(3, dtype=int), ["f1"], "f1 of a confusion matrix [3, 3], must be [2, 2]"),
            ([[1, 0], [0, 1]], ["mcc"], "metric = 'mcc', must be one of accuracy, f1, matthews_correlation"),
        ],
    )
    def test_wrong_counts(self, confusion: Any, names: list[str], message: str) -> None:
        with pytest.raises(ValueError, match=exactly(message)):
            classification_metrics(confusion, names)


class TestRegression:
    """Correlations MUST be those of `evaluate`: SciPy's, ties and constants included."""

    @given(REAL_PAIRS)
    @example([(1.0, 2.0), (1.0, 3.0)])
    @example([(0.1, 2.0)] * 7)
    @FEW
    def test_equals_evaluate(self, pairs: list[tuple[float, float]]) -> None:
        x, y = np.array(pairs, np.float64).T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = regression_metrics(x, y, ["pearson", "spearmanr"])
        same(got, glue("stsb", x, y), 0)

    def test_against_the_formulas(self) -> None:
        """Independent of SciPy: the covariance over the deviations, of values and of ranks that ties share."""
        x, y = np.array([1.0, 2.0, 2.0, 4.5, 7.0]), np.array([3.0, -1.0, 0.5, 0.5, 2.0])
        ranks = np.array([1, 2.5, 2.5, 4, 5]), np.array([5, 1, 2.5, 2.5, 4])
        want = {"pearson": np.corrcoef(x, y)[0, 1], "spearmanr": np.corrcoef(*ranks)[0, 1]}
        same(regression_metrics(x, y, ["pearson", "spearmanr"]), want)

    @pytest.mark.parametrize("constant", [0, 1])
    def test_a_constant_gives_nan_and_a_warning(self, constant: int) -> None:
        sides = [np.arange(3.0), np.arange(3.0) ** 2]
        sides[constant] = np.full(3, 0.1)
        with pytest.warns(scipy.stats.ConstantInputWarning):
            got = regression_metrics(*sides, ["pearson", "spearmanr"])
        assert list(got) == ["pearson", "spearmanr"]
        assert all(math.isnan(value) for value in got.values())

    def test_one_example_has_no_correlation(self) -> None:
        got = regression_metrics([1.0], [2.0], ["pearson", "spearmanr"])
        assert all(math.isnan(value) for value in got.values())

    def test_what_is_not_finite_gives_nan(self) -> None:
        got = regression_metrics([1.0, math.nan, 3.0], [1.0, 2.0, 3.0], ["pearson", "spearmanr"])
        assert all(math.isnan(value) for value in got.values())

    def test_wrong_input(self) -> None:
        with pytest.raises(ValueError, match=exactly("predictions are [2] and labels [3], must be [n] and [n]")):
            regression_metrics([1, 2], [1, 2, 3], ["pearson"])
        with pytest.raises(ValueError, match=exactly("metric = 'f1', must be one of pearson, spearmanr")):
            regression_metrics([1], [1], ["f1"])


@pytest.mark.parametrize("name", TASKS)
def test_every_task_against_evaluate(name: str) -> None:
    task, generator = get_task(name), np.random.default_rng(3)
    labels: np.ndarray
    if task.regression:
        labels = generator.integers(0, 26, 200) / 5
        predictions = labels + generator.normal(size=200)
        got = task_metrics(task, predictions=predictions, labels=labels)
    else:
        labels = generator.integers(0, task.num_labels, 200)
        predictions = np.where(generator.random(200) < 0.6, labels, generator.integers(0, task.num_labels, 200))
        got = task_metrics(task, confusion=confusion_matrix(labels, predictions))
    assert list(got) == list(task.metrics)
    same(got, glue(name, predictions, labels))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("qqp", {}, "confusion is None, must be (2, 2) for task qqp"),
        ("mnli", {"confusion": [[1, 0], [0, 1]]}, "confusion is (2, 2), must be (3, 3) for task mnli"),
        ("stsb", {"predictions": [1.0]}, "task stsb is a regression: predictions and labels are needed"),
    ],
)
def test_what_a_task_needs(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        task_metrics(get_task(name), **values)
