"""A check -> how its programs are compiled: with XLA's optimizations or, on simulated devices, in half the time.

And what was compiled while a check looked on, by JAX's own events.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import NamedTuple

from .catalogue import Law
from .check import Check

OPTION = "jax_disable_most_optimizations"
XLA_LEVEL = "xla_backend_optimization_level"
# The event of a program that is compiled, or taken from the cache on disk.
COMPILING = "/jax/core/compile/backend_compile_duration"
STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    COMPILING: "compile",
}
# The laws of a trainer whose programs are compiled without optimization; None for all. What they ask does not depend
# on it. The machine's own rungs, where a compiler's fault shows, are compiled in full at every level. So are, at
# `standard`, the trainer's main programs, on one device and on all; and at `full` those that a law has for itself.
LIGHT: dict[str, tuple[str, ...] | None] = {
    "quick": None,
    "standard": (
        "equivalence.device_counts",
        "equivalence.packing",
        "equivalence.accumulation",
        "training.schedule",
    ),
}


def is_light(law: Law, level: str, platform: str) -> bool:
    """Whether a law's programs are compiled without optimization, unless the user has said how they are."""
    if law.per == "machine" or platform != "cpu" or level not in LIGHT:
        return False
    some = LIGHT[level]
    return some is None or law.id in some


@contextlib.contextmanager
def of(check: Check) -> Iterator[None]:
    """Compile what the check runs as its level says, and note it down where that is without optimization."""
    import jax

    users_own = OPTION.upper() in os.environ or XLA_LEVEL in os.environ.get("XLA_FLAGS", "")
    if users_own or not is_light(check.law, check.level, jax.devices()[0].platform):
        yield
        return
    check.facts["optimized"] = False
    jax.config.update(OPTION, True)
    try:
        yield
    finally:
        jax.config.update(OPTION, False)


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """The names of the programs that are compiled in here, once it is over.

    Example::

        with heard() as names:
            jax.jit(lambda x: x + 1)(1)
        assert names == ["jit(<lambda>)"]
    """
    names: list[str] = []
    before = len(_all())
    yield names
    names += [event.program for event in _all()[before:] if event.stage == "compile"]


@contextlib.contextmanager
def stages() -> Iterator[dict[str, float]]:
    """Seconds that JAX traced, lowered and compiled in here, once it is over, by those names."""
    found = dict.fromkeys(STAGES.values(), 0.0)
    before = len(_all())
    yield found
    for event in _all()[before:]:
        found[event.stage] += event.seconds


class _Event(NamedTuple):
    stage: str
    program: str
    seconds: float


@functools.cache
def _all() -> list[_Event]:
    """What this process has compiled since it first asked. A listener cannot be taken back everywhere."""
    import jax

    events: list[_Event] = []

    def heard(event: str, duration_secs: float, **said: str | int) -> None:
        if event in STAGES:
            events.append(_Event(STAGES[event], str(said.get("fun_name", "a program")), duration_secs))

    jax.monitoring.register_event_duration_secs_listener(heard)
    return events
