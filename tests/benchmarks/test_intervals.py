"""The statistics of the benchmarks: exact where there is a formula, and as often right as they say elsewhere."""

import itertools
import math

import numpy as np
import pytest
from sftref.conformance.benchmarks import paired
from sftref.conformance.benchmarks.judging import intervals
from sftref.conformance.benchmarks.judging.intervals import FALSE_ALARMS, Ratio, Scatter

pytestmark = pytest.mark.once


@pytest.mark.parametrize("n", [1, 4, 9])
@pytest.mark.parametrize("alarms", [0.001, 0.05, 0.3])
def test_the_tail_is_that_of_all_signs(n: int, alarms: float) -> None:
    sums = [sum(rank for rank, sign in enumerate(signs, 1) if sign) for signs in itertools.product((0, 1), repeat=n)]
    allowed = [t for t in range(n * (n + 1) // 2 + 1) if sum(s <= t for s in sums) / 2**n <= alarms]
    assert intervals.signed_rank_tail(n, alarms) == (max(allowed) if allowed else None)


@pytest.mark.parametrize("alarms", [1e-6, 1e-4, 0.02])
def test_many_pairs_have_a_slightly_wider_interval_than_the_exact_one(
    alarms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = intervals.MOST_EXACT
    exact = intervals.signed_rank_tail(n, alarms)
    monkeypatch.setattr(intervals, "MOST_EXACT", n - 1)
    near = intervals.signed_rank_tail.__wrapped__(n, alarms)
    assert exact is not None
    assert 0.998 * exact <= near <= exact


def test_looks_share_one_probability() -> None:
    for looks in (paired.LOOKS, paired.FEW_LOOKS):
        shares = [intervals.share(look, looks) for look in looks]
        assert sum(shares) == pytest.approx(1)
        assert shares == sorted(shares)
        # The last look can decide when a run has all eleven benchmarks, with wall and processor time.
        assert intervals.signed_rank_tail(looks[-1], FALSE_ALARMS / 22 * shares[-1]) is not None


@pytest.mark.parametrize("shape", ["normal", "heavy tails"])
def test_equal_sides_raise_as_few_alarms_as_asked(shape: str, rng: np.random.Generator) -> None:
    trials, n, alarms = 2000, 24, 0.02
    noise = rng.standard_normal((trials, n)) if shape == "normal" else rng.standard_t(2, (trials, n))
    ratios = [intervals.of_pairs(np.ones(n), np.exp(0.1 * row), alarms) for row in noise]
    for wrong in (sum(r.low > 1 for r in ratios), sum(r.high < 1 for r in ratios)):
        # The count is binomial: five standard deviations above what was asked for.
        assert wrong <= trials * alarms + 5 * math.sqrt(trials * alarms)
        assert wrong > 0, "an interval that is never wrong is wider than it was asked to be"


def test_a_slow_down_is_found_and_placed(rng: np.random.Generator) -> None:
    before = np.exp(0.05 * rng.standard_normal(60)) * np.linspace(1, 2, 60)  # a machine that becomes slower
    ratio = intervals.of_pairs(before, 1.1 * before * np.exp(0.05 * rng.standard_normal(60)), 0.001)
    assert ratio.low < 1.1 < ratio.high
    assert ratio.value == pytest.approx(1.1, abs=0.03)
    assert intervals.word(ratio, 0.05) == "FAIL"


def test_too_few_pairs_say_nothing() -> None:
    ratio = intervals.of_pairs([1.0] * 5, [3.0] * 5, 0.001)
    assert (ratio.low, ratio.high) == (0.0, math.inf)
    assert intervals.word(ratio, 0.05) == "AMBIGUOUS"
    assert intervals.needed(ratio, 0.05) == 10


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.9, 1.04, "PASS"), (0.9, 1.05, "AMBIGUOUS"), (1.02, 1.2, "AMBIGUOUS"), (1.03, 1.04, "FAIL"), (1.1, 1.3, "FAIL")],
)
def test_a_word_for_each_interval(low: float, high: float, word: str) -> None:
    assert intervals.word(Ratio(math.sqrt(low * high), low, high, 20), 0.05) == word


