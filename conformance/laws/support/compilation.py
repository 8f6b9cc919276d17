"""How a check's programs compile (optimizations, options, cache on disk), what JAX compiled, and what it keeps.

Without optimizations, laws on simulated devices take half the time.
"""

import collections
import contextlib
import functools
import gc
import importlib
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from ...adapter import Case
from ...core.check import Check

OPTION = "jax_disable_most_optimizations"
XLA_LEVEL = "xla_backend_optimization_level"
# JAX's event when a program is compiled, or loaded from the cache on disk.
COMPILING = "/jax/core/compile/backend_compile_duration"
# JAX's event when a program is loaded from that cache.
CACHE_HIT = "/jax/compilation_cache/cache_hits"
STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    COMPILING: "compile",
}


@contextlib.contextmanager
def of(check: Check) -> Iterator[None]:
    """On simulated devices, compile a check's programs without optimizations if its law allows that at this level.

    Laws of the machine, which must see faults of the compiler, are always optimized, and so is everything on an
    accelerator and at level `full`; see the field `unoptimized_up_to` of a law. A user's own setting stays.
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


def precision(case: Case) -> AbstractContextManager[None]:
    """Switch JAX's 64-bit types on or off, as the case needs them, in this thread."""
    return wide_types(case.precision == "float64")


@contextlib.contextmanager
def wide_types(on: bool) -> Iterator[None]:
    """Switch JAX's 64-bit types on or off in this thread."""
    import jax

    # Before JAX 0.8, `enable_x64` is in jax.experimental.
    home: Any = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    with home.enable_x64(on):
        yield


@functools.cache
def options() -> dict[str, Any]:
    """JAX's options at the first call: before an adapter is loaded, whose module may change them."""
    import jax

    return dict(jax.config.values)


@contextlib.contextmanager
def apart_from_adapters(check: Check) -> Iterator[None]:
    """Run a law of the machine without the mesh and the options that an adapter's module has set; others as they are.

    JAX's state is that of the process: a module that calls `jax.set_mesh` or `jax.config.update` changes it for all.
    """
    if check.law.per != "machine":
        yield
        return
    import jax

    now = dict(jax.config.values)
    changed = {name: value for name, value in options().items() if now[name] is not value and now[name] != value}
    with contextlib.ExitStack() as stack:
        for name, value in changed.items():
            # An option that JAX reads once, when it starts, has had its effect.
            with contextlib.suppress(RuntimeError):
                jax.config.update(name, value)
                stack.callback(jax.config.update, name, now[name])
        for enter in _without_mesh():
            stack.enter_context(enter)
        yield


def _without_mesh() -> Iterator[AbstractContextManager[Any]]:
    """Contexts without a mesh, for those that are set: by `jax.set_mesh` or `use_mesh`, and by `with mesh:`."""
    import jax

    empty = jax.sharding.Mesh(np.empty((), object), ())
    if not jax.sharding.get_abstract_mesh().empty:
        # Before JAX 0.7, `set_mesh` is `jax.sharding.use_mesh`.
        home: Any = jax if hasattr(jax, "set_mesh") else jax.sharding
        yield getattr(home, "set_mesh" if home is jax else "use_mesh")(empty)
    # JAX has no public name for it.
    if not importlib.import_module("jax._src.mesh").thread_resources.env.physical_mesh.empty:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            yield empty


def held(*, collected: bool = True) -> collections.Counter[Any]:
    """(shape, dtype, bytes on all devices) -> the number of live arrays, after a collection of garbage."""
    import jax

    if collected:
        gc.collect()
    # `addressable_shards` is not used: it creates arrays, which the next call would count.
    return collections.Counter(
        (array.shape, str(array.dtype), math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
         * len(array.sharding.addressable_devices))
        for array in jax.live_arrays() if not array.is_deleted()
    )  # fmt: skip


@contextlib.contextmanager
def kept_in(folder: Path) -> Iterator[list[str]]:
    """Store the programs of this process in a folder, and reuse them from there; restore JAX's settings at the end.

    Yields a list that grows by one entry for each reused program.

    Example::

        with kept_in(Path("programs")) as hits:
            jax.jit(lambda x: x + 1)(1)
            jax.jit(lambda x: x + 1)(1)
        assert hits == [CACHE_HIT]
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}

    def configure(values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            jax.config.update(name, value)
        # JAX reads the settings when it opens its cache; after a reset it opens the cache again.
        compilation_cache.reset_cache()

    hits: list[str] = []
    listening = True

    def listener(event: str, **_: str | int) -> None:
        if listening and event == CACHE_HIT:
            hits.append(event)

    # The listener stays registered, since not every JAX can remove one.
    jax.monitoring.register_event_listener(listener)
    configure(settings)
    try:
        yield hits
    finally:
        listening = False
        configure(before)


@contextlib.contextmanager
def compiled() -> Iterator[list[str]]:
    """Yields a list that has, after the block, the names of the programs that were compiled in the block.

    Example::

        with compiled() as names:
            jax.jit(lambda x: x + 1)(1)
        assert names == ["jit(<lambda>)"]
    """
    names: list[str] = []
    before = len(_events())
    yield names
    names += [program for stage, program, _ in _events()[before:] if stage == "compile"]


@contextlib.contextmanager
def stages() -> Iterator[dict[str, float]]:
    """Yields a dict that has, after the block, the seconds of JAX's tracing, lowering and compiling in the block."""
    seconds = dict.fromkeys(STAGES.values(), 0.0)
    before = len(_events())
    yield seconds
    for stage, _, spent in _events()[before:]:
        seconds[stage] += spent


@functools.cache
def _events() -> list[tuple[str, str, float]]:
    """(stage, program, seconds) of each event since the first call; one listener, as not every JAX can remove one."""
    import jax

    events: list[tuple[str, str, float]] = []

    def listener(event: str, duration_secs: float, **details: str | int) -> None:
        if event in STAGES:
            events.append((STAGES[event], str(details.get("fun_name", "a program")), duration_secs))

    jax.monitoring.register_event_duration_secs_listener(listener)
    return events
