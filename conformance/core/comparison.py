"""Two arrays -> how far apart they are, what of that is allowed, and the text of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Bound:
    """The largest error allowed, and where it comes from.

    Attributes:
        value: in the unit of the error it bounds, which is relative unless the text says otherwise.
        noise: the error that correct arithmetic is expected to make.
        why: the derivation in a few words, with its numbers.
    """

    value: float
    noise: float
    why: str


EXACT = Bound(0.0, 0.0, "exact: the same bits")


@dataclass(frozen=True)
class Comparison:
    """One comparison: what, how far off, how far it may be, what its control gave, and how many numbers it compared."""

    what: str
    error: float
    bound: Bound
    control: float | None
    compared: int

    @property
    def margin(self) -> float:
        """Error over bound; of an exact comparison 0 if it holds and infinite if not."""
        if self.bound.value > 0:
            return self.error / self.bound.value
        return 0.0 if self.error == 0 else math.inf


def shuffled(want: Array) -> Array | None:
    """The elements in another order, or None where there is no other order to speak of."""
    if want.size < 2 or bool((want == want.flat[0]).all()):
        return None
    other = np.asarray(np.random.default_rng(0).permutation(want.ravel()).reshape(want.shape))
    # A permutation of few elements may leave them where they were; a shift by one does so only if all are equal.
    return np.roll(want, 1) if np.array_equal(other, want, equal_nan=want.dtype.kind == "f") else other


def share_that_differs(got: Array, want: Array) -> float:
    """Of two arrays of one form: the share of elements whose bits differ."""
    if want.size == 0:
        return 0.0
    kind = np.dtype(f"u{want.dtype.itemsize}") if want.dtype.itemsize in (1, 2, 4, 8) else None
    if kind is None:
        return float((got != want).mean())
    return float((np.ascontiguousarray(got).view(kind) != np.ascontiguousarray(want).view(kind)).mean())


def distance(got: Array, want: Array, scale: float) -> float:
    """The l2 norm of the difference over `scale`; infinite where a NaN or an infinity is not in both."""
    finite = np.isfinite(want)
    if not (np.isfinite(got) == finite).all() or not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return math.inf
    gap = float(np.linalg.norm(got[finite] - want[finite]))
    if gap == 0.0:
        return 0.0
    return gap / scale if scale > 0 else math.inf


def largest(got: Array, want: Array, limits: Array) -> float:
    """The largest difference in units of its own limit; infinite as in `distance`."""
    finite = np.isfinite(want)
    if not (np.isfinite(got) == finite).all() or not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return math.inf
    gap = np.abs(got[finite] - want[finite])
    with np.errstate(divide="ignore"):
        over = np.divide(gap, limits[finite], out=np.zeros_like(gap), where=gap > 0)
    return float(over.max(initial=0.0))


def told(found: Comparison, got: Array, want: Array, limits: Array | None = None) -> str:
    """Error, bound and its reason, and the element that is furthest off, in allowances where there are any."""
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(got.astype(np.float64) - want.astype(np.float64))
    gap = np.where(np.isnan(gap) & ~(np.isnan(got) & np.isnan(want)), np.inf, np.nan_to_num(gap, posinf=np.inf))
    over = gap if limits is None else np.divide(gap, limits, out=np.where(gap > 0, np.inf, 0.0), where=limits > 0)
    at = tuple(int(i) for i in np.unravel_index(int(over.argmax()), gap.shape)) if gap.size else ()
    off = float((gap > 0).mean()) if gap.size else 0.0
    limit = "must be the same bit for bit" if found.bound is EXACT else f"bound {found.bound.value:.3g}"
    reason = "" if found.bound is EXACT else f" ({found.bound.why})"
    where = f"furthest off at {list(at)}: {got[at]!s}, should be {want[at]!s}" if gap.size else "nothing to show"
    return f"error {found.error:.3g}, {limit}{reason}; {where}; {off:.0%} of {gap.size} elements differ"
