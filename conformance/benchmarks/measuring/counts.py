"""A trainer's compiled update -> counts that do not scatter: the same program has them on every run and machine load.

They are compared with those of a baseline of the same JAX without any tolerance. (The optimised text itself is no such
thing: its names depend on the order of compilation.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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


def differences(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """What is not the same, a line each."""

    def told(side: Mapping[str, float], name: str) -> str:
        return f"{side[name]:,.0f}" if name in side else "not given"

    return [
        f"{name} {told(after, name)}, was {told(before, name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
