"""A trainer's compiled update -> counts that do not scatter: the same program has them on every run and machine load.

They are compared with those of a baseline of the same JAX without any tolerance. (The optimised text itself is no such
thing: its names depend on the order of compilation.)
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

COMPILED = "/jax/core/compile/backend_compile_duration"
STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    COMPILED: "compile",
}
# Kinds that are told apart; all others are only counted together.
KINDS = (
    "fusion", "dot", "convolution", "custom-call", "while", "scatter", "gather", "all-reduce", "all-gather",
    "reduce-scatter", "collective-permute", "all-to-all",
)  # fmt: skip
OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (?:\([^=]*?\)|\S+) ([a-z][\w\-]*)\(", re.MULTILINE)


def operations(text: str) -> dict[str, int]:
    """Operations in an HLO text, all of them and by kind; kinds that do not occur are 0."""
    found = [name.removesuffix("-start") for name in OPERATION.findall(text)]
    return {"operations": len(found)} | {kind: found.count(kind) for kind in KINDS}


class Compilations:
    """Listens to JAX: how many programs it compiled, and the seconds of each stage.

    Attributes:
        count: programs compiled since `reset`.
        seconds: by stage (trace, lower, compile) since `reset`.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.count, self.seconds = 0, dict.fromkeys(STAGES.values(), 0.0)

    def heard(self, event: str, duration_secs: float, **_: Any) -> None:
        """JAX's listener."""
        if event in STAGES:
            self.seconds[STAGES[event]] += duration_secs
            self.count += event == COMPILED


@contextlib.contextmanager
def listening() -> Iterator[Compilations]:
    """Listen within this block."""
    import jax

    found = Compilations()
    jax.monitoring.register_event_duration_secs_listener(found.heard)
    try:
        yield found
    finally:
        with contextlib.suppress(AttributeError):  # since JAX 0.7; before, it goes on listening for nobody
            jax.monitoring.unregister_event_duration_listener(found.heard)


def differences(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """What is not the same, a line each."""

    def told(side: Mapping[str, float], name: str) -> str:
        return f"{side[name]:,.0f}" if name in side else "not given"

    return [
        f"{name} {told(after, name)}, was {told(before, name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
