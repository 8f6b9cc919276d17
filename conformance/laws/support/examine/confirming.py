"""Explanations of a wrong run -> those that further runs of the trainer confirm.

A number that is fitted, or one of many variants, gives some numbers by chance. So each explanation must also give those
of a run with other parameters, labels and constants, of runs without each setting, and, of a learning rate, of other
schedules.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from ....adapter import NEVER_FIXED, Case, fixed_of, shapes
from ....oracle.variants.located import Located, Pair, pairs, whole
from ....oracle.variants.replay import Log, bounds, seen
from ....oracle.variants.search import Several
from ....oracle.variants.table import Variant, all_variants
from .made import Until, attempted, restarts
from .simpler import other_schedules, other_values, without

# The most updates of such a run.
MOST = 3


def confirmed(
    trainer: Any, log: Log, found: tuple[Several, ...], until: Until, rate: bool = False
) -> tuple[Several, ...]:
    """Those of the explanations of a run that also explain further ones; with `rate` it is a learning rate's."""
    for number, other in enumerate(_further(log, rate, fixed_of(trainer))):
        if until.over:
            # A number that is fitted is no cause until it gives other numbers too.
            return found if number else tuple(several for several in found if all(map(_listed, several)))
        run = attempted(trainer, other) if found else None
        if run is not None:
            found = tuple(several for several in found if _gives(several, run))
    return found


def _listed(variant: Variant) -> bool:
    return variant.id in all_variants()


def _further(log: Log, rate: bool, fixed: Collection[str]) -> Iterator[Log]:
    """Runs that an explanation must explain too."""
    short = _short(log)
    scheduled = not {"warmup_steps", "total_steps"} & set(fixed)
    if rate and scheduled and any(call.method == "step" for call in log.calls):
        yield from other_schedules(log)
    yield other_values(short, fixed)
    for one in without(short):
        yield one.log


def _short(log: Log) -> Log:
    """The calls of a run up to its MOST-th update, and those that observe it; a run that restarts as it is."""
    if restarts(log):
        return log
    kept, updates = [], 0
    for call in log.calls:
        if call.method == "step" and updates == MOST:
            break
        updates += call.method == "step"
        kept.append(call)
    return dataclasses.replace(log, calls=kept)


def _gives(several: Several, run: Log) -> bool:
    """Whether variants give the results of a run, with or without those that need what this run has not."""
    mine, acting = seen(run), tuple(one for one in several if one.differs(run.case, run.n))
    return any(
        all(
            Pair(got, want, limits).margin <= 1 for got, (want, limits) in zip(mine, bounds(variants, run), strict=True)
        )
        for variants in {several, acting}
    )


def as_earlier(earlier: Iterable[Case], log: Log) -> Located | None:
    """Whether the results of a run are right for the constants of an earlier case, of a model of the same shape."""
    for case in earlier:
        names = [f.name for f in dataclasses.fields(case) if getattr(case, f.name) != getattr(log.case, f.name)]
        if not set(names) - {"seed"} or shapes(case) != shapes(log.case) or case.regression != log.case.regression:
            continue
        other = dataclasses.replace(case, **{name: getattr(log.case, name) for name in NEVER_FIXED if name != "seed"})
        if whole(pairs(Log(other, log.params, log.n, log.calls))) <= 1:
            words = ", ".join(f"{name} = {getattr(case, name)}" for name in names if name != "seed")
            return Located("earlier-constants", (f"all results are right for {words}, of an earlier run",))
    return None
