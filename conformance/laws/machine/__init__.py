"""Laws of the machine, rungs 0 to 5: environment, copies, collectives, operators, autodiff, random numbers.

Operators under test are in `support/operators.py`, exact values and bounds in `support/families.py` and `gradients.py`.
"""
