"""A check's comparisons -> the smallest relative error that it still sees, by dtype: its detection floor.

An error of relative size e is injected into what was computed, and e is bisected between the largest that the
comparison lets pass and the smallest that it does not:

    all       every number of every comparison is off by e: the most sensitive comparison sees it first
    tensor    every number of one comparison: of the least sensitive one, since the fault may be in any
    element   one number of that comparison is off by e of itself: that of median size, zeros left out

beside the noise, which is the relative error, in the l2 norm, that correct arithmetic makes there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Error = Callable[[Array], float]

# More comparisons of a check tell nothing new: their shapes repeat.
MOST = 256
# Bisection ends when the logarithm is known to so much.
STEP = 0.05
LEAST, LARGEST = 2.0**-60, 2.0**40


@dataclass
class Probe:
    """One comparison that can be repeated with an error in it.

    Attributes:
        what: was compared.
        got: was computed, float64.
        error: of such an array, in units of the bound.
        noise: relative, of correct arithmetic.
        estimate: of the floor, if every number is off.
    """

    what: str
    got: Array
    error: Error
    noise: float
    estimate: float

    def floor(self, *, element: bool) -> float:
        """The smallest injected error that is seen; infinite where none is."""
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
    """The comparisons of one check, of which the most and the least sensitive are kept.

    Attributes:
        seen: how many came.
        most: by dtype, the most sensitive one.
        least: by dtype, the least sensitive one.
        exact: dtypes that were compared bit for bit.
        unseen: comparisons that let pass twice the value: of what is nothing but rounding, such as the gradient of a
            key's bias, which is exactly zero.
    """

    seen: int = 0
    most: dict[str, Probe] = field(default_factory=dict)
    least: dict[str, Probe] = field(default_factory=dict)
    exact: set[str] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)

    def note(self, what: str, dtype: np.dtype[Any], got: Array, want: Array, error: Error) -> None:
        """A comparison within a bound that held: `error` of an array like `got`, in units of the bound."""
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
        if name not in self.most or probe.estimate < self.most[name].estimate:
            self.most[name] = probe
        if name not in self.least or probe.estimate > self.least[name].estimate:
            self.least[name] = probe

    def note_exact(self, dtype: np.dtype[Any]) -> None:
        """A comparison bit for bit that held."""
        self.exact.add(dtype.name)

    def found(self) -> dict[str, dict[str, Any]]:
        """The floors by dtype; of a dtype that was compared bit for bit only, the distance from 1 to the next number.

        Integers have none: every bit of them is seen.
        """
        table: dict[str, dict[str, Any]] = {}
        for name in sorted(self.exact - self.least.keys()):
            spacing = _spacing(name)
            if spacing is not None:
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


def _spacing(name: str) -> float | None:
    import ml_dtypes

    kind = np.dtype(name)
    return None if kind.kind in "biu" else float(ml_dtypes.finfo(kind).eps)
