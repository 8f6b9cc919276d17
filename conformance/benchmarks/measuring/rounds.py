"""Benchmark -> the times of its rounds, each after a calibration kernel, as pytest-benchmark stores them."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import jax

from .bench import Bench, Benchmark
from .kernels import TRIES
from .timing import Prepared, Round, check_linear, check_waited, repeats, rounded

# A benchmark has as many rounds as fit into the seconds of its level, within these limits.
FEWEST, MOST = 12, 60
SECONDS = {"quick": 1.5, "standard": 3.0, "full": 6.0}
# Number of rounds of work that compiles, since such a round takes seconds.
ONCE = {"quick": 2, "standard": 3, "full": 5}


@dataclass(frozen=True)
class Measured:
    """The measurement of one benchmark in one run."""

    id: str  # of the benchmark
    seconds: Mapping[str, float]  # series (`wall`, `cpu`, parts) -> the median of one execution
    relative: Mapping[str, float]  # series -> the median of the ratio to the calibration kernel of the same round
    rates: Mapping[str, float] = field(default_factory=dict)  # `work` in a second of wall time
    exact: Mapping[str, float] = field(default_factory=dict)  # counts that are the same in every run
    rounds: int = 0  # the number of rounds


class Work:
    """One benchmark's work, and its executions in a round; checks that each does all the work before it returns."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.repeat = prepared, 1
        if not prepared.once:
            self.repeat = repeats(prepared.run)
            check_linear(prepared.run, self.repeat)
            check_waited(prepared.run, self.repeat, lambda: jax.block_until_ready(jax.live_arrays()))

    def round(self) -> dict[str, float]:
        """Run a round; returns seconds of one execution: wall time, processor time, and the time of each part."""
        took = rounded(self.prepared.run, self.repeat)
        return took._asdict() | dict(self.prepared.parts() if self.prepared.parts else {})


def measure(entry: Benchmark, bench: Bench, kernel: Callable[[], Any], level: str, fixture: Any) -> Measured:
    """Prepare a benchmark, check it, and time it beside its calibration kernel with pytest-benchmark's `benchmark`.

    Raises:
        WrongResultError: results are wrong, or work is skipped or done after its execution was timed.
    """
    prepared = entry.build(bench)
    work = Work(prepared)
    if prepared.once:
        count = ONCE[level]
    else:
        each = rounded(prepared.run, work.repeat).wall * work.repeat + TRIES * rounded(kernel, 1).wall
        count = int(min(max(SECONDS[level] / each, FEWEST), MOST))
    rounds: list[dict[str, float]] = []
    beside: list[Round] = []

    def before() -> None:
        # pytest-benchmark's own table shows the time of one execution.
        fixture.stats.iterations = work.repeat
        beside.append(min(rounded(kernel, 1) for _ in range(TRIES)))

    fixture.group = entry.group
    fixture.pedantic(lambda: rounds.append(work.round()), setup=before, rounds=count)
    # (seconds, seconds of the kernel) of each round; processor time measures the work only if a CPU does it.
    cpu = bench.devices[0].platform == "cpu" and not prepared.once
    timed = {
        name: [(r[name], k.cpu if name == "cpu" else k.wall) for r, k in zip(rounds, beside, strict=True)]
        for name in rounds[0] if cpu or name != "cpu"
    }  # fmt: skip
    series = {name: pairs for name, pairs in timed.items() if all(a > 0 and b > 0 for a, b in pairs)}
    seconds = {name: statistics.median(a for a, _ in pairs) for name, pairs in series.items()}
    measured = Measured(
        id=entry.id, seconds=seconds, rounds=count, exact=prepared.exact,
        relative={name: statistics.median(a / b for a, b in pairs) for name, pairs in series.items()},
        rates={name: amount / seconds["wall"] for name, amount in prepared.work.items()},
    )  # fmt: skip
    fixture.extra_info["sftref"] = asdict(measured)
    return measured
