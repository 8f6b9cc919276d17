"""Fault id -> a wrong trainer: the faults seeded in a trainer in NumPy that is right without them.

`--adapter sftref.conformance.faults.trainers:mean_of_means` runs the trainer of the fault mean-of-means, and
`:NumpyTrainer` the right one.
"""

from ..backend.seeding import SeededFaults
from . import wrong_runs, wrong_settings, wrong_steps, wrong_sums
from .numpy_trainer import NumpyTrainer

FAULTS = SeededFaults(NumpyTrainer)
FAULTS.update(wrong_sums.FAULTS | wrong_steps.FAULTS | wrong_runs.FAULTS | wrong_settings.FAULTS)
# `trainers:mean_of_means` is the factory of that trainer.
__getattr__ = FAULTS.factory