def test_more_pairs_are_asked_for_the_nearer_the_edge() -> None:
    wide = 0.1
    far, near = (Ratio(v, v * math.exp(-wide), v * math.exp(wide), 20) for v in (1.1, 1.045))
    assert 20 < intervals.needed(far, 0.05) < intervals.needed(near, 0.05)  # type: ignore[operator]
    assert intervals.needed(Ratio(1.0, 1e-9, 1e9, 20), 0.0001) is None


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0], [1.0, 2.0]), ([1.0, 0.0], [1.0, 1.0])])
def test_unequal_or_non_positive_times_are_refused(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match="must be equally many, at least one, all above 0"):
        intervals.of_pairs(before, after, 0.01)


def test_scatter_is_drawn_towards_that_of_all() -> None:
    quiet, loud = [1.0, 1.0, 1.0], [1.0, math.e, math.e**2]
    scatter = intervals.scatter([quiet, loud, [1.0]])
    # Sums of squares 0 and 2 with 2 degrees of freedom each: 0.5 for all, with the weight of 4.
    assert scatter[0].deviation == pytest.approx(math.sqrt(4 * 0.5 / 6))
    assert scatter[1].deviation == pytest.approx(math.sqrt((4 * 0.5 + 2) / 6))
    assert scatter[2].deviation == pytest.approx(math.sqrt(0.5))
    assert [each.freedom for each in scatter] == [6, 6, 4]
    assert intervals.scatter([[1.0], [2.0]]) == []


def test_what_is_known_to_scatter_more_does_so_alone() -> None:
    runs = [[1.0, 1.01], [1.0, 1.0], [1.0, 2.0]]
    scatter = intervals.scatter(runs, [0.0, 0.0, 0.25])
    without = intervals.scatter(runs[:2])
    assert scatter[:2] == without
    assert scatter[2].deviation == pytest.approx(0.25)
    assert intervals.scatter([[1.0, 9.0]], [0.25])[0].deviation > 0.25


def test_runs_are_judged_by_how_runs_scatter() -> None:
    before = [1.0, 1.02, 0.98]
    quiet, loud = (intervals.of_runs(before, [1.2], Scatter(s, 20), 0.001) for s in (0.01, 0.2))
    assert intervals.word(quiet, 0.05) == "FAIL"
    assert intervals.word(loud, 0.05) == "AMBIGUOUS"
    assert quiet.value == loud.value == pytest.approx(1.2, rel=1e-3)
    unknown = intervals.of_runs(before, [5.0], None, 0.001)
    assert intervals.word(unknown, 0.05) == "AMBIGUOUS"


@pytest.mark.parametrize(("quietest", "loudest"), [(0.05, 0.05), (0.02, 0.2)])
def test_equal_runs_raise_as_few_alarms_as_asked(quietest: float, loudest: float, rng: np.random.Generator) -> None:
    # With a weight of 28 degrees of freedom for the pooled scatter, 4.7 % of these runs had an alarm, and 4.5 % of real
    # runs.
    trials, series, runs = 3_000, 14, 3
    wrong = 0
    for _ in range(trials):
        deviation = np.exp(rng.uniform(math.log(quietest), math.log(loudest), series))
        stored = np.exp(deviation[:, None] * rng.standard_normal((series, runs)))
        now = np.exp(deviation * rng.standard_normal(series))
        scatter = intervals.scatter(stored.tolist())
        ratios = [intervals.of_runs(stored[s], [now[s]], scatter[s], FALSE_ALARMS / series) for s in range(series)]
        wrong += any(intervals.word(ratio, 0.05) == "FAIL" for ratio in ratios)
    assert wrong <= trials * FALSE_ALARMS + 3 * math.sqrt(trials * FALSE_ALARMS)
