"""The text of a trainer's compiled update -> exact counts, the same in every run.

They are compared with the counts of a stored run of the same JAX without tolerance. The text itself cannot be compared:
its names depend on the order of compilation.
"""

import re
from collections.abc import Mapping

# Kinds that are counted separately.
KINDS = (
    "fusion", "dot", "convolution", "custom-call", "while", "scatter", "gather", "all-reduce", "all-gather",
    "reduce-scatter", "collective-permute", "all-to-all",
)  # fmt: skip
OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (?:\([^=]*?\)|\S+) ([a-z][\w\-]*)\(", re.MULTILINE)


def operations(text: str) -> dict[str, int]:
    """The number of operations in an HLO text, in total and by kind."""
    names = [name.removesuffix("-start") for name in OPERATION.findall(text)]
    return {"operations": len(names)} | {kind: names.count(kind) for kind in KINDS}


def differences(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Counts that differ, one text each."""

    def count(side: Mapping[str, float], name: str) -> str:
        return f"{side[name]:,.0f}" if name in side else "unknown"

    return [
        f"{name} {count(after, name)}, was {count(before, name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
