"""Two arrays -> the error of their comparison, its bound, and the message of a failure."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Bound:
    """The largest allowed error, and where it comes from."""

    value: float  # has the unit of the error: a relative error, unless the comparison says otherwise
    noise: float  # the error expected of correct arithmetic
    why: str  # the derivation in a few words, with its numbers


EXACT = Bound(0.0, 0.0, "exact: the same bits")


@dataclass(frozen=True)
class Comparison:
    """One comparison of a check."""

    what: str  # what was compared, in words
    error: float
    bound: Bound
    control: float | None  # the error of the control; None without a control
    compared: int  # how many numbers were compared

    @property
    def margin(self) -> float:
        """Error divided by bound; for an exact comparison, 0 if it passed and infinite if it failed."""
        if self.bound.value > 0:
            return self.error / self.bound.value
        return 0.0 if self.error == 0 else math.inf


def shuffled(want: Array) -> Array | None:
    """The elements of an array in another order; None if all elements are equal."""
    if want.size < 2 or bool((want == want.flat[0]).all()):
        return None
    other = np.asarray(np.random.default_rng(0).permutation(want.ravel()).reshape(want.shape))
    # A permutation of few elements may change nothing; a shift by one does, unless all elements are equal.
    return np.roll(want, 1) if np.array_equal(other, want, equal_nan=want.dtype.kind == "f") else other


def share_that_differs(got: Array, want: Array) -> float:
    """The share of elements whose bits differ, for two arrays with the same shape and dtype."""
    if want.size == 0:
        return 0.0
    if want.dtype.itemsize in (1, 2, 4, 8):
        got, want = (np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}") for array in (got, want))
    return float((got != want).mean())


def distance(got: Array, want: Array, scale: float) -> float:
    """The l2 norm of the difference over `scale`; infinite if only one array has a NaN or an infinity somewhere."""
    finite = np.isfinite(want)
    if not (np.isfinite(got) == finite).all() or not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return math.inf
    gap = float(np.linalg.norm(got[finite] - want[finite]))
    if gap == 0.0:
        return 0.0
    return gap / scale if scale > 0 else math.inf


def largest(got: Array, want: Array, limits: Array) -> float:
    """The largest ratio of an element's difference to its limit; infinite in the same cases as `distance`."""
    finite = np.isfinite(want)
    if not (np.isfinite(got) == finite).all() or not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return math.inf
    gap = np.abs(got[finite] - want[finite])
    with np.errstate(divide="ignore"):
        over = np.divide(gap, limits[finite], out=np.zeros_like(gap), where=gap > 0)
    return float(over.max(initial=0.0))


def describe(comparison: Comparison, got: Array, want: Array, limits: Array | None = None) -> str:
    """A failed comparison in words: error, bound, and the element that is furthest off (over its limit, if any)."""
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(got.astype(np.float64) - want.astype(np.float64))
    gap = np.where(np.isnan(gap) & ~(np.isnan(got) & np.isnan(want)), np.inf, np.nan_to_num(gap, posinf=np.inf))
    over = gap if limits is None else np.divide(gap, limits, out=np.where(gap > 0, np.inf, 0.0), where=limits > 0)
    at = tuple(int(i) for i in np.unravel_index(int(over.argmax()), gap.shape)) if gap.size else ()
    off = float((gap > 0).mean()) if gap.size else 0.0
    bound = comparison.bound
    limit = "must be the same bit for bit" if bound is EXACT else f"bound {bound.value:.3g} ({bound.why})"
    where = f"furthest off at {list(at)}: {got[at]!s}, should be {want[at]!s}" if gap.size else "nothing to show"
    return f"error {comparison.error:.3g}, {limit}; {where}; {off:.0%} of {gap.size} elements differ"
