"""Compiled program of JAX -> its costs as JAX reports them, in the form that `TrainerUnderTest.costs` returns."""

from typing import Any

# The kit's name of a cost -> XLA's name in `cost_analysis` (`WORK`) or in `memory_analysis` (`MEMORY`).
WORK = {"flops": "flops", "bytes": "bytes accessed"}
MEMORY = {
    "arguments": "argument_size_in_bytes",
    "outputs": "output_size_in_bytes",
    "aliased": "alias_size_in_bytes",
    "temporary": "temp_size_in_bytes",
}


def costs_of(compiled: Any) -> dict[str, float]:
    """`flops`, and bytes of traffic and of memory, on each device; costs that a platform does not report are left out.

    Args:
        compiled: the result of `jax.jit(f).lower(*arguments).compile()`.
    """
    work, memory = _reported(compiled.cost_analysis), _reported(compiled.memory_analysis)
    # Before JAX 0.5, `cost_analysis` returns a list with an entry for each program.
    work = work[0] if isinstance(work, list) and work else work
    costs = {name: work[theirs] for name, theirs in WORK.items() if work and theirs in work}
    costs |= {name: getattr(memory, theirs) for name, theirs in MEMORY.items() if hasattr(memory, theirs)}
    return {name: float(value) for name, value in costs.items()}


def _reported(analysis: Any) -> Any:
    try:
        return analysis()
    except NotImplementedError:
        return None
