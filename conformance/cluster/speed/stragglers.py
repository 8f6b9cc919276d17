"""Seconds of repeated work on each process -> the processes that are slower than the others beyond the noise.

Each process measures in `BLOCKS` blocks of time, at the same time as the others (`workload.measure`). A block's time is
a low quantile of its repetitions, since other work on a machine only adds time. The block's ratio is that time divided
by the (lower) median of all processes in the same block, so that drifts which all processes share cancel. The interval
of the ratio is the signed-rank interval over blocks (`benchmarks.judging.intervals`), which assumes no normal
distribution, at the level `FALSE_ALARMS` divided by the number of processes and measurements (Bonferroni). A process is
named if its whole interval is above `LIMIT`, half of the slow-down that matters: right hosts differ by some per cent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...benchmarks.judging.intervals import FALSE_ALARMS, of_pairs

# The smallest slow-down that matters, and the limit above which the whole interval must be.
MATTERS = 0.10
LIMIT = 1 + MATTERS / 2
# Signed ranks of 30 blocks have 2^30 equally likely signs: enough for the level of 1,024 processes and 4 measurements.
BLOCKS = 30
QUANTILE = 0.25

Times = Mapping[str, Mapping[int, Sequence[float]]]


@dataclass(frozen=True)
class Straggler:
    """A process that is slower than the others.

    Attributes:
        process: its number.
        what: the name of the measurement.
        ratio: its time divided by the median time of all processes, with the interval from `low` to `high`.
        samples: the number of its blocks or repetitions.
    """

    process: int
    what: str
    ratio: float
    low: float
    high: float
    samples: int

    def to_json(self) -> dict[str, Any]:
        """The entry in report.json, without the host."""
        return asdict(self) | {name: round(getattr(self, name), 4) for name in ("ratio", "low", "high")}


def stragglers(times: Times, kinds: Mapping[int, str] | None = None) -> list[Straggler]:
    """The processes that are slower than the others, the slowest first.

    Args:
        times: measurement -> process -> seconds of each repetition, in order; processes with fewer than `BLOCKS`
            repetitions are left out, and measurements with fewer than two processes.
        kinds: process -> the kind of its devices; only processes of the same kind are compared. None: all are.
    """
    named = []
    groups = [(what, group) for what, by_process in times.items() for group in _groups(by_process, kinds)]
    comparisons = sum(len(group) for _, group in groups)
    for what, group in groups:
        blocks = np.stack([_blocks(group[process]) for process in group])
        # The lower of the two middle ones of an even number: of two processes, the faster one.
        usual = np.sort(blocks, axis=0)[(len(group) - 1) // 2]
        for process, mine in zip(group, blocks, strict=True):
            # A cheap test first: no interval of a process that is faster in most blocks can be above the limit.
            if np.median(mine / usual) > LIMIT:
                ratio = of_pairs(usual.tolist(), mine.tolist(), FALSE_ALARMS / comparisons)
                if ratio.low > LIMIT:
                    one = Straggler(process, what, ratio.value, ratio.low, ratio.high, len(group[process]))
                    named.append(one)
    return sorted(named, key=lambda one: -one.ratio)


def summary(times: Times, processes: int) -> dict[str, list[list[float] | None]]:
    """Measurement -> [median, lower quartile, upper quartile] of the seconds of each process; None if not measured."""
    return {
        what: [_summary(by_process.get(process, ())) for process in range(processes)]
        for what, by_process in times.items()
    }


def _summary(seconds: Sequence[float]) -> list[float] | None:
    good = [value for value in seconds if math.isfinite(value)]
    return [float(f"{value:.4g}") for value in np.quantile(good, (0.5, 0.25, 0.75))] if good else None


def _groups(by_process: Mapping[int, Sequence[float]], kinds: Mapping[int, str] | None) -> list[dict[int, Any]]:
    """The processes that are compared with each other, with their usable seconds."""
    groups: dict[str, dict[int, Any]] = {}
    for process in sorted(by_process):
        seconds = np.asarray(by_process[process], np.float64)
        if len(seconds) >= BLOCKS and np.isfinite(seconds).all() and (seconds > 0).all():
            groups.setdefault((kinds or {}).get(process, ""), {})[process] = seconds
    return [group for group in groups.values() if len(group) > 1]


def _blocks(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The time of each block, [BLOCKS]; repetitions beyond a multiple of `BLOCKS` are left out."""
    each = len(seconds) // BLOCKS
    return np.quantile(seconds[: each * BLOCKS].reshape(BLOCKS, each), QUANTILE, axis=1)
