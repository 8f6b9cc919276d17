"""Id -> what is right and costs too much: trainers on top of the template, and a slow operator of the machine.

What compiles, moves or keeps too much a law of `verify` sees, and `catalogue.toml` has it. The others, `TIMED`, are
seen by a clock or by costs beside those of an earlier run only.

`--adapter sftref.conformance.faults.trainers.performance:` with an id behind it, underscores for its hyphens, is that
trainer.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as core
from jax.flatten_util import ravel_pytree

from ...adapter import Arrays, Case, HostBatch, StepResult
from ...adapters.template import Compiled, Template, compiled
from ..backend.seeding import Instead, SeededFaults

Trainer = TypeVar("Trainer", bound=type[Template])
COSTLY: dict[str, type[Template]] = {}
MACHINE = SeededFaults()
# How often an addition waits before its turn comes. On a CPU, whose own loop is serial too, a turn of 768 numbers takes
# 0.04 to 0.08 us, and the gradient of 4096 tokens 5 to 12 times as long as without. A turn on a GPU is some us long.
TURNS = {"cpu": 256, "other": 8}
# No law of `verify` sees these: they are right, compile once, and move and keep what they must.
TIMED = ("slower-5", "slower-10", "slower-20", "lost-donation", "serial-scatter-add")


def costly(fault: str) -> Callable[[Trainer], Trainer]:
    """Decorate the trainer that has a fault."""

    def add(trainer: Trainer) -> Trainer:
        trainer.name = f"template ({fault})"
        COSTLY[fault] = trainer
        return trainer

    return add


class _Slower(Template):
    """Each update takes so many per cent longer than it would: of the median of the last few, without what is added."""

    percent: ClassVar[float]
    # The first updates of a run compile, and say nothing.
    first, window = 3, 9

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.seconds: collections.deque[float] = collections.deque(maxlen=self.window)

    def step(self, batch: HostBatch) -> StepResult:
        began = time.perf_counter()
        found = super().step(batch)  # the loss is on the host: the update is over
        now = time.perf_counter()
        if self.count > self.first:
            self.seconds.append(now - began)
            until = now + statistics.median(self.seconds) * self.percent / 100
            # Not `sleep` to the end, which wakes up late by as much as 5 % of a short update.
            time.sleep(max(until - time.perf_counter() - 1e-3, 0))
            while time.perf_counter() < until:
                pass
        return found


@costly("slower-5")
class _Slower5(_Slower):
    """5 % slower: less than most regressions that people report, and about what a quiet machine can tell."""

    percent = 5


@costly("slower-10")
class _Slower10(_Slower):
    """10 % slower: what a gate on step times must see."""

    percent = 10


@costly("slower-20")
class _Slower20(_Slower):
    """20 % slower, as after an upgrade of jaxlib on two platforms: https://github.com/jax-ml/jax/issues/17686."""

    percent = 20


@costly("recompiles")
class _Recompiles(Template):
    """A function that is made in the loop and jitted there: to JAX it is another one each time."""

    def step(self, batch: HostBatch) -> StepResult:
        plain = self.run.step.__wrapped__
        anew = jax.jit(lambda *state: plain(*state), donate_argnums=(0, 1), out_shardings=self.run.everywhere)
        kept, self.run = self.run, self.run._replace(step=anew)
        try:
            return super().step(batch)
        finally:
            self.run = kept


@costly("leaks")
class _Leaks(Template):
    """Every batch that was placed stays on the devices."""

    def __init__(self) -> None:
        self.batches: list[HostBatch] = []

    def _put(self, batch: HostBatch) -> HostBatch:
        self.batches.append(super()._put(batch))
        return self.batches[-1]


class AnotherUpdate(Template):
    """The template with another program for its update."""

    update: ClassVar[Callable[[Case, int], Any]]

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        """See `TrainerUnderTest.start`."""
        super().start(case, params, n_devices)
        self.run: Compiled = self.run._replace(step=type(self).update(dataclasses.replace(case, seed=0), n_devices))


