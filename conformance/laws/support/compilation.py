"""A check -> how its programs are compiled: with XLA's optimizations or, on simulated devices, in half the time.

And what was compiled while a check looked on, by JAX's own events.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...core.check import Check

OPTION = "jax_disable_most_optimizations"
XLA_LEVEL = "xla_backend_optimization_level"
# The event of a program that is compiled, or taken from the cache on disk.
COMPILING = "/jax/core/compile/backend_compile_duration"
# The event of one that is taken from there.
FOUND = "/jax/compilation_cache/cache_hits"
STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    COMPILING: "compile",
}


@contextlib.contextmanager
def of(check: Check) -> Iterator[None]:
    """Compile a check's programs without optimizations if its law allows that at this level, on simulated devices.

    The machine's own rungs, where a fault of the compiler shows, are always optimized, and so is everything on an
    accelerator and at `full`; see `unoptimized_up_to` of a law. A user's own setting stays.
    """
    import jax

    users_own = OPTION.upper() in os.environ or XLA_LEVEL in os.environ.get("XLA_FLAGS", "")
    light = check.law.unoptimized_at(check.level) and not users_own
    if not light or jax.devices()[0].platform != "cpu":
        yield
        return
    check.facts["optimized"] = False
    before = jax.config.values[OPTION]
    jax.config.update(OPTION, True)
    try:
        yield
    finally:
        jax.config.update(OPTION, before)


@contextlib.contextmanager
def kept_in(folder: Path) -> Iterator[list[str]]:
    """Let JAX keep the programs of this process in a folder, all of them, and take them from there.

    Gives a list with an entry for each program that was taken from the folder, which grows in here. What JAX was told
    before about its cache holds again afterwards.

    Example::

        with kept_in(Path("programs")) as found:
            jax.jit(lambda x: x + 1)(1)
            jax.jit(lambda x: x + 1)(1)
        assert found == [FOUND]
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    told = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in told}
    listening = _listener()

    def tell(values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            jax.config.update(name, value)
        # JAX opens its cache once, and looks at these when it does.
        compilation_cache.reset_cache()

    tell(told)
    found: list[str] = []
    listening.append(found)
    try:
        yield found
    finally:
        listening.remove(found)
        tell(before)


@functools.cache
def _listener() -> list[list[str]]:
    """The lists to which what JAX takes from its cache is added. A listener cannot be taken back everywhere."""
    import jax

    lists: list[list[str]] = []

    def heard(event: str, **_: str | int) -> None:
        if event == FOUND:
            for found in lists:
                found.append(event)

    jax.monitoring.register_event_listener(heard)
    return lists


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
