"""A trainer, a run and its calls -> the run made again: copies of what the trainer gets and returns."""

from typing import Any

import numpy as np

from ....adapter import HostBatch, StepResult
from ....oracle.variants.replay import Call, Log
from ..compilation import precision


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


def made(trainer: Any, log: Log, calls: list[tuple[str, HostBatch | None]]) -> Log:
    """The run of these calls from the start of `log`."""
    run = Log(log.case, log.params, log.n)
    with precision(log.case):
        trainer.start(log.case, {name: np.array(leaf) for name, leaf in log.params.items()}, log.n)
        run.calls += called(trainer, calls)
    return run


def called(trainer: Any, calls: list[tuple[str, HostBatch | None]]) -> list[Call]:
    """These calls of a trainer that has started, with copies of what they get and return."""
    made = []
    for method, batch in calls:
        result = getattr(trainer, method)(*(() if batch is None else (copied_batch(batch),)))
        made.append(Call(method, batch, copied(result)))
    return made
