"""Times of two sides -> how many times as long the second takes, an interval, and one word: statistics, no clock.

Times on a busy machine are skewed, drift, and have outliers, so nothing here takes a mean of seconds or supposes a
normal distribution of them. Everything works on logarithms of ratios:

- *pairs* (two sides timed in turn): the Hodges-Lehmann estimate and the signed-rank interval (Hollander, Wolfe and
  Chicken, *Nonparametric Statistical Methods*, 3rd ed., 2014, sections 3.2 and 3.4). It is exact for any distribution
  that is symmetric, and the ratio of two turns that nothing tells apart is, since either could have been the first.
- *runs* (now against stored ones): each run is one number, as what differs from process to process (where memory came
  to lie, what the neighbours did) is shared by all rounds of a run and no number of rounds averages it out. How runs
  scatter is measured on the stored ones.

A time is *slower* when it is certain to take longer by more than half of what matters, and *not slower* when it is
certain not to take longer by what matters. Half, so that neither a run that is as fast as before nor one that is slower
by exactly what matters sits on the edge of its word.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

PASS, FAIL, AMBIGUOUS = "PASS", "FAIL", "AMBIGUOUS"
# How often a run of all benchmarks may call a machine slower that is not; shared among what it judges.
FALSE_ALARMS = 0.01
# What the scatter of all benchmarks together is worth beside one's own, in degrees of freedom. Benchmarks scatter by 2
# to 20 % here, and with more than this the noisy ones would raise false alarms: in `test_intervals.py` 0.8 % of runs.
POOLED_WORTH = 4
# More rounds than this are not asked for: the machine is too noisy for the question.
MOST_ROUNDS = 100_000


class Ratio(NamedTuple):
    """How many times as long: an estimate, an interval, and how many pairs or runs it rests on."""

    value: float
    low: float
    high: float
    n: int


def of_pairs(before: Sequence[float], after: Sequence[float], alarms: float) -> Ratio:
    """The ratio of pairs of times, in the order in which they were measured.

    Args:
        before: seconds [n] of the side compared with.
        after: seconds [n] of the side that is judged, each beside its neighbour in time.
        alarms: the chance that either end of the interval is on the wrong side of the truth.

    Returns:
        The ratio and its interval, whose ends are 0 and infinity where n is too small for so few alarms.

    Raises:
        ValueError: the sides differ in length, there is no pair, or a time is not positive.
    """
    a, b = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if a.shape != b.shape or a.size == 0 or not (a > 0).all() or not (b > 0).all():
        raise ValueError(f"pairs of {a.size} and {b.size} times, must be as many, at least one, all above 0")
    logs = np.log(b / a)
    n = len(logs)
    averages = np.sort((logs[:, None] + logs[None, :])[np.triu_indices(n)] / 2)
    out = signed_rank_tail(n, alarms)
    low, high = (-math.inf, math.inf) if out is None else (averages[out], averages[-1 - out])
    return Ratio(math.exp(float(np.median(averages))), math.exp(low), math.exp(high), n)


@functools.cache
def signed_rank_tail(n: int, alarms: float) -> int | None:
    """How many of the n (n + 1) / 2 averages of pairs lie outside the interval on each side; None if none may.

    By the exact distribution of the signed-rank statistic: the sum of those of 1 .. n that n fair coins choose.
    """
    chances = np.ones(1)
    for rank in range(1, n + 1):
        grown = np.zeros(len(chances) + rank)
        grown[: len(chances)] += chances / 2
        grown[rank:] += chances / 2
        chances = grown
    below = int(np.searchsorted(np.cumsum(chances), alarms, side="right"))
    return below - 1 if below else None


class Scatter(NamedTuple):
    """The standard deviation of a run's log time about its own mean over runs, and the degrees of freedom behind it."""

    deviation: float
    freedom: int


def scatter(runs: Sequence[Sequence[float]], least: Sequence[float] | None = None) -> dict[int, Scatter]:
    """How runs scatter, for each benchmark: its own scatter, drawn towards that of all of them together.

    The moderated variance of Smyth, "Linear models and empirical Bayes methods", 2004, section 4: (d0 s0^2 + d s^2) /
    (d0 + d), with d0 + d degrees of freedom.

    Args:
        runs: for each benchmark the (normalised) times of the stored runs; each list may have a length of its own.
        least: for each, the least that it is known to scatter; where that is not 0 it says nothing of the others.

    Returns:
        By the benchmark's place, for all of them as soon as one has two runs; else empty.
    """
    known = [0.0] * len(runs) if least is None else least
    squares = [float(((np.log(r) - np.log(r).mean()) ** 2).sum()) if len(r) else 0.0 for r in runs]
    freedom = [max(len(r) - 1, 0) for r in runs]
    if not sum(freedom):
        return {}
    alike = [place for place, least_known in enumerate(known) if not least_known] or list(range(len(runs)))
    pooled = sum(squares[place] for place in alike) / max(sum(freedom[place] for place in alike), 1)
    return {
        place: Scatter(
            max(math.sqrt((POOLED_WORTH * pooled + own) / (POOLED_WORTH + df)), known[place]), POOLED_WORTH + df
        )
        for place, (own, df) in enumerate(zip(squares, freedom, strict=True))
    }


def of_runs(before: Sequence[float], after: Sequence[float], found: Scatter | None, alarms: float) -> Ratio:
    """The ratio of (normalised) times of runs: means of logarithms, by Student's t with the scatter that was found.

    Args:
        before: of the stored runs, at least one.
        after: of the runs now, at least one.
        found: how runs scatter; None where nobody knows, and then the interval is everything.
        alarms: the chance that either end of the interval is on the wrong side of the truth.
    """
    difference = float(np.log(after).mean() - np.log(before).mean())
    n = min(len(before), len(after))
    if found is None:
        return Ratio(math.exp(difference), 0.0, math.inf, n)
    error = found.deviation * math.sqrt(1 / len(before) + 1 / len(after))
    wide = float(stats.t.ppf(1 - alarms, found.freedom)) * error
    return Ratio(math.exp(difference), math.exp(difference - wide), math.exp(difference + wide), n)


def word(ratio: Ratio, matters: float) -> str:
    """`FAIL`, `PASS` or `AMBIGUOUS`, where a ratio of 1 + `matters` is the least that matters."""
    if ratio.low > 1 + matters / 2:
        return FAIL
    return PASS if ratio.high < 1 + matters else AMBIGUOUS


def needed(ratio: Ratio, matters: float) -> int | None:
    """About how many pairs it takes to tell, the scatter being as it was; None for more than is reasonable.

    An interval shrinks with the root of their number; from where the estimate lies, the nearer of the two ends that
    would decide counts.
    """
    if not (ratio.low > 0 and math.isfinite(ratio.high)):
        return 2 * ratio.n
    wide = math.log(ratio.high / ratio.low) / 2
    at = math.log(ratio.value)
    room = max(at - math.log1p(matters / 2), math.log1p(matters) - at)
    found = math.ceil(ratio.n * (wide / room) ** 2)
    return found if found <= MOST_ROUNDS else None
