"""A benchmark -> its rounds, each beside a calibration kernel, as pytest-benchmark stores them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from .bench import Bench, Benchmark
from .kernels import TRIES
from .timing import Prepared, Round, check_linear, check_waited, repeats, rounded

# A benchmark has as many rounds as fit into the seconds of its level, within these limits.
FEWEST, MOST = 12, 60
SECONDS = {"quick": 1.5, "standard": 3.0, "full": 6.0}
# Rounds of work that compiles, which takes seconds.
ONCE = {"quick": 2, "standard": 3, "full": 5}


@dataclass(frozen=True)
class Measured:
    """One benchmark in one run.

    Attributes:
        id: of the benchmark.
        seconds: by series (`wall`, `cpu`, parts), the median of one execution.
        relative: by series, the median of the ratio to the calibration kernel of the same round.
        rates: `work` in a second of wall time.
        exact: counts.
        rounds: their number.
    """

    id: str
    seconds: Mapping[str, float]
    relative: Mapping[str, float]
    rates: Mapping[str, float] = field(default_factory=dict)
    exact: Mapping[str, float] = field(default_factory=dict)
    rounds: int = 0

    def to_json(self) -> dict[str, Any]:
        """For `extra_info` in pytest-benchmark's format."""
        return {"id": self.id, "seconds": dict(self.seconds), "relative": dict(self.relative),
                "rates": dict(self.rates), "exact": dict(self.exact), "rounds": self.rounds}  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measured:
        """Back from `to_json`."""
        return cls(**value)


class Timer:
    """Runs the rounds of one benchmark and keeps their times; a round is `before`, then `during`.

    Args:
        prepared: the work.
        kernel: its calibration kernel.
        repeat: executions of a round.
    """

    def __init__(self, prepared: Prepared, kernel: Callable[[], Any], repeat: int) -> None:
        self.prepared, self.kernel, self.repeat = prepared, kernel, repeat
        self.beside: list[Round] = []
        self.rounds: list[Round] = []
        self.parts: list[Mapping[str, float]] = []

    def before(self) -> None:
        """Time the kernel."""
        self.beside.append(min(rounded(self.kernel, 1) for _ in range(TRIES)))

    def during(self) -> None:
        """Time the work."""
        self.rounds.append(rounded(self.prepared.run, self.repeat))
        if self.prepared.parts is not None:
            self.parts.append(self.prepared.parts())

    def series(self, *, cpu: bool) -> dict[str, list[tuple[float, float]]]:
        """(seconds, seconds of the kernel) of each round, by series; processor time if `cpu`, for devices of a CPU."""
        series = {"wall": [(r.wall, k.wall) for r, k in zip(self.rounds, self.beside, strict=True)]}
        if cpu and not self.prepared.once:
            series["cpu"] = [(r.cpu, k.cpu) for r, k in zip(self.rounds, self.beside, strict=True)]
        for name in self.parts[0] if self.parts else ():
            series[name] = [(part[name], k.wall) for part, k in zip(self.parts, self.beside, strict=True)]
        return {name: pairs for name, pairs in series.items() if all(a > 0 and b > 0 for a, b in pairs)}


def guard(run: Callable[[], Any], repeat: int) -> None:
    """Check that the work is done in each execution, and over when it returns.

    Raises:
        WrongResultError: it is not.
    """
    check_linear(run, repeat)
    check_waited(run, repeat, lambda: jax.block_until_ready(jax.live_arrays()))


def measure(entry: Benchmark, bench: Bench, kernel: Callable[[], Any], level: str, fixture: Any) -> Measured:
    """Prepare a benchmark, check it, and time it with pytest-benchmark's fixture.

    Args:
        entry: the benchmark.
        bench: shared by all.
        kernel: its calibration kernel.
        level: of the run; a higher one takes longer.
        fixture: pytest-benchmark's `benchmark`.

    Raises:
        WrongResultError: results are wrong, or the work is not done while it is timed.
    """
    prepared = entry.build(bench)
    cpu = bench.devices[0].platform == "cpu"
    if prepared.once:
        repeat, count = 1, ONCE[level]
    else:
        repeat = repeats(prepared.run)
        guard(prepared.run, repeat)
        each = rounded(prepared.run, repeat).wall * repeat + TRIES * rounded(kernel, 1).wall
        count = int(min(max(SECONDS[level] / each, FEWEST), MOST))
    timer = Timer(prepared, kernel, repeat)

    def before() -> None:
        # pytest-benchmark's own table shows the time of one execution.
        fixture.stats.iterations = repeat
        timer.before()

    fixture.group = entry.group
    fixture.pedantic(timer.during, setup=before, rounds=count)
    series = timer.series(cpu=cpu)
    seconds = {name: statistics.median(a for a, _ in pairs) for name, pairs in series.items()}
    measured = Measured(
        id=entry.id,
        seconds=seconds,
        relative={name: statistics.median(a / b for a, b in pairs) for name, pairs in series.items()},
        rates={name: amount / seconds["wall"] for name, amount in prepared.work.items()},
        exact=prepared.exact,
        rounds=count,
    )
    fixture.extra_info["sftref"] = measured.to_json()
    return measured
