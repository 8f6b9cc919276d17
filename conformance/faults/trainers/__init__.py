"""Id -> a wrong trainer: the faults seeded in a trainer in NumPy, which is right without them.

`--adapter sftref.conformance.faults.trainers:` with the id of a fault behind it, underscores for its hyphens, has
`verify` judge one; `:NumpyTrainer` is the right one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..backend.seeding import Instead
from . import wrong_runs, wrong_steps, wrong_sums
from .numpy_trainer import NumpyTrainer, OnDevices

WRONG = wrong_sums.wrong | wrong_steps.wrong | wrong_runs.wrong
# What a trainer that only adds up shards takes for devices: it has as many as it is asked for, on any machine.
DEVICES = 8


def trainer(fault: str | None = None) -> NumpyTrainer:
    """The trainer that has a fault, or the right one.

    Raises:
        ValueError: there is no such fault.
    """
    if fault is not None and fault not in WRONG:
        raise ValueError(f"fault = {fault}, must be one of {', '.join(WRONG)}")
    return WRONG[fault]() if fault else NumpyTrainer()


def seeded_ids() -> list[str]:
    """The ids of the faults that this module seeds."""
    return list(WRONG)


@contextlib.contextmanager
def seed(fault: str) -> Iterator[Instead | None]:
    """A wrong trainer in place of the subject; it is held against the right one, which compiles nothing either."""
    subject = trainer(fault)
    instead: Instead = {"subject": subject, "against": NumpyTrainer()}
    yield instead if isinstance(subject, OnDevices) else instead | {"devices": list(range(DEVICES))}


def __getattr__(name: str) -> type[NumpyTrainer]:
    """`subjects:mean_of_means` is the factory of that fault."""
    fault = name.replace("_", "-")
    if fault not in WRONG:
        raise AttributeError(f"{name} is no seeded fault of {__name__}")
    return WRONG[fault]
