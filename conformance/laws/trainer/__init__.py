"""Laws of a trainer under test, rungs 4 and 6 to 10: gradient, step, equivalence, training, processes, performance.

A test takes the fixture `subject`, the trainer under test, beside those of the machine's laws.
It calls `claims(check, subject, ...)` for capabilities that it needs: without them the check is NOT RUN.
`support/trainer_checks.py` draws a case and compares gradients, updates, losses and logits with the oracle's.
"""
