"""Times of two sides -> the ratio of the second to the first, its interval, and PASS, FAIL or AMBIGUOUS.

Times on a busy machine are skewed, drift, and have outliers, so nothing here takes a mean of seconds or assumes a
normal distribution. Everything works on logarithms of ratios:

- *pairs* (two sides timed in turn): the Hodges-Lehmann estimate and the signed-rank interval (Hollander, Wolfe and
  Chicken, *Nonparametric Statistical Methods*, 3rd ed., 2014, sections 3.2 and 3.4). It is exact for any symmetric
  distribution, and the log ratio of two equivalent turns is symmetric, since either could have been the first.
- *runs* (this run compared with stored ones): each run is one number, because all rounds of a run share what differs
  between processes (addresses, other load), and more rounds do not average it out. The scatter between runs is
  measured on the stored ones.

With m, the smallest slow-down that matters: FAIL if the whole interval is above 1 + m / 2, PASS if it ends below 1 + m.
The limit of FAIL has m / 2, so that a run that is equally fast or slower by exactly m is at the edge of no verdict.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

PASS, FAIL, AMBIGUOUS = "PASS", "FAIL", "AMBIGUOUS"
# The probability that a run of all benchmarks has a false alarm; shared among all its comparisons.
FALSE_ALARMS = 0.01
# The weight, in degrees of freedom, of the scatter of all benchmarks against a benchmark's own. Benchmarks scatter by 2
# to 20 %. With a larger weight the noisy ones raise false alarms; with this one, 0.8 % of the runs of a test had one.
POOLED_WORTH = 4
# Up to this many pairs, the distribution of the signed-rank statistic is computed exactly; it takes n^3 operations.
MOST_EXACT = 800
# If more rounds than this are needed, the machine is too noisy.
MOST_ROUNDS = 100_000


@dataclass(frozen=True)
class Ratio:
    """A ratio of times: an estimate, an interval, and the number of pairs or runs behind it."""

    value: float
    low: float
    high: float
    n: int


def of_pairs(before: Sequence[float], after: Sequence[float], alarms: float) -> Ratio:
    """The ratio of pairs of times: seconds [n] of the first side, and of the second, each measured beside its partner.

    `alarms` is the probability that the true ratio is beyond one end of the interval; if n is too small for it, the
    ends are 0 and infinity.

    Raises:
        ValueError: the sides differ in length, there is no pair, or a time is not positive.
    """
    a, b = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if a.shape != b.shape or a.size == 0 or not (a > 0).all() or not (b > 0).all():
        raise ValueError(f"{a.size} and {b.size} times, must be equally many, at least one, all above 0")
    logs = np.log(b / a)
    n = len(logs)
    averages = np.sort((logs[:, None] + logs[None, :])[np.triu_indices(n)] / 2)
    out = signed_rank_tail(n, alarms)
    low, high = (-math.inf, math.inf) if out is None else (averages[out], averages[-1 - out])
    return Ratio(math.exp(float(np.median(averages))), math.exp(low), math.exp(high), n)


@functools.cache
def signed_rank_tail(n: int, alarms: float) -> int | None:
    """How many of the n (n + 1) / 2 pairwise averages are outside the interval on each side; None if n is too small.

    The number follows from the exact distribution of the signed-rank statistic, the sum of a random subset of 1 .. n.
    Above `MOST_EXACT` pairs it is that of the normal distribution with the same mean and variance (section 3.1). The
    statistic has lighter tails than this distribution, so the interval becomes slightly wider.
    """
    if n > MOST_EXACT:
        deviation = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return math.floor(n * (n + 1) / 4 + stats.norm.ppf(alarms) * deviation) - 1
    chances = np.ones(1)
    for rank in range(1, n + 1):
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    below = int(np.searchsorted(np.cumsum(chances), alarms, side="right"))
    return below - 1 if below else None


class Scatter(NamedTuple):
    """The standard deviation of log times between runs, and its degrees of freedom."""

    deviation: float
    freedom: int


def scatter(runs: Sequence[Sequence[float]], least: Sequence[float] | None = None) -> list[Scatter]:
    """Each benchmark's scatter between runs, shrunk towards that of all benchmarks; empty if none has two runs.

    The moderated variance of Smyth, "Linear models and empirical Bayes methods", 2004, section 4: (d0 s0^2 + d s^2) /
    (d0 + d), with d0 + d degrees of freedom.

    Args:
        runs: for each benchmark, the (normalised) times of the stored runs; the lists may differ in length.
        least: for each benchmark, a known lower bound of its scatter; benchmarks with a bound above 0 are not pooled.
    """
    known = [0.0] * len(runs) if least is None else least
    squares = [float(((np.log(r) - np.log(r).mean()) ** 2).sum()) if len(r) else 0.0 for r in runs]
    freedom = [max(len(r) - 1, 0) for r in runs]
    if not sum(freedom):
        return []
    alike = [place for place, bound in enumerate(known) if not bound] or list(range(len(runs)))
    pooled = sum(squares[place] for place in alike) / max(sum(freedom[place] for place in alike), 1)
    return [
        Scatter(max(math.sqrt((POOLED_WORTH * pooled + own) / (POOLED_WORTH + df)), bound), POOLED_WORTH + df)
        for own, df, bound in zip(squares, freedom, known, strict=True)
    ]


def of_runs(before: Sequence[float], after: Sequence[float], spread: Scatter | None, alarms: float) -> Ratio:
    """The ratio of the present to the stored runs' (normalised) times, at least one of each, by means of logarithms.

    The interval is Student's t, or 0 to infinity if the scatter between runs, `spread`, is not known; `alarms` is the
    probability that the true ratio is beyond one end of the interval.
    """
    difference = float(np.log(after).mean() - np.log(before).mean())
    n = min(len(before), len(after))
    if spread is None:
        return Ratio(math.exp(difference), 0.0, math.inf, n)
    error = spread.deviation * math.sqrt(1 / len(before) + 1 / len(after))
    wide = float(stats.t.ppf(1 - alarms, spread.freedom)) * error
    return Ratio(math.exp(difference), math.exp(difference - wide), math.exp(difference + wide), n)


def share(look: int, looks: Sequence[int]) -> float:
    """The part of the probability of a false alarm that one of several looks at growing data has; all parts sum to 1.

    Parts are proportional to the number of pairs, so that the last look, which decides close cases, has the largest.
    """
    return look / sum(looks)


def word(ratio: Ratio, matters: float) -> str:
    """`FAIL`, `PASS` or `AMBIGUOUS`, if a ratio of 1 + `matters` is the smallest that matters."""
    if ratio.low > 1 + matters / 2:
        return FAIL
    return PASS if ratio.high < 1 + matters else AMBIGUOUS


def needed(ratio: Ratio, matters: float) -> int | None:
    """About how many pairs are needed for PASS or FAIL if the scatter stays the same; None if above `MOST_ROUNDS`.

    The width of an interval is proportional to 1 / sqrt(n). It must fit between the estimate and one limit, of which
    the farther one is used.
    """
    if not (ratio.low > 0 and math.isfinite(ratio.high)):
        return 2 * ratio.n
    wide = math.log(ratio.high / ratio.low) / 2
    at = math.log(ratio.value)
    room = max(at - math.log1p(matters / 2), math.log1p(matters) - at)
    pairs = math.ceil(ratio.n * (wide / room) ** 2)
    return pairs if pairs <= MOST_ROUNDS else None
