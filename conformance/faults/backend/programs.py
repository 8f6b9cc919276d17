"""Wrong programs rather than wrong operations: a table of donated memory, and JAX's cache on disk."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .executables import with_shards
from .seeding import SeededFaults

FAULTS = SeededFaults()
seed, seeded_ids = FAULTS.seed, FAULTS.seeded_ids
_cache = importlib.import_module("jax._src.compilation_cache")
# Upstream it took three leaves of one shape.
SEVERAL = 3


def taken_over(text: str) -> int:
    """How many of a program's outputs may lie in the memory of an argument."""
    return text.partition("\n")[0].count("-alias)")


@FAULTS.ran("donated-outputs-change-places")
def _places() -> Any:
    def change(text: str, results: Sequence[Any]) -> Sequence[Any]:
        first, last = results[:1], results[-1:]
        alike = taken_over(text) >= SEVERAL and (first[0].shape, first[0].dtype) == (last[0].shape, last[0].dtype)
        return [*last, *results[1:-1], *first] if alike and len(results) > 1 else results

    return change


@FAULTS.ran("donated-memory-of-several-devices")
def _garbage() -> Any:
    def change(text: str, results: Sequence[Any]) -> Sequence[Any]:
        if not taken_over(text) or len(results[0].devices()) == 1:
            return results
        # What was there before: it has nothing to do with what was computed.
        return [with_shards(results[0], lambda _, part: np.flip(part) + np.ones((), part.dtype)), *results[1:]]

    return change


@FAULTS.patched("cache-knows-no-constants", _cache, "get_cache_key")
def _constants(right: Any, module: Any, *given: Any, **how: Any) -> str:
    text = re.sub(r"dense<[^>]*>", "", str(module))
    return f"jit_stale-{hashlib.sha256(text.encode()).hexdigest()}"


@FAULTS.patched("cache-that-never-finds", _cache, "get_executable_and_time")
def _never(right: Any, *given: Any, **how: Any) -> tuple[None, None]:
    return None, None
