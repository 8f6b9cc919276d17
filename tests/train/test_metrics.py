"""Metrics against scikit-learn, SciPy and the formulas of `evaluate`'s GLUE metric.

`evaluate` ships no metric scripts: `evaluate.load("glue", ...)` fetches `metrics/glue/glue.py` from the hub. So `glue`
below says what that script computes, by the same calls to scikit-learn and SciPy.
"""

from __future__ import annotations

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
from sftref.train.metrics import (
    Moments,
    average_ranks,
    classification_metrics,
    regression_metrics,
    spearman,
    task_metrics,
)

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


def well_conditioned(values: np.ndarray) -> bool:
    """Constant, or spread by more than rounding: in between, SciPy itself warns that its answer means nothing."""
    spread = float(np.ptp(values))
    return spread == 0 or spread > 1e-6 * float(np.abs(values).max())


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
                "confusion sums to 0, must hold at least one example and no negative count",
            ),
            (
                [[3, -1], [0, 0]],
                ["accuracy"],
                "confusion sums to 2, must hold at least one example and no negative count",
            ),
            (np.eye(3, dtype=int), ["f1"], "f1 of a confusion matrix [3, 3], must be [2, 2]"),
            ([[1, 0], [0, 1]], ["mcc"], "metric = 'mcc', must be one of accuracy, f1, matthews_correlation"),
        ],
    )
    def test_wrong_counts(self, confusion: Any, names: list[str], message: str) -> None:
        with pytest.raises(ValueError, match=exactly(message)):
            classification_metrics(confusion, names)


