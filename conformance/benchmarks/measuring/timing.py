"""Something to time -> rounds of it: wall seconds and processor seconds, each beside a calibration kernel's.

A round runs the work often enough to last `LEAST` seconds, between two readings of both clocks; what it computes is
waited for inside. Compilation is over before the first round. Processor time (of all threads) is blind to what else
the machine does, and to a program that waits; wall time sees both. So both are kept, and judged.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LEAST = 0.004
# Work of which a part is done once in a round, whatever its length, takes less than twice as long for twice as much.
LINEAR = (1.5, 2.6)
FEWEST_TRIES, MOST_TRIES = 2, 20
# Share of a round's time that reading its results may take afterwards.
AFTERWARDS = 0.2
MOST_REPEATS = 1 << 16


class WrongResultError(Exception):
    """What was to be timed computes something wrong, or does not do its work while it is timed: it has no speed."""


class Round(NamedTuple):
    """Seconds of one execution: by the clock on the wall, and of all of this process's threads on a processor."""

    wall: float
    cpu: float


@dataclass
class Prepared:
    """Work that is compiled, checked, and ready to be timed.

    Attributes:
        run: does it once and waits for it.
        work: what one execution does, for rates: `flops`, `bytes`, `bus_bytes`, `examples`, `tokens`.
        exact: counts that do not scatter (see `counts.py`).
        parts: reads, after each execution, what that one took in seconds, part by part; None without parts.
        once: whether one execution is a round, whatever it takes.
    """

    run: Callable[[], Any]
    work: Mapping[str, float] = field(default_factory=dict)
    exact: Mapping[str, float] = field(default_factory=dict)
    parts: Callable[[], Mapping[str, float]] | None = None
    once: bool = False


def rounded(run: Callable[[], Any], repeat: int) -> Round:
    """One round of `repeat` executions."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeat):
        run()
    return Round((time.perf_counter() - wall) / repeat, (time.process_time() - cpu) / repeat)


def repeats(run: Callable[[], Any]) -> int:
    """How often to run it in a round: the least power of two that takes `LEAST` seconds. Warms it up as well.

    By the least of several tries: a single one may be long because the machine did something else meanwhile.
    """
    run()
    count = 1
    while min(rounded(run, count).wall for _ in range(FEWEST_TRIES)) * count < LEAST and count < MOST_REPEATS:
        count *= 2
    return count


def check_waited(run: Callable[[], Any], repeat: int, pending: Callable[[], Any]) -> None:
    """Refuse work that goes on after it returned: `pending` waits for whatever may still be computed.

    Raises:
        WrongResultError: with both times.
    """
    for _ in range(MOST_TRIES):
        pending()
        took = rounded(run, repeat).wall * repeat
        began = time.perf_counter()
        pending()
        after = time.perf_counter() - began
        if after <= AFTERWARDS * max(took, LEAST):  # to look takes some microseconds, too
            return
    raise WrongResultError(
        f"after {repeat} executions in {took:.3g} s their work goes on for {after:.3g} s; it must be waited for"
    )


def check_linear(run: Callable[[], Any], repeat: int) -> None:
    """Refuse work of which twice as much does not take about twice as long: it is not done each time.

    Several tries are made, on a busy machine more than on a quiet one, and two figures of them looked at: the ratio of
    the least times, which a busy machine lengthens least, and the median of the ratios, which one lucky try cannot
    move. Either will do: work that is not done each time moves both.

    Raises:
        WrongResultError: with both times.
    """
    once, twice = [], []
    for tries in range(1, MOST_TRIES + 1):
        once.append(rounded(run, repeat).wall * repeat)
        twice.append(rounded(run, 2 * repeat).wall * 2 * repeat)
        middle = statistics.median(b / a for a, b in zip(once, twice, strict=True))
        if tries >= FEWEST_TRIES and any(LINEAR[0] <= r <= LINEAR[1] for r in (min(twice) / min(once), middle)):
            return
    raise WrongResultError(
        f"{2 * repeat} executions take {middle:.2f} times as long as {repeat} (at the least {min(twice):.3g} s and "
        f"{min(once):.3g} s), should be 2: something in it is done once in a round, or not each time"
    )
