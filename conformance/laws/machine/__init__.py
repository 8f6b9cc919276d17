"""Laws of the machine, rungs 0 to 5: environment, copies, collectives, operators, autodiff, random numbers.

A test takes pytest's fixtures: `check`, `devices`, `settings`, and `rng`, a generator with the check's own seed.
`@each_draw` and `@each_shape` of `support/running.py` repeat it for drawn values; `machine` runs a formula on devices.
Operators under test are in `support/operators.py`, exact values and bounds in `support/families.py` and `gradients.py`.
"""
