"""The user's folder of caches -> compiled programs that the next run reads instead of compiling them.

    CACHE/programs/jaxlib-0.10.2-5c1e0f2b9a47/      JAX's own cache, at most `MOST_BYTES`

JAX finds a program by a hash of the program itself, its compiler options, XLA's flags and the release of jaxlib
(https://docs.jax.dev/en/latest/persistent_compilation_cache.html). A program for CPUs also depends on the processor, so
each kind of processor has its own folder. A file lock keeps two runs apart. `verify` and `bench` use none of these.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

# Before this release, JAX crashes on programs that another process compiled for CPUs.
SINCE = (0, 6)
MOST_BYTES = 1 << 30
# A program that compiles faster is not worth a file.
LEAST_SECONDS = 0.1
CPU = Path("/proc/cpuinfo")


def folder(cache: Path) -> Path:
    """The folder of the programs for this release of jaxlib and this processor, in the folder of all caches."""
    digest = hashlib.sha256("\n".join(_processor()).encode()).hexdigest()[:12]
    return cache / "programs" / f"jaxlib-{importlib.metadata.version('jaxlib')}-{digest}"


@contextlib.contextmanager
def kept(cache: Path | None) -> Iterator[None]:
    """In the block, JAX reads compiled programs from the cache, and writes those that it compiles.

    Nothing is changed if `cache` is None, the user has set JAX's own options for its cache, JAX is older than 0.6, the
    package filelock is missing, or the folder cannot be written.
    """
    import jax

    if (
        cache is None
        or jax.config.values["jax_compilation_cache_dir"] is not None
        or not jax.config.values["jax_enable_compilation_cache"]
        or jax.__version_info__ < SINCE
        or importlib.util.find_spec("filelock") is None
    ):
        yield
        return
    try:
        where = folder(cache)
        where.mkdir(parents=True, exist_ok=True)
        _without_unfinished(where)
    except OSError as error:
        logger.warning("cache of programs %s: cannot be written (%s); continuing without it", cache, error.strerror)
        yield
        return
    values: dict[str, Any] = {
        "jax_compilation_cache_dir": str(where),
        "jax_compilation_cache_max_size": MOST_BYTES,
        "jax_persistent_cache_min_compile_time_secs": LEAST_SECONDS,
    }
    from jax.experimental.compilation_cache import compilation_cache

    before = {name: jax.config.values[name] for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def _without_unfinished(where: Path) -> None:
    """Delete what a killed run left half-written: JAX writes the time of the last use after the program."""
    import filelock

    with filelock.FileLock(where / ".lockfile"):  # the one that JAX holds while it writes
        for program in where.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                program.unlink()


def _processor() -> list[str]:
    """Model and instruction set of the processor."""
    if not CPU.is_file():
        return []
    lines = CPU.read_text(errors="replace").splitlines()
    return sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
