"""Laws of the machine, rungs 0 to 5: environment, copies, collectives, operators, autodiff, random numbers.

`support/operators.py` has the operators under test; `support/families.py` and `gradients.py` have their exact values.
"""
