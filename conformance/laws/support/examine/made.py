"""A trainer, a run and its calls -> the run made again: copies of what the trainer gets and returns."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....adapter import HostBatch, StepResult
from ....core.check import AdapterRaised, NotRun
from ....oracle.variants.located import pairs, whole
from ....oracle.variants.replay import Call, Log
from ..compilation import precision

Calls = list[tuple[str, HostBatch | None]]
RESTART = ("save", "start", "restore")


@dataclass(frozen=True)
class Until:
    """When an examination ends: by this thread's processor time, and by the clock, since a check has a deadline."""

    processor: float
    clock: float

    @classmethod
    def after(cls, processor: float, clock: float) -> "Until":
        """So many seconds from now."""
        return cls(time.thread_time() + processor, time.monotonic() + clock)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return time.thread_time() > self.processor or time.monotonic() > self.clock


def copied(result: Any) -> Any:
    """A copy in float64 of what a method returned."""
    if isinstance(result, StepResult) or hasattr(result, "_fields"):
        return StepResult(float(result.loss), float(result.learning_rate))
    if isinstance(result, (tuple, list)):
        return tuple(copied(one) for one in result)
    if hasattr(result, "items"):
        return {name: np.array(leaf, np.float64) for name, leaf in result.items()}
    return None if result is None else np.array(result, np.float64)


def copied_batch(batch: HostBatch) -> HostBatch:
    """A copy of a batch: a trainer may write into its own."""
    return HostBatch(*(np.array(leaf) for leaf in batch))


def simple(log: Log) -> Calls:
    """The calls of a run, without those that save and restore."""
    return [(call.method, call.batch) for call in log.calls if call.method not in RESTART]


def restarts(log: Log) -> bool:
    """Whether a run saves or restores."""
    return any(call.method in RESTART for call in log.calls)


def made(trainer: Any, log: Log, calls: Calls) -> Log:
    """The run of these calls from the start of `log`."""
    run = Log(log.case, log.params, log.n)
    with precision(log.case):
        trainer.start(log.case, {name: np.array(leaf) for name, leaf in log.params.items()}, log.n)
        run.calls += called(trainer, calls)
    return run


def called(trainer: Any, calls: Calls) -> list[Call]:
    """These calls of a trainer that has started, with copies of what they get and return."""
    made = []
    for method, batch in calls:
        result = getattr(trainer, method)(*(() if batch is None else (copied_batch(batch),)))
        made.append(Call(method, batch, copied(result)))
    return made


def attempted(trainer: Any, log: Log, calls: Calls | None = None) -> Log | None:
    """The run of these calls, or of all of `log`; None if the trainer does not claim them, or raises."""
    try:
        return made(trainer, log, simple(log) if calls is None else calls)
    except (NotRun, AdapterRaised):
        return None


def margin_of(trainer: Any, log: Log, calls: Calls | None = None) -> float | None:
    """The largest error of that run beside the oracle's, in units of its bound; None as for `attempted`."""
    run = attempted(trainer, log, calls)
    return None if run is None else whole(pairs(run))
