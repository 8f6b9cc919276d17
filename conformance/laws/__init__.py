"""The laws: `machine/` needs no trainer, `trainer/` runs for each trainer under test, `support/` is what they share.

A law's words are its [[law]] entry in the TOML file beside the test: id, requirement, causes, next step, level.
Its test is a function with `@law(id)` (`support/running.py`) that compares by `check.equal`, `check.within` and others.
Its bound is derived in `oracle/bounds_derived.py` or measured in `oracle/bounds_measured.py`; `equal` needs none.
The faults that it must see are those of `faults/catalogue.toml` whose `seen_by` names its id.
"""
