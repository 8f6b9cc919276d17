"""A compiled program of JAX -> what it needs, by JAX's own count: the answer to `TrainerUnderTest.costs`."""

from __future__ import annotations

from typing import Any

# Our name: XLA's, in `cost_analysis` and in `memory_analysis`.
WORK = {"flops": "flops", "bytes": "bytes accessed"}
MEMORY = {
    "arguments": "argument_size_in_bytes",
    "outputs": "output_size_in_bytes",
    "aliased": "alias_size_in_bytes",
    "temporary": "temp_size_in_bytes",
}


def costs_of(compiled: Any) -> dict[str, float]:
    """`flops` and `bytes` of work, and bytes of memory, on each device; what a platform does not say is left out.

    Args:
        compiled: what `jax.jit(f).lower(*arguments).compile()` gives.
    """
    work, memory = _asked(compiled.cost_analysis), _asked(compiled.memory_analysis)
    # Before JAX 0.5 a list, with an entry for each program.
    work = work[0] if isinstance(work, list) and work else work
    found = {name: work[theirs] for name, theirs in WORK.items() if work and theirs in work}
    found |= {name: getattr(memory, theirs) for name, theirs in MEMORY.items() if hasattr(memory, theirs)}
    return {name: float(value) for name, value in found.items()}


def _asked(analysis: Any) -> Any:
    """The answer, or None of a platform that has none."""
    try:
        return analysis()
    except NotImplementedError:
        return None
