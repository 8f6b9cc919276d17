"""Fault id -> a wrong trainer: the faults seeded in a trainer in NumPy that is right without them.

`--adapter sftref.conformance.faults.trainers:mean_of_means` runs the trainer of the fault mean-of-means, and
`:NumpyTrainer` the right one.
"""

from ..backend.seeding import SeededFaults
from . import wrong_runs, wrong_settings, wrong_steps, wrong_sums, wrong_variants
from .numpy_trainer import NumpyTrainer

FAULTS = SeededFaults(NumpyTrainer)
for _module in (wrong_sums, wrong_steps, wrong_runs, wrong_settings, wrong_variants):
    FAULTS.update(_module.FAULTS)
# `trainers:mean_of_means` is the factory of that trainer.
__getattr__ = FAULTS.factory
