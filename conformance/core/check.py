"""A check, one run of a law: its comparisons (each with error, bound, noise floor, control) and a failure's message.

The control of a comparison is the expected array with its elements shuffled; it must miss the bound. A comparison that
accepts the shuffled array could not see an error, so the check ends with an error instead of a pass.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import pytest

from .comparison import EXACT, Array, Bound, Comparison, describe, distance, largest, share_that_differs, shuffled
from .facts import Facts
from .floors import Floors
from .law import LEVELS, Law
from .law import NotRunReason as NotRunReason  # other modules import it from here

Skipped: type[Any] = pytest.skip.Exception
# The most leaves that a message names beside the worst one.
MOST_LEAVES = 5


class LawBroken(AssertionError):  # noqa: N818 - a result of the check, not an error in it
    """The computed values do not meet the law."""

    status = "fail"
    final = False  # whether the processes that computed the values are gone: no simplified variant can run


class Vacuous(Exception):  # noqa: N818 - as above
    """The check compared nothing, or its control passed."""

    status = "error"


class NotRun(Skipped):
    """The check does not run on this machine or trainer, for a `NotRunReason`."""

    status = "not_run"

    def __init__(self, message: str, reason: NotRunReason = NotRunReason.LACKING) -> None:
        super().__init__(message)
        self.reason = reason


class Unclaimed(NotRun):
    """The trainer does not claim a capability that the check needs."""

    def __init__(self, capability: str) -> None:
        super().__init__(f"capability {capability} is not claimed", NotRunReason.UNCLAIMED)
        self.facts = Facts(unclaimed=capability)


class AdapterRaised(Exception):  # noqa: N818 - no result is wrong
    """A method of an adapter raised, or broke the interface; `frames` are its last frames, the innermost last."""

    status = "error"

    def __init__(self, message: str, frames: Sequence[str]) -> None:
        super().__init__(message)
        self.facts = Facts(adapter_frames=list(frames))


class Blocked(Skipped):
    """A rung that the check needs has failed."""

    status = "blocked"


class Known(Skipped):
    """A known bug of JAX or of what it calls; it does not count against the verdict."""

    status = "deviation"


@dataclass
class Check:
    """One run of a law, for the machine or for one trainer.

    The methods that compare values raise `LawBroken` if the comparison fails.
    """

    law: Law
    level: str  # quick, standard or full: how much is compared
    seed: int  # seed of all random values
    comparisons: list[Comparison] = field(default_factory=list)  # comparisons made so far
    facts: Facts = field(default_factory=Facts)  # further measurements, for the report
    narrows: bool = True  # whether, after a failure, simplified variants are run for the diagnosis (takes seconds)
    floors: Floors = field(default_factory=Floors)  # detection floors of the comparisons so far

    def at(self, level: str) -> bool:
        """Whether this run's level is at least `level`."""
        return LEVELS.index(self.level) >= LEVELS.index(level)

    def equal(self, what: str, got: Array, want: Array, *, control: Array | None = None) -> None:
        """Compare two arrays of one dtype and shape bit for bit; the error is the share of elements that differ.

        A failure's message begins with `what`. `control` must differ from `want`; the default is `want` shuffled.
        """
        got, want = np.asarray(got), np.asarray(want)
        if (got.shape, got.dtype) != (want.shape, want.dtype):
            self._fail(what, f"{got.dtype} {got.shape}, should be {want.dtype} {want.shape}")
        other = shuffled(want) if control is None else np.asarray(control)
        control_error = None if other is None else share_that_differs(other, want)
        self._add(Comparison(what, share_that_differs(got, want), EXACT, control_error, want.size), got, want)
        self.floors.exact.add(want.dtype.name)

    def close(
        self, what: str, got: Array, want: Array, bound: Bound, *, scale: float | None = None,
        control: Array | None = None,
    ) -> None:  # fmt: skip
        """Compare arrays in float64: the error is the l2 norm of the difference over `scale` (by default |want|).

        If only one of the arrays has a NaN or an infinity somewhere, the error is infinite.
        """
        got, want = self._of_one_shape(what, got, want)
        w = want.astype(np.float64)
        size = float(np.linalg.norm(w[np.isfinite(w)])) if scale is None else scale
        self._measure(what, got, want, lambda other: distance(other, w, size), bound, control)

    def within(
        self, what: str, got: Array, want: Array, allowance: Array, bound: Bound, *, control: Array | None = None
    ) -> None:
        """Compare arrays: the error is the largest ratio of an element's difference to its allowance.

        The error is infinite if an allowance of 0 is exceeded, or if only one array has a NaN or an infinity somewhere.
        """
        got, want = self._of_one_shape(what, got, want)
        w = want.astype(np.float64)
        limits = np.broadcast_to(allowance, w.shape)
        self._measure(what, got, want, lambda other: largest(other, w, limits), bound, control, limits)

    def tree(self, what: str, got: Mapping[str, Array], want: Mapping[str, Array], bounds: Mapping[str, Bound]) -> None:
        """Compare two dicts of arrays (leaves): the error of a leaf is the l2 norm of the difference, unscaled.

        All leaves are compared before the worst one fails. Leaves may be constant or have one element, so they have no
        shuffled control: call `distinct` with a wrong tree instead.
        """
        if got.keys() != want.keys():
            odd = sorted(got.keys() ^ want.keys())
            self._fail(what, f"leaves differ: {', '.join(odd[:4])}; should be those of the checkpoint")
        failed: list[tuple[Comparison, Array, Array]] = []
        for name, leaf in want.items():
            got_leaf, w = self._of_one_shape(f"{what} {name}", got[name], leaf)
            g, w = got_leaf.astype(np.float64), w.astype(np.float64)
            comparison = Comparison(f"{what} {name}", distance(g, w, 1.0), bounds[name], None, w.size)
            self.comparisons.append(comparison)
            if not comparison.error <= comparison.bound.value:
                failed.append((comparison, g, w))
            elif comparison.bound.value > 0:
                self.floors.note(comparison.what, got_leaf.dtype, g, w, _in_units_of(comparison.bound.value, w))
        if failed:
            worst, g, w = max(failed, key=lambda item: item[0].margin)
            self._note_relative_error(g, w)
            others = [item[0].what.removeprefix(f"{what} ") for item in failed if item[0] is not worst]
            named = [*others[:MOST_LEAVES], *(["..."] if len(others) > MOST_LEAVES else [])]
            text = f"{describe(worst, g, w)}; {len(failed)} of {len(want)} leaves are out of bounds"
            self._fail(worst.what, f"{text}, also {', '.join(named)}" if named else text)

    def distinct(
        self, what: str, other: Mapping[str, Array], want: Mapping[str, Array], bounds: Mapping[str, Bound]
    ) -> None:
        """Run the control of `tree`: raise `Vacuous` if `other`, which is wrong on purpose, is within all bounds."""
        worst = max(
            distance(np.asarray(other[name], np.float64), np.asarray(leaf, np.float64), 1.0)
            / max(bounds[name].value, np.finfo(np.float64).tiny)
            for name, leaf in want.items()
        )
        if worst <= 1:
            raise Vacuous(f"{self.law.id}: {what} passes too, at {worst:.2g} of its bound; the comparison sees nothing")
        self.facts["control_margin"] = min(worst, self.facts.get("control_margin", math.inf))

    def same(self, what: str, got: Any, want: Any) -> None:
        """Compare two plain values, which must be equal."""
        self.comparisons.append(Comparison(what, 0.0 if got == want else 1.0, EXACT, None, 1))
        if got != want:
            self._fail(what, f"{got!r}, should be {want!r}")

    def at_most(self, what: str, value: float, bound: Bound) -> None:
        """Compare a measured number with its upper bound."""
        self.comparisons.append(Comparison(what, float(value), bound, None, 1))
        if not value <= bound.value:
            self._fail(what, f"{value:.4g}, should be at most {bound.value:.4g} ({bound.why})")

    def at_least(self, what: str, value: float, least: float, why: str) -> None:
        """Compare a measured number with `least`, its lower bound; `why` says where the bound comes from."""
        self.comparisons.append(Comparison(what, 0.0 if value >= least else 1.0, EXACT, None, 1))
        if not value >= least:
            self._fail(what, f"{value:.4g}, should be at least {least:.4g} ({why})")

    def need(self, applies: bool, message: str, reason: NotRunReason = NotRunReason.LACKING) -> None:
        """Unless the law `applies`, end the check with `NotRun`, with this message and this reason."""
        if not applies:
            raise NotRun(message, reason)

    def need_capability(self, capability: str, claimed: Collection[str]) -> None:
        """End the check with `NotRun` unless the trainer claims a capability."""
        if capability not in claimed:
            raise Unclaimed(capability)

    def finish(self) -> None:
        """Compute the detection floors of a check that passed; raise `Vacuous` if it compared nothing."""
        if not any(comparison.compared for comparison in self.comparisons):
            raise Vacuous(f"{self.law.id} compared nothing")
        self.facts["floor"] = self.floors.table()
        if self.floors.unseen:
            self.facts["unseen"] = sorted(self.floors.unseen)

    @property
    def worst(self) -> Comparison | None:
        """The comparison with the largest margin."""
        return max(self.comparisons, key=lambda comparison: comparison.margin, default=None)

    def _of_one_shape(self, what: str, got: Array, want: Array) -> tuple[Array, Array]:
        got, want = np.asarray(got), np.asarray(want)
        if got.shape != want.shape:
            self._fail(what, f"shape {got.shape}, should be {want.shape}")
        return got, want

    def _measure(
        self, what: str, got: Array, want: Array, error: Callable[[Array], float], bound: Bound, control: Array | None,
        limits: Array | None = None,
    ) -> None:  # fmt: skip
        """Compare two arrays; `error` takes a float64 array in place of `got` and returns its error."""
        g, w = got.astype(np.float64), want.astype(np.float64)
        other = shuffled(w) if control is None else np.asarray(control, np.float64)
        control_error = None if other is None else error(other)
        self._add(Comparison(what, error(g), bound, control_error, want.size), got, want, limits)
        self.floors.note(what, got.dtype, g, w, lambda other: error(other) / bound.value)

    def _add(self, comparison: Comparison, got: Array, want: Array, limits: Array | None = None) -> None:
        self.comparisons.append(comparison)
        limit = comparison.bound.value
        if not comparison.error <= limit:
            self._note_relative_error(got, want)
            self._fail(comparison.what, describe(comparison, got, want, limits))
        if comparison.control is not None and comparison.control <= limit:
            raise Vacuous(
                f"{self.law.id}: {comparison.what}: its control gives {comparison.control:.2g}, within the bound "
                f"{limit:.2g}; the comparison sees nothing"
            )

    def _note_relative_error(self, got: Array, want: Array) -> None:
        """Note the relative l2 error of a failed comparison: its size tells low precision from a wrong formula."""
        if want.dtype.kind in "biu":
            return
        g, w = got.astype(np.float64), want.astype(np.float64)
        with np.errstate(all="ignore"):
            error = distance(g, w, float(np.linalg.norm(w)))
        if math.isfinite(error):
            self.facts["off_by"] = error

    def _fail(self, what: str, text: str) -> NoReturn:
        raise LawBroken(f"{what}: {text} [{self.law.id}]")


def _in_units_of(bound: float, want: Array) -> Callable[[Array], float]:
    return lambda got: distance(got, want, 1.0) / bound