@functools.lru_cache(maxsize=32)
def with_gather(case: Case, n: int) -> Any:
    """The update of parameters that were cut into n parts and put together again by an all-gather."""
    run = compiled(case, n)

    def step(params: Any, state: Any, batch: HostBatch) -> Any:
        flat, tree = ravel_pytree(params)
        parts = lax.with_sharding_constraint(jnp.pad(flat, (0, -len(flat) % n)), run.rows)
        # The parts may not be known to come from a whole that is there already.
        whole = lax.with_sharding_constraint(lax.optimization_barrier(parts), run.everywhere)
        return run.step.__wrapped__(tree(whole[: len(flat)]), state, batch)

    return jax.jit(step, donate_argnums=(0, 1), out_shardings=run.everywhere)


@costly("extra-all-gather")
class _ExtraAllGather(AnotherUpdate):
    """Every update begins with an all-gather of all parameters; with one device there is nothing to gather."""

    update = with_gather


@functools.lru_cache(maxsize=32)
def without_donation(case: Case, n: int) -> Any:
    """The update beside which the old parameters and moments stay."""
    run = compiled(case, n)
    return jax.jit(run.step.__wrapped__, out_shardings=run.everywhere)


@costly("lost-donation")
class _LostDonation(AnotherUpdate):
    """The update donates nothing: at its peak it needs parameters and moments twice. `costs` has `aliased` 0."""

    update = without_donation


@MACHINE.lowered("serial-scatter-add", core.scatter_add_p)
def _serial(right: Any, table: Any, ids: Any, updates: Any, *, dimension_numbers: Any, mode: Any, **_: Any) -> Any:
    """The gradient of an embedding whose ids are all one or two rows adds row after row, and each waits its turn.

    So do atomic additions to one address, as those of BERT's two token types. Where ids are spread only the
    choice between the two costs: 1.3 to 1.7 times on a CPU, where two rows take some hundred times as long.
    """
    rows = lax.ScatterDimensionNumbers((updates.ndim - 1,), (0,), (0,))
    if table.ndim != 2 or dimension_numbers != rows or updates.shape[-1] != table.shape[1]:
        return right(table, ids, updates)
    places, values = ids.reshape(-1), updates.reshape(-1, table.shape[1])
    if mode == lax.GatherScatterMode.FILL_OR_DROP:
        values = jnp.where(((places >= 0) & (places < len(table)))[:, None], values, 0)
    places = jnp.clip(places, 0, len(table) - 1)

    turns = TURNS.get(jax.default_backend(), TURNS["other"])

    def turn(i: Any, table: Any) -> Any:
        at = places[i // turns], 0
        more = jnp.where(i % turns == turns - 1, values[i // turns], 0)
        return lax.dynamic_update_slice(table, lax.dynamic_slice(table, at, (1, table.shape[1])) + more, at)

    few = jnp.all((places == places.min()) | (places == places.max()))
    return lax.cond(
        few,
        lambda table: lax.fori_loop(0, turns * len(places), turn, table),
        lambda table: right(table, ids, updates),
        table,
    )


def seeded_ids() -> list[str]:
    """The ids of all that this module seeds, those of `TIMED` among them."""
    return [*COSTLY, *MACHINE]


@contextlib.contextmanager
def seed(fault: str) -> Iterator[Instead | None]:
    """A costly trainer in place of the subject; or the slow operator, for what is compiled in here."""
    if fault in COSTLY:
        yield {"subject": COSTLY[fault](), "against": Template()}
        return
    jax.clear_caches()
    try:
        with MACHINE.seed(fault):
            yield None
    finally:
        jax.clear_caches()


def __getattr__(name: str) -> type[Template]:
    """`performance:slower_10` is the factory of that fault."""
    fault = name.replace("_", "-")
    if fault not in COSTLY:
        raise AttributeError(f"{name} is no seeded fault of {__name__}")
    return COSTLY[fault]
