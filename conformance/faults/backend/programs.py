"""Wrong programs of right operations: outputs in donated memory, and JAX's compilation cache on disk."""

import hashlib
import importlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .executables import with_shards
from .seeding import SeededFaults

FAULTS = SeededFaults()
_cache = importlib.import_module("jax._src.compilation_cache")
# Upstream the bug needed three leaves of one shape.
SEVERAL = 3
# The number of an output that small programs do not have.
LATE = 48
FAULTS.patched("cache-that-never-finds", _cache, "get_executable_and_time")(lambda right, *_, **options: (None, None))


def taken_over(text: str) -> int:
    """How many outputs of a program may use the memory of an argument, read from its HLO."""
    return text.partition("\n")[0].count("-alias)")


@FAULTS.changed("donated-outputs-change-places")
def _places(_: Any, text: str, results: Sequence[Any]) -> Sequence[Any]:
    first, last = results[:1], results[-1:]
    alike = taken_over(text) >= SEVERAL and (first[0].shape, first[0].dtype) == (last[0].shape, last[0].dtype)
    return [*last, *results[1:-1], *first] if alike and len(results) > 1 else results


@FAULTS.changed("donated-memory-of-several-devices")
def _garbage(_: Any, text: str, results: Sequence[Any]) -> Sequence[Any]:
    if not taken_over(text) or len(results[0].devices()) == 1:
        return results
    # Stand-in for what the memory held before: unrelated to the result.
    return [with_shards(results[0], lambda _, part: np.flip(part) + np.ones((), part.dtype)), *results[1:]]


@FAULTS.changed("late-outputs-change-places")
def _late(_: Any, text: str, results: Sequence[Any]) -> Sequence[Any]:
    late = list(results[LATE : LATE + 2])
    alike = len({(result.shape, result.dtype) for result in late}) == 1 < len(late)
    return [*results[:LATE], *reversed(late), *results[LATE + 2 :]] if alike else results


@FAULTS.changed("donated-rows-stay-from-the-second-call-on")
def _stay(memory: dict[str, Any], text: str, results: Sequence[Any]) -> Sequence[Any]:
    if not taken_over(text) or not (results[0].ndim > 1 and results[0].dtype == np.float32):
        return results
    old, memory[text] = memory.get(text), [np.array(shard.data) for shard in results[0].addressable_shards]
    if old is None:
        return results

    def stale(number: int, part: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.concatenate([part[:-1], old[min(number, len(old) - 1)][-1:]])

    return [with_shards(results[0], stale), *results[1:]]


@FAULTS.patched("cache-knows-no-constants", _cache, "get_cache_key")
def _constants(right: Any, module: Any, *_: Any, **options: Any) -> str:
    text = re.sub(r"dense<[^>]*>", "", str(module))
    return f"jit_stale-{hashlib.sha256(text.encode()).hexdigest()}"
