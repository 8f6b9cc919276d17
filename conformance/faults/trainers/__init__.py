"""Fault id -> a wrong trainer: the faults seeded in a trainer in NumPy that is right without them.

`--adapter sftref.conformance.faults.trainers:mean_of_means` runs the trainer of the fault mean-of-means, and
`:NumpyTrainer` the right one.
"""

import contextlib
from collections.abc import Iterator

from ..backend.seeding import Fixtures, WrongTrainers
from . import wrong_runs, wrong_steps, wrong_sums
from .numpy_trainer import NumpyTrainer, OnDevices

WRONG = WrongTrainers(NumpyTrainer, "numpy")
WRONG.update(wrong_sums.wrong | wrong_steps.wrong | wrong_runs.wrong)
# `trainers:mean_of_means` is the factory of that trainer.
__getattr__ = WRONG.factory
# A trainer that only adds up shards runs on any number of "devices": laws get these numbers in place of JAX's devices.
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
    """The ids of the faults of this module."""
    return list(WRONG)


@contextlib.contextmanager
def seed(fault: str) -> Iterator[Fixtures | None]:
    """Replace the trainer under test by a wrong one, compared with the right one, which compiles nothing either."""
    yield fixtures(trainer(fault))


def fixtures(wrong: NumpyTrainer) -> Fixtures:
    """The fixtures of a law that tests a trainer in NumPy."""
    replaced: Fixtures = {"subject": wrong, "against": NumpyTrainer()}
    return replaced if isinstance(wrong, OnDevices) else replaced | {"devices": list(range(DEVICES))}
