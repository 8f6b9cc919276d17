"""Work -> its time in rounds, in wall seconds and processor seconds.

A round executes the work and waits for its results, often enough to last `LEAST` seconds, between two readings of both
clocks. Compilation is over before the first round. Processor time (of all threads) does not depend on other processes,
but misses the time that a program waits; wall time includes both. So both are stored and judged.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LEAST = 0.004
# Limits of (time of 2 n executions) / (time of n). Work that is done only once in a round makes the ratio smaller.
LINEAR = (1.5, 2.6)
FEWEST_TRIES, MOST_TRIES = 2, 20
# Time that waiting for results may take after a round, as a share of the round.
AFTERWARDS = 0.2
MOST_REPEATS = 1 << 16


class WrongResultError(Exception):
    """The work computes wrong results, or an execution skipped work or returned before its work had finished."""


class Round(NamedTuple):
    """Seconds of one execution: wall time, and processor time of all threads of this process."""

    wall: float
    cpu: float


@dataclass
class Prepared:
    """Work that is compiled, checked, and ready to time."""

    run: Callable[[], Any]  # runs it once and waits for its results
    # Amounts of work of one execution, for rates: `flops`, `bytes`, `bus_bytes`, `examples`, `tokens`.
    work: Mapping[str, float] = field(default_factory=dict)
    # Counts that are the same in every run (see `trainers.exact_of`).
    exact: Mapping[str, float] = field(default_factory=dict)
    # Returns the seconds of each part of the last execution; None without parts.
    parts: Callable[[], Mapping[str, float]] | None = None
    once: bool = False  # whether a round is a single execution


def rounded(run: Callable[[], Any], repeat: int) -> Round:
    """Run one round of `repeat` executions; returns the seconds of one execution."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeat):
        run()
    return Round((time.perf_counter() - wall) / repeat, (time.process_time() - cpu) / repeat)


def repeats(run: Callable[[], Any]) -> int:
    """The number of executions in a round: the smallest power of two that takes `LEAST` seconds. Also warms up.

    The minimum of several tries counts, as other processes can make one try long.
    """
    run()
    count = 1
    while min(rounded(run, count).wall for _ in range(FEWEST_TRIES)) * count < LEAST and count < MOST_REPEATS:
        count *= 2
    return count


def check_waited(run: Callable[[], Any], repeat: int, pending: Callable[[], Any]) -> None:
    """Raise WrongResultError if work goes on after `run` returned; `pending` waits for all work still under way."""
    for _ in range(MOST_TRIES):
        pending()
        took = rounded(run, repeat).wall * repeat
        began = time.perf_counter()
        pending()
        after = time.perf_counter() - began
        if after <= AFTERWARDS * max(took, LEAST):  # the wait itself takes some microseconds
            return
    raise WrongResultError(
        f"after {repeat} executions in {took:.3g} s, their work goes on for {after:.3g} s: `run` does not wait for it"
    )


def check_linear(run: Callable[[], Any], repeat: int) -> None:
    """Raise WrongResultError if executions skip work: twice as many executions must take about twice as long.

    After some tries (more on a busy machine), the ratio of the minimum times or the median of the ratios must be in
    range. A busy machine affects the minimum least, and one odd try does not move the median. Skipped work moves both.
    """
    once, twice = [], []
    for tries in range(1, MOST_TRIES + 1):
        once.append(rounded(run, repeat).wall * repeat)
        twice.append(rounded(run, 2 * repeat).wall * 2 * repeat)
        middle = statistics.median(b / a for a, b in zip(once, twice, strict=True))
        if tries >= FEWEST_TRIES and any(LINEAR[0] <= r <= LINEAR[1] for r in (min(twice) / min(once), middle)):
            return
    raise WrongResultError(
        f"{2 * repeat} executions take {middle:.2f} times as long as {repeat} (minimum {min(twice):.3g} s and "
        f"{min(once):.3g} s), should be 2: part of the work is not done in each execution"
    )