class TestRegression:
    """Correlations MUST equal SciPy's, however the moments were gathered."""

    @given(REAL_PAIRS)
    @example([(1.0, 2.0), (1.0, 3.0)])
    @example([(0.1, 2.0)] * 7)
    @FEW
    def test_equals_scipy(self, pairs: list[tuple[float, float]]) -> None:
        x, y = np.array(pairs, np.float64).T
        got = regression_metrics(Moments.from_arrays(x, y), x, y, ["pearson", "spearmanr"])
        want = glue("stsb", x, y)
        same({"spearmanr": got["spearmanr"]}, {"spearmanr": want["spearmanr"]})
        if well_conditioned(x) and well_conditioned(y):
            same(got, want, 1e-9)

    @given(REAL_PAIRS, st.lists(st.integers(0, 50), max_size=4), st.sampled_from([0.0, 1e6, -3e8]))
    @FEW
    def test_merged_moments_equal_those_of_all(
        self, pairs: list[tuple[float, float]], cuts: list[int], offset: float
    ) -> None:
        x, y = np.array(pairs, np.float64).T
        x = x + offset
        merged = Moments(0, 0, 0, 0, 0, 0)
        for part in np.split(np.arange(len(x)), sorted(min(c, len(x)) for c in cuts)):
            merged = merged.merge(Moments.from_arrays(x[part], y[part]))
        whole = Moments.from_arrays(x, y)
        assert merged.n == whole.n
        merged = merged.about(whole.shift_x, whole.shift_y)
        scale_x, scale_y = np.abs(x - x.mean()).max() + 1e-9 * abs(offset), np.abs(y).max()
        for name, scale in {
            "xx": scale_x * scale_x,
            "yy": scale_y * scale_y,
            "xy": scale_x * scale_y,
            "x": scale_x + 1e-7 * abs(offset),
            "y": scale_y,
        }.items():
            assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-6, abs=1e-6 * scale + 1e-12)

    def test_a_mean_a_billion_times_the_spread_does_not_cancel(self) -> None:
        y = np.random.default_rng(0).normal(size=1000)
        x = 1e9 + y + np.random.default_rng(1).normal(size=1000)
        parts = [Moments.from_arrays(x[i : i + 100], y[i : i + 100]) for i in range(0, 1000, 100)]
        merged = parts[0]
        for part in parts[1:]:
            merged = merged.merge(part)
        exact = scipy.stats.pearsonr(x - 1e9, y)[0]
        assert merged.pearson() == pytest.approx(exact, abs=1e-6)
        assert Moments.from_arrays(x, y).pearson() == pytest.approx(exact, abs=1e-6)

    def test_moments_about_another_point_are_sums_about_it(self) -> None:
        x, y = np.array([1.0, 2.0, 4.5, 7.0]), np.array([3.0, -1.0, 0.5, 2.0])
        u, v = x - 3.0, y - 2.0
        want = Moments(4, u.sum(), v.sum(), (u * u).sum(), (v * v).sum(), (u * v).sum(), 3.0, 2.0)
        assert Moments.from_arrays(x, y).about(0.5, -4.0).about(3.0, 2.0) == pytest.approx(want)

    def test_merged_moments_are_about_the_common_mean(self) -> None:
        x, y = np.array([1.0, 2.0, 4.5, 7.0]), np.array([3.0, -1.0, 0.5, 2.0])
        merged = Moments.from_arrays(x[:1], y[:1]).merge(Moments.from_arrays(x[1:], y[1:]))
        assert merged == pytest.approx(Moments.from_arrays(x, y), abs=1e-12)

    def test_merged_constants_are_still_constant(self) -> None:
        """Although their means, as sum / n, differ in the last digit between 3 and 7 times 0.1."""
        parts = [Moments.from_arrays(np.full(n, 0.1), np.arange(n)) for n in (3, 7, 11)]
        merged = parts[0].merge(parts[1]).merge(parts[2])
        assert merged.n == 21
        assert math.isnan(merged.pearson())

    def test_rounding_does_not_take_a_correlation_past_one(self) -> None:
        assert Moments(3, 0, 0, 1, 1, 1 + 1e-12).pearson() == 1.0
        assert Moments(3, 0, 0, 1, 1, -1 - 1e-12).pearson() == -1.0

    def test_sums_about_a_fixed_shift_as_a_device_gives_them(self) -> None:
        generator = np.random.default_rng(2)
        y = generator.uniform(0, 5, 400)
        x = y + generator.normal(size=400)
        u, v = x - 2.5, y - 2.5
        sums = [400, u.sum(), v.sum(), (u * u).sum(), (v * v).sum(), (u * v).sum()]
        moments = Moments._make([*sums, 2.5, 2.5])
        assert moments.pearson() == pytest.approx(scipy.stats.pearsonr(x, y)[0], abs=1e-12)
        assert moments.means() == pytest.approx((x.mean(), y.mean()))

    def test_a_constant_gives_nan_even_where_its_moments_were_rounded(self) -> None:
        x, y = np.full(3, 0.1), np.array([1.0, 2.0, 4.0])
        assert math.isnan(Moments.from_arrays(x, y).pearson())
        rounded = Moments(3, 0.3, 7.0, 0.0300001, 21.0, 0.7)
        assert math.isfinite(rounded.pearson())
        got = regression_metrics(rounded, x, y, ["pearson", "spearmanr"])
        assert list(got) == ["pearson", "spearmanr"]
        assert all(math.isnan(value) for value in got.values())

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_what_is_not_finite_gives_nan_as_in_scipy(self, bad: float) -> None:
        x, y = np.array([1.0, bad, 3.0]), np.array([1.0, 2.0, 3.0])
        assert math.isnan(Moments.from_arrays(x, y).pearson())
        expected = math.nan if math.isnan(bad) else scipy.stats.spearmanr(x, y)[0]
        np.testing.assert_allclose(spearman(x, y), expected)

    def test_one_example_has_no_correlation(self) -> None:
        got = regression_metrics(Moments.from_arrays([1.0], [2.0]), [1.0], [2.0], ["pearson", "spearmanr"])
        assert all(math.isnan(value) for value in got.values())
        assert math.isnan(Moments(1, 1.1, 1.1, 1.22, 1.22, 1.22).pearson())  # rounded sums: 1.22 > 1.1^2
        assert math.isnan(Moments(0, 0, 0, 0, 0, 0).pearson())

    def test_wrong_sizes(self) -> None:
        with pytest.raises(ValueError, match=r"predictions are \[2\] and labels \[2\], must be .* n = 3, the examples"):
            regression_metrics(Moments.from_arrays([1, 2, 3], [1, 2, 3]), [1, 2], [1, 2], ["pearson"])
        with pytest.raises(ValueError, match=r"x is \[2\] and y \[3\], must be \[n\] and \[n\]"):
            Moments.from_arrays([1, 2], [1, 2, 3])
        with pytest.raises(ValueError, match=r"metric = 'f1', must be one of pearson, spearmanr"):
            regression_metrics(Moments.from_arrays([1, 2], [1, 2]), [1, 2], [1, 2], ["f1"])


@given(st.lists(NUMBERS, max_size=40))
@FEW
def test_ranks_equal_scipy(values: list[float]) -> None:
    np.testing.assert_array_equal(average_ranks(values), scipy.stats.rankdata(values))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_against_evaluate(name: str) -> None:
    task, generator = get_task(name), np.random.default_rng(3)
    labels: np.ndarray
    if task.regression:
        labels = generator.integers(0, 26, 200) / 5
        predictions = labels + generator.normal(size=200)
        got = task_metrics(task, predictions=predictions, labels=labels)
        given_moments = task_metrics(
            task, moments=Moments.from_arrays(predictions, labels), predictions=predictions, labels=labels
        )
        assert got == given_moments
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
