"""Calls that take turns -> seconds of each, and ratios with medians and quartiles."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Spent(NamedTuple):
    """Seconds of one call: wall time, and processor time of the process that ran it."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> Spent:
    """Seconds of a call in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def in_turn(calls: Mapping[str, Callable[[], Spent]], rounds: int) -> dict[str, list[Spent]]:
    """The seconds of `rounds` calls each; the order is reversed in every second round."""
    seconds: dict[str, list[Spent]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            seconds[name].append(calls[name]())
        shown = ", ".join(f"{name} {spent[-1].wall:.2f} s" for name, spent in seconds.items())
        print(f"round {number + 1}: {shown}; load {Path('/proc/loadavg').read_text().split()[0]}", flush=True)
    return seconds


def ratio(base: Sequence[float], mine: Sequence[float]) -> str:
    """Mine / base within each round: the median and the quartiles, as text."""
    each = [m / b for b, m in zip(base, mine, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def table(title: str, seconds: Mapping[str, Sequence[Spent]], base: str) -> None:
    """Print a row for each call, with its times over those of `base`."""
    print(f"\n| {title} | wall, s | over {base}, wall | processor time |\n|---|---|---|---|")
    for name, spent in seconds.items():
        walls, cpus = ([getattr(s, clock) for s in spent] for clock in Spent._fields)
        against = [[getattr(s, clock) for s in seconds[base]] for clock in Spent._fields]
        row = (f"{statistics.median(walls):.2f}", ratio(against[0], walls), ratio(against[1], cpus))
        print(f"| {name} | {' | '.join(row)} |", flush=True)


def peak_mib() -> float:
    """The most memory that this process has had; `ru_maxrss` would begin with that of its parent."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024
