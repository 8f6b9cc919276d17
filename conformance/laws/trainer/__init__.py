"""Laws of a trainer under test, rungs 4 and 6 to 10: gradient, step, equivalence, training, processes, performance.

Tests take the trainer as fixture `subject`; `support/trainer_checks.py` compares its results with the oracle's.
"""
