"""The laws: those in `machine/` need no trainer, those in `trainer/` run for each trainer; both use `support/`.

Each law has an entry [[law]] in the TOML file beside its test, with its id, requirement, causes, next step and level.
Its test is a function decorated with `@law(id)` (`support/running.py`), which calls `check.equal`, `check.within` etc.
Bounds are derived in `oracle/bounds_derived.py` or measured in `oracle/bounds_measured.py`; `equal` needs no bound.
The law must see each fault of `faults/catalogue.toml` whose field `seen_by` contains the law's id.
"""
