"""Fault id -> a trainer that is right and costs too much, or a slow operator: variants of the template trainer.

Laws see trainers that compile, move or keep too much; these are in `catalogue.toml`. Only a clock, or a comparison with
the costs of an earlier run, sees the others, `TIMED`.

`--adapter sftref.conformance.faults.trainers.performance:slower_10` runs the trainer of the fault slower-10.
"""

import collections
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives as core
from jax.flatten_util import ravel_pytree

from ...adapter import Arrays, Case, HostBatch, StepResult
from ...adapters.template import Template, compiled
from ..backend.seeding import Decorator, SeededFaults, patch

FAULTS = SeededFaults(Template)
# `performance:slower_10` is the factory of that trainer.
__getattr__ = FAULTS.factory
# The loop that `serial-scatter-add` adds has this many turns for each token of a batch. On a CPU, where
# the loop without the fault is serial too, a turn of 768 numbers takes 0.04 to 0.08 us, and the gradient of 4096 tokens
# 5 to 12 times as long as without the fault. On a GPU a turn takes some us.
TURNS = {"cpu": 256, "other": 8}
# No law sees these: they are right, compile once, and move and keep no more than they must.
TIMED = ("slower-5", "slower-10", "slower-20", "lost-donation", "serial-scatter-add")


class _Slower(Template):
    """Each update takes `percent` longer than the median of the last `window` updates, measured without the delay."""

    percent: ClassVar[float]
    # The first updates of a run compile, so their times are left out.
    first, window = 3, 9

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.seconds: collections.deque[float] = collections.deque(maxlen=self.window)

    def step(self, batch: HostBatch) -> StepResult:
        began = time.perf_counter()
        result = super().step(batch)  # the loss is on the host, so the update is over
        now = time.perf_counter()
        if self.count > self.first:
            self.seconds.append(now - began)
            until = now + statistics.median(self.seconds) * self.percent / 100
            # `sleep` may wake up late by 5 % of a short update, so the last millisecond is a busy wait.
            time.sleep(max(until - time.perf_counter() - 1e-3, 0))
            while time.perf_counter() < until:
                pass
        return result


# 5 % is less than most regressions that people report, and about what a quiet machine can tell; a gate on step times
# must see 10 %; 20 % was lost by an upgrade of jaxlib on two platforms: https://github.com/jax-ml/jax/issues/17686.
for _percent in (5, 10, 20):
    FAULTS.trainer(f"slower-{_percent}")(type(f"Slower{_percent}", (_Slower,), {"percent": _percent}))


@FAULTS.method("recompiles", "step")
def _recompiles(right: Any, self: Template, batch: HostBatch) -> StepResult:
    """A function made and jitted inside the loop, which JAX compiles each time."""
    plain = self.run.step.__wrapped__
    new = jax.jit(lambda *state: plain(*state), donate_argnums=(0, 1), out_shardings=self.run.everywhere)
    with patch(self, "run", self.run._replace(step=new)):
        return right(self, batch)


@FAULTS.method("leaks", "_put")
def _leaks(right: Any, self: Template, batch: HostBatch) -> HostBatch:
    """Every batch stays on the devices."""
    placed = right(self, batch)
    vars(self).setdefault("batches", []).append(placed)
    return placed


@FAULTS.method("losses-kept", "step")
def _losses_kept(right: Any, self: Template, batch: HostBatch) -> StepResult:
    """The loss of each update stays on the devices, as for a curve that is drawn at the end."""
    result = right(self, batch)
    vars(self).setdefault("curve", []).append(jax.device_put(jnp.float32(result.loss), self.run.everywhere))
    return result


def another_step(
    faults: SeededFaults, fault: str, *, donated: tuple[int, ...] = (0, 1), gradients: Callable[..., Any] | None = None
) -> Decorator:
    """Add the template with another update: (case, number of devices, params, state, batch) -> params, state, loss.

    `gradients`, if given, replaces the gradients too: (case, number of devices, params, batch) -> gradients.
    """

    def add(wrong: Callable[..., Any]) -> Callable[..., Any]:
        @functools.lru_cache(maxsize=32)
        def functions(case: Case, n: int) -> dict[str, Any]:
            out = compiled(case, n).everywhere

            def step(*arguments: Any) -> Any:
                return wrong(case, n, *arguments)

            own = {"step": jax.jit(step, donate_argnums=donated, out_shardings=out)}
            if gradients is not None:
                own["gradients"] = jax.jit(functools.partial(gradients, case, n), out_shardings=out)
            return own

        def start(right: Any, self: Template, case: Case, params: Arrays, n_devices: int) -> None:
            right(self, case, params, n_devices)
            self.run = self.run._replace(**functions(dataclasses.replace(case, seed=0), n_devices))

        faults.method(fault, "start")(start)
        return wrong

    return add


@another_step(FAULTS, "extra-all-gather")
def _gathered(case: Case, n: int, params: Any, state: Any, batch: HostBatch) -> Any:
    """Each update begins with an all-gather of all parameters, if there is more than one device."""
    run = compiled(case, n)
    flat, tree = ravel_pytree(params)
    parts = lax.with_sharding_constraint(jnp.pad(flat, (0, -len(flat) % n)), run.rows)
    # The barrier keeps XLA from using the whole that is there already.
    whole = lax.with_sharding_constraint(lax.optimization_barrier(parts), run.everywhere)
    return run.step.__wrapped__(tree(whole[: len(flat)]), state, batch)


@another_step(FAULTS, "lost-donation", donated=())
def _undonated(case: Case, n: int, *arguments: Any) -> Any:
    """The update donates nothing: parameters and moments are in memory twice, and `costs` gives `aliased` 0."""
    return compiled(case, n).step.__wrapped__(*arguments)


@FAULTS.lowered("serial-scatter-add", core.scatter_add_p)
def _serial(right: Any, table: Any, ids: Any, updates: Any, *, dimension_numbers: Any, mode: Any, **_: Any) -> Any:
    """The gradient of an embedding adds row after row if all ids are one or two rows of the table.

    So do atomic additions to one address, as of BERT's two token types. If ids are spread, only the choice between the
    two ways costs time: 1.3 to 1.7 times on a CPU, where the gradient of two rows takes some hundred times as long.
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
