"""How often `stragglers` names a process that is 10 % slower, and how often it names a right one, on this machine.

    python tests/studies/slow_hosts.py record OUT.json --starts 10 --windows 10 --seconds 4
    python tests/studies/slow_hosts.py judge OUT.json --join 5
    python tests/studies/slow_hosts.py live --trials 20 --seconds 20

`record` starts four processes again and again, which call `workload.measure` at the same time; each window is a clean
run. `judge` counts the alarms on the clean runs, and multiplies the times of one process in turn by 1.1; `--join` makes
one run of several windows. `live` makes one process really slower: it works a tenth longer in each repetition.
"""

import argparse
import json
import multiprocessing as mp
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROCESSES, SLOWER = 4, 1.1
Run = dict[str, dict[int, list[float]]]


def child(parent: int, process: int, slower: float, windows: int, seconds: float, together: Any, out: Any) -> None:
    """One process: measure in each window, beginning together with the others."""
    import jax

    from sftref.cluster.endings import tie

    tie(parent)
    jax.config.update("jax_platforms", "cpu")
    from sftref.conformance.cluster.speed import workload

    workload.prepare()
    right = workload.repeat

    def longer(program: Callable[[], None]) -> float:
        """Work, then spin for a part of the same time, on the same clock."""
        took = right(program)
        end = time.process_time() + (slower - 1) * took
        while time.process_time() < end:
            pass
        return slower * took

    workload.repeat = longer if slower > 1 else right
    devices = jax.local_devices()
    workload.measure(devices, 0.1)  # starts the backend
    for _ in range(windows):
        together.wait(300)
        out.put((process, workload.measure(devices, seconds)))


def runs(windows: int, seconds: float, slow: int | None = None) -> Iterator[Run]:
    """Start the processes once, and yield their times in each window."""
    context = mp.get_context("spawn")
    together, out = context.Barrier(PROCESSES), context.Queue()
    children = [
        context.Process(
            target=child, args=(os.getpid(), i, SLOWER if i == slow else 1.0, windows, seconds, together, out)
        )
        for i in range(PROCESSES)
    ]
    for one in children:
        one.start()
    try:
        for _ in range(windows):
            run: Run = {}
            for _ in range(PROCESSES):
                process, times = out.get(timeout=300 + 3 * seconds)
                for what, values in times.items():
                    run.setdefault(what, {})[process] = values
            yield run
    finally:
        for one in children:
            one.join(30)
            one.kill()


def record(out: Path, starts: int, windows: int, seconds: float) -> None:
    """Write the times of `starts` times `windows` clean runs."""
    every: list[Run] = []
    for start in range(starts):
        every += runs(windows, seconds)
        out.write_text(json.dumps(every))
        print(f"{start + 1} of {starts} starts, {len(every)} runs", flush=True)


def read(source: Path) -> list[Run]:
    """The runs that `record` wrote."""
    text = json.loads(source.read_text())
    return [{what: {int(process): values for process, values in one.items()} for what, one in run.items()}
            for run in text]  # fmt: skip


def joined(every: list[Run], several: int) -> list[Run]:
    """Runs of `several` windows of one start each."""
    parts = [every[first : first + several] for first in range(0, len(every) - several + 1, several)]
    return [{what: {process: [value for run in part for value in run[what][process]] for process in one}
             for what, one in part[0].items()} for part in parts]  # fmt: skip


def scaled(run: Run, slow: int, factor: float) -> Run:
    """A run in which everything takes one process `factor` times as long."""
    return {what: {process: [value * (factor if process == slow else 1) for value in values]
                   for process, values in one.items()} for what, one in run.items()}  # fmt: skip


def judge(every: list[Run]) -> dict[str, Any]:
    """How many clean runs had an alarm, and how many slower processes were named, and others with them."""
    from sftref.conformance.cluster.speed.stragglers import stragglers

    alarms = [place for place, run in enumerate(every) if stragglers(run)]
    named = others = trials = 0
    for run in every:
        for slow in range(PROCESSES):
            processes = {one.process for one in stragglers(scaled(run, slow, SLOWER))}
            trials, named, others = trials + 1, named + (slow in processes), others + bool(processes - {slow})
    return {"clean runs": len(every), "with an alarm": alarms, "slower processes": trials, "named": named,
            "runs in which another one was named": others}  # fmt: skip


def live(trials: int, seconds: float) -> dict[str, Any]:
    """Trials with one process that is really slower."""
    from sftref.conformance.cluster.speed.stragglers import stragglers

    drawn, named, others, took = random.Random(23), 0, 0, []
    for trial in range(trials):
        slow, began = drawn.randrange(PROCESSES), time.monotonic()
        [run] = runs(1, seconds, slow)
        found = stragglers(run)
        took.append(time.monotonic() - began)
        processes = {one.process for one in found}
        named, others = named + (slow in processes), others + bool(processes - {slow})
        print(f"{trial + 1}: process {slow}; {[one.to_json() for one in found]}; {took[-1]:.1f} s", flush=True)
    return {"trials": trials, "named": named, "another one named": others, "seconds": round(max(took), 1)}


def main() -> int:
    """Do what the first word says, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("record", "judge", "live"))
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--starts", type=int, default=25)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--join", type=int, default=1)
    parser.add_argument("--trials", type=int, default=20)
    options = parser.parse_args()
    if options.what == "record":
        record(options.file, options.starts, options.windows, options.seconds)
    else:
        judged = options.what == "judge"
        result = judge(joined(read(options.file), options.join)) if judged else live(options.trials, options.seconds)
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
