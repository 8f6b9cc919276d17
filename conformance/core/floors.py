"""The comparisons of a check -> its detection floor: the smallest relative error that it still sees, by dtype.

An error of relative size e is injected into the computed values, and e is bisected between the largest value that
passes and the smallest that fails:

    all       e is in every number of every comparison: the most sensitive comparison sees it first
    tensor    e is in every number of one comparison: the least sensitive one, since the fault may be in any
    element   e is in one number of that comparison: the number of median size, zeros excluded

A floor also has `noise`, the relative l2 error that correct arithmetic makes in the least sensitive comparison.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .comparison import Array
from .facts import Floor

Error = Callable[[Array], float]

# The most comparisons noted for a check: later ones have the same shapes, and would add nothing.
MOST = 256
# Bisection ends when log2 of the floor is known to this precision.
STEP = 0.05
LEAST, LARGEST = 2.0**-60, 2.0**40


@dataclass
class Probe:
    """A comparison that can be repeated with an injected error."""

    what: str  # what was compared
    got: Array  # the computed values, float64
    error: Error  # an array like `got` -> its error, in units of the bound
    noise: float  # relative error of correct arithmetic
    estimate: float  # estimated floor if the error is in every number

    def floor(self, *, element: bool) -> float:
        """The smallest injected error with which the comparison fails; infinite if it never fails."""
        finite = np.isfinite(self.got)
        values = np.where(finite, self.got, 0.0)
        change = values
        if element:
            change = np.zeros_like(values)
            order = np.argsort(np.abs(values), axis=None)
            order = order[np.flatnonzero(values.reshape(-1)[order])]
            place = order[order.size // 2]
            change.reshape(-1)[place] = values.reshape(-1)[place]

        def sees(size: float) -> bool:
            return not self.error(np.where(finite, values + size * change, self.got)) <= 1.0

        if not sees(LARGEST):
            return math.inf
        low, high = math.log2(LEAST), math.log2(LARGEST)
        while high - low > STEP:
            middle = (low + high) / 2
            low, high = (low, middle) if sees(2.0**middle) else (middle, high)
        return 2.0**high


@dataclass
class Floors:
    """The most and the least sensitive comparisons of a check, from which its detection floors are computed."""

    seen: int = 0  # how many comparisons were noted
    most: dict[str, Probe] = field(default_factory=dict)  # dtype -> the most sensitive comparison
    least: dict[str, Probe] = field(default_factory=dict)  # dtype -> the least sensitive comparison
    exact: set[str] = field(default_factory=set)  # dtypes that were compared bit for bit
    # Comparisons that pass even if every value is doubled, because the values are rounding errors only: the gradient
    # of a key's bias, for example, is zero in exact arithmetic.
    unseen: set[str] = field(default_factory=set)

    def note(self, what: str, dtype: np.dtype[Any], got: Array, want: Array, error: Error) -> None:
        """Note a comparison that passed; `error` turns an array like `got` into its error in units of the bound."""
        size = float(np.linalg.norm(want[np.isfinite(want)]))
        if self.seen >= MOST or size == 0.0:
            return
        self.seen += 1
        finite = np.isfinite(got)
        doubled = error(np.where(finite, 2 * np.where(finite, got, 0.0), got))
        if doubled <= 1.0:
            self.unseen.add(what)
            return
        both = finite & np.isfinite(want)
        noise = float(np.linalg.norm(got[both] - want[both])) / size
        probe = Probe(what, got, error, noise, 1.0 / doubled)
        name = dtype.name
        self.most[name] = min(self.most.get(name, probe), probe, key=lambda one: one.estimate)
        self.least[name] = max(self.least.get(name, probe), probe, key=lambda one: one.estimate)

    def table(self) -> dict[str, Floor]:
        """Dtype -> its floor; if it was compared only bit for bit, that is the distance from 1 to the next number.

        Integer dtypes are left out: a comparison bit for bit sees every change of an integer.
        """
        import ml_dtypes  # comes with JAX, which may be missing

        table: dict[str, Floor] = {}
        for name in sorted(self.exact - self.least.keys()):
            if np.dtype(name).kind not in "biu":
                spacing = float(ml_dtypes.finfo(name).eps)
                table[name] = {"all": spacing, "tensor": spacing, "element": spacing, "noise": 0.0}
        for name, probe in self.least.items():
            table[name] = {
                "all": self.most[name].floor(element=False),
                "tensor": probe.floor(element=False),
                "element": probe.floor(element=True),
                "noise": probe.noise,
                "least_sensitive": probe.what,
            }
        return table
