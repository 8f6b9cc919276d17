"""A law being asked: comparisons with their error, bound, noise floor and control, and the text of a failure.

Every comparison runs a control beside it, the same comparison against a shuffled tensor, which must fail: a comparison
that cannot tell a tensor from its own shuffle proves nothing and is an error of the check, not a pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import pytest

from .comparison import EXACT, Array, Bound, Comparison, distance, largest, share_that_differs, shuffled, told
from .floors import Floors
from .law import LEVELS, Law

Skipped: type[Any] = pytest.skip.Exception
# Leaves named beside the worst one.
MOST_LEAVES = 5
# How the reason begins of a check that cannot apply to a machine at all.
NOT_APPLICABLE = "does not apply"


class LawBroken(AssertionError):  # noqa: N818 - the verdict on a law, not a mishap
    """What was computed is not what the law demands.

    Attributes:
        final: whether what was asked is gone, so that nothing more can be.
    """

    status = "fail"
    final = False


class Vacuous(Exception):  # noqa: N818 - as above
    """A check that compared nothing, or whose control passed."""

    status = "error"


class NotRun(Skipped):
    """The check does not apply here: too few devices, or a capability that is not claimed."""

    status = "not_run"


class Blocked(Skipped):
    """A rung that the check stands on has failed."""

    status = "blocked"


class Known(Skipped):
    """What the law demands does not hold here, for a reason that lies upstream, is known and is mended there later."""

    status = "deviation"


@dataclass
class Check:
    """One law asked of one subject. A method raises `LawBroken` at the first comparison that fails.

    Attributes:
        law: what is asked.
        level: quick, standard or full: how much is compared.
        seed: of all values drawn.
        comparisons: those made so far.
        facts: measured along the way, for the report: JSON values.
        floors: the smallest errors that the comparisons so far would have seen.
        narrows: whether a failure is asked again with less, for the diagnosis; it takes seconds.
    """

    law: Law
    level: str
    seed: int
    comparisons: list[Comparison] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    narrows: bool = True
    floors: Floors = field(default_factory=Floors)

    def at(self, level: str) -> bool:
        """Whether this run's level is at least `level`."""
        return LEVELS.index(self.level) >= LEVELS.index(level)

    def equal(self, what: str, got: Array, want: Array, *, control: Array | None = None) -> None:
        """Two arrays of one dtype and shape are the same bit for bit; the error is the share of elements that differ.

        Args:
            what: the text of a failure begins with it.
            got: computed.
            want: expected.
            control: what `want` must differ from, where it is the same after a shuffle.
        """
        got, want = np.asarray(got), np.asarray(want)
        self._same_form(what, got, want)
        other = shuffled(want) if control is None else np.asarray(control)
        unlike = None if other is None else share_that_differs(other, want)
        self._add(Comparison(what, share_that_differs(got, want), EXACT, unlike, want.size), got, want)
        self.floors.note_exact(want.dtype)

    def close(
        self,
        what: str,
        got: Array,
        want: Array,
        bound: Bound,
        *,
        scale: float | None = None,
        control: Array | None = None,
    ) -> None:
        """The l2 norm of the difference, over `scale` (default: the norm of `want`), is at most the bound.

        A NaN or infinity that is not in both is an infinite error. Both are compared in float64.
        """
        got, want = np.asarray(got), np.asarray(want)
        if got.shape != want.shape:
            self._fail(what, f"shape {got.shape}, should be {want.shape}")
        g, w = got.astype(np.float64), want.astype(np.float64)
        size = float(np.linalg.norm(w[np.isfinite(w)])) if scale is None else scale
        other = shuffled(w) if control is None else np.asarray(control, np.float64)
        unlike = None if other is None else distance(other, w, size)
        self._add(Comparison(what, distance(g, w, size), bound, unlike, want.size), got, want)
        self.floors.note(what, got.dtype, g, w, lambda other: distance(other, w, size) / bound.value)

    def within(
        self,
        what: str,
        got: Array,
        want: Array,
        allowance: Array,
        bound: Bound,
        *,
        control: Array | None = None,
    ) -> None:
        """Every element is as near as its own allowance says; the error is the largest gap over its allowance.

        A NaN or infinity that is not in both is an infinite error, and where the allowance is 0 so is any gap.
        """
        got, want = np.asarray(got), np.asarray(want)
        if got.shape != want.shape:
            self._fail(what, f"shape {got.shape}, should be {want.shape}")
        g, w = got.astype(np.float64), want.astype(np.float64)
        limits = np.broadcast_to(allowance, w.shape)
        other = shuffled(w) if control is None else np.asarray(control, np.float64)
        unlike = None if other is None else largest(other, w, limits)
        self._add(Comparison(what, largest(g, w, limits), bound, unlike, want.size), g, w, limits)
        self.floors.note(what, got.dtype, g, w, lambda other: largest(other, w, limits) / bound.value)

    def tree(self, what: str, got: Mapping[str, Array], want: Mapping[str, Array], bounds: Mapping[str, Bound]) -> None:
        """Every leaf under its own bound, which is absolute here: the l2 norm of the difference.

        All leaves are compared before the worst one raises.
        """
        if got.keys() != want.keys():
            odd = sorted(got.keys() ^ want.keys())
            self._fail(what, f"leaves differ: {', '.join(odd[:4])}; should be those of the checkpoint")
        broken: list[tuple[Comparison, Array, Array]] = []
        for name, leaf in want.items():
            g, w = np.asarray(got[name]), np.asarray(leaf)
            if g.shape != w.shape:
                self._fail(f"{what} {name}", f"shape {g.shape}, should be {w.shape}")
            g, w = g.astype(np.float64), w.astype(np.float64)
            # The control of a tree is `distinct`: a leaf may be constant or of one element.
            found = Comparison(f"{what} {name}", distance(g, w, 1.0), bounds[name], None, w.size)
            self.comparisons.append(found)
            if not found.error <= found.bound.value:
                broken.append((found, g, w))
            elif found.bound.value > 0:
                kind, most = np.asarray(got[name]).dtype, found.bound.value
                self.floors.note(found.what, kind, g, w, _in_bounds(w, most))
        if broken:
            found, g, w = max(broken, key=lambda item: item[0].margin)
            self._off(g, w)
            others = [item[0].what.removeprefix(f"{what} ") for item in broken if item[0] is not found]
            shown = [*others[:MOST_LEAVES], *(["..."] if len(others) > MOST_LEAVES else [])]
            text = f"{told(found, g, w)}; {len(broken)} of {len(want)} leaves are out of bounds"
            text += f", also {', '.join(shown)}" if shown else ""
            self._fail(found.what, text)

    def distinct(
        self, what: str, other: Mapping[str, Array], want: Mapping[str, Array], bounds: Mapping[str, Bound]
    ) -> None:
        """The control of `tree`: `other`, which must not pass, is out of bounds; else the check proves nothing."""
        worst = max(
            distance(np.asarray(other[name], np.float64), np.asarray(leaf, np.float64), 1.0)
            / max(bounds[name].value, np.finfo(np.float64).tiny)
            for name, leaf in want.items()
        )
        if worst <= 1:
            raise Vacuous(f"{self.law.id}: {what} passes too, at {worst:.2g} of its bound; the comparison is blind")
        self.facts["control_margin"] = min(worst, self.facts.get("control_margin", math.inf))

    def same(self, what: str, got: Any, want: Any) -> None:
        """Two plain values are equal."""
        self.comparisons.append(Comparison(what, 0.0 if got == want else 1.0, EXACT, None, 1))
        if got != want:
            self._fail(what, f"{got!r}, should be {want!r}")

    def at_most(self, what: str, value: float, bound: Bound) -> None:
        """A measured number is at most its bound."""
        self.comparisons.append(Comparison(what, float(value), bound, None, 1))
        if not value <= bound.value:
            self._fail(what, f"{value:.4g}, should be at most {bound.value:.4g} ({bound.why})")

    def at_least(self, what: str, value: float, least: float, why: str) -> None:
        """A measured number is at least `least`: an error far below the expected one is a finding too."""
        self.comparisons.append(Comparison(what, 0.0 if value >= least else 1.0, EXACT, None, 1))
        if not value >= least:
            self._fail(what, f"{value:.4g}, should be at least {least:.4g} ({why})")

    def need(self, applies: bool, reason: str) -> None:
        """Leave the check as NOT RUN unless it applies.

        Raises:
            NotRun: with `reason`.
        """
        if not applies:
            raise NotRun(reason)

    def finish(self) -> None:
        """Refuse a check that compared nothing.

        Raises:
            Vacuous: no comparison was made.
        """
        if not any(found.compared for found in self.comparisons):
            raise Vacuous(f"{self.law.id} compared nothing")
        self.facts["floor"] = self.floors.found()
        if self.floors.unseen:
            self.facts["unseen"] = sorted(self.floors.unseen)

    @property
    def worst(self) -> Comparison | None:
        """The comparison with the largest margin."""
        return max(self.comparisons, key=lambda found: found.margin, default=None)

    def _same_form(self, what: str, got: Array, want: Array) -> None:
        if (got.shape, got.dtype) != (want.shape, want.dtype):
            self._fail(what, f"{got.dtype} {got.shape}, should be {want.dtype} {want.shape}")

    def _add(self, found: Comparison, got: Array, want: Array, limits: Array | None = None) -> None:
        self.comparisons.append(found)
        if not found.error <= found.bound.value:
            self._off(got, want)
            self._fail(found.what, told(found, got, want, limits))
        if found.control is not None and found.control <= found.bound.value:
            raise Vacuous(
                f"{self.law.id}: {found.what}: its control gives {found.control:.2g}, within the bound "
                f"{found.bound.value:.2g}; the comparison is blind"
            )

    def _off(self, got: Array, want: Array) -> None:
        """Note the relative error of a comparison that failed, in the l2 norm: it tells a precision from a mistake."""
        if want.dtype.kind in "biu":
            return
        g, w = got.astype(np.float64), want.astype(np.float64)
        with np.errstate(all="ignore"):
            error = distance(g, w, float(np.linalg.norm(w)))
        if math.isfinite(error):
            self.facts["off_by"] = error

    def _fail(self, what: str, text: str) -> NoReturn:
        raise LawBroken(f"{what}: {text} [{self.law.id}]")


def _in_bounds(want: Array, most: float) -> Callable[[Array], float]:
    """The l2 error of an array in units of `most`."""
    return lambda got: distance(got, want, 1.0) / most
