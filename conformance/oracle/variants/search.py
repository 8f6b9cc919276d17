"""A trainer's calls and results -> the variants of the oracle, one or several together, that explain them.

Single variants are tried first, then those that bring the numbers nearest are combined with all others. A variant
explains the numbers if all of them are within the bounds of that variant.
"""

import itertools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..tape import Array, unrounded
from .measure import measured
from .replay import Gap, Log, Seen, bounds, gap, replay, seen
from .table import Variant, all_variants, with_value

Several = tuple[Variant, ...]
# The most variants that are combined, the most combinations to which another one is added, and the most that are
# compared within their own bounds.
DEEPEST, WIDEST, NEAREST = 4, 2, 8
# The most combinations of a search.
MOST = 900
# A combination is kept if it passes more comparisons than without its last variant, or if that divides the margin.
NEARER = 3.0
# Fewer numbers than this are explained only by single variants, and if the oracle is at least this many bounds off.
FEW, SURE = 8, 1e3
# A number is fitted only if the oracle is at least this many bounds off: a small error is soon fitted by chance.
FAR_OFF = 100.0
# The steps of a fit, and the relative length of a difference.
FITS, FAR = 5, 1e-3
TINY = float(np.finfo(np.float64).tiny)
# Groups that change nothing before the first update is made.
LATER = ("clipping", "optimizer", "decay", "schedule", "input")


@dataclass(frozen=True)
class Explanation:
    """What explains a trainer's numbers: any one of `found`."""

    found: tuple[Several, ...]  # empty if nothing explains them
    before: Gap  # of the oracle without a variant
    after: Gap  # of the first of `found`, or of the nearest combination
    nearest: Several  # the combination that comes nearest
    tried: int  # how many combinations were compared
    measured: tuple[str, ...]  # about the first result that is not the oracle's
    log: Log  # the run that was compared


class Search:
    """The search for one log; `until` is when it ends (`time.thread_time`, so that a busy machine finds the same)."""

    def __init__(self, log: Log, until: float) -> None:
        self.log, self.until, self.tried = log, until, 0
        self.mine = seen(log)
        right = bounds((), log)
        self.right, self.limits = [one for one, _ in right], [limit for _, limit in right]
        self.before = gap(self.mine, iter(self.right), self.limits)
        # Results that are the oracle's: a kind, and the number of updates before it.
        each = zip(self.mine, self.right, self.limits, strict=True)
        self.shown = {(one.kind, one.updates) for one, want, limit in each if gap([one], iter([want]), [limit]).whole}

    def explain(self, known: Iterable[Several] = (), deepest: int = DEEPEST) -> Explanation | None:
        """The explanation; None if the oracle's own numbers are within all bounds. `known` are tried first."""
        if self.before.whole:
            return None
        # A few numbers are soon explained by chance; what does not move is no number.
        later = self.right[self.before.passed :]
        few = sum(int(np.count_nonzero(leaf)) for one in later for leaf in one.value.values()) < FEW
        deepest = 1 if few else deepest
        near: list[tuple[Several, Gap]] = [((), self.before)]
        for depth in range(deepest + 1):
            trials = [*known] if depth == 0 else [*self._longer(near)]
            best = self._nearest(trials, near[0][1])
            if depth == 1 and not few and self.before.margin >= FAR_OFF and not (best and best[0][1].whole):
                best = sorted([*best, *self._fitted()], key=lambda pair: _order(pair[1]))
            elif depth > 1 and best:
                best = self._nearest([*self._siblings(best[0][0])], near[0][1]) or best
            chance = few and self.before.margin < SURE
            found = tuple(several for several, left in best if left.whole and not chance)
            if found:
                return self._explanation(found, best[0])
            if depth > 0 and not best:
                break
            # Of several values of one variant only the nearest goes on; and known ones, if another one joins them.
            apart = {frozenset(one.entry for one in pair[0]): pair for pair in reversed(best)}
            near = [*(near if depth == 0 else ()), *[*apart.values()][::-1][:WIDEST]]
        return self._explanation((), near[0])

    def _explanation(self, found: tuple[Several, ...], nearest: tuple[Several, Gap]) -> Explanation:
        # Variants of some settings come first: others would have failed in the checks before, which are simpler.
        found = tuple(sorted(found, key=_plainness))
        at = self.before.passed
        words = measured(self.log, self.mine[at], self.right[at], self.limits[at])
        return Explanation(found, self.before, nearest[1], nearest[0], self.tried, tuple(words), self.log)

    def _longer(self, near: Sequence[tuple[Several, Gap]]) -> Iterator[Several]:
        """Each combination with one variant more that can change what is out of bounds."""
        made = set()
        for several, left in near:
            entries = {variant.entry for variant in several}
            for variant in all_variants().values():
                key = frozenset((*several, variant))
                if variant.entry not in entries and key not in made and self._matters(variant, self.mine[left.passed]):
                    made.add(key)
                    yield (*several, variant)

    def _siblings(self, several: Several) -> Iterator[Several]:
        """The combination, and those in which one variant has another value."""
        yield several
        for i, variant in enumerate(several):
            others = (one for one in all_variants().values() if one.entry == variant.entry and one != variant)
            yield from ((*several[:i], other, *several[i + 1 :]) for other in others)

    def _fitted(self) -> list[tuple[Several, Gap]]:
        """The variants whose value is a number, each with the number that fits best: Gauss and Newton's method."""
        at, nearest = self.before.passed, dict[tuple[str, str], tuple[float, Variant]]()
        for one in all_variants().values():
            if isinstance(one.value, float) and one.value > 0 and self._matters(one, self.mine[at]):
                gaps = self._residual(one)
                far = np.inf if gaps is None else float(gaps @ gaps)
                before = nearest.get((one.entry, one.scope), (np.inf, one))
                nearest[one.entry, one.scope] = min(before, (far, one), key=lambda pair: pair[0])
        values = [fitted(one, self._residual) for _, one in nearest.values()]
        return self._nearest([(one,) for one in values if one is not None], self.before)

    def _residual(self, variant: Variant) -> Array | None:
        """Trainer minus variant, in units of the bounds, at the first result that is out of its bounds."""
        self.tried += 1
        at = self.before.passed
        theirs = itertools.islice(replay((variant,), self.log, self.log.points(), unrounded), at, at + 1)
        other, mine, limit = next(theirs).value, self.mine[at].value, self.limits[at]
        gaps = np.concatenate(
            [np.ravel(mine[name] - leaf) / max(limit[name].value, TINY) for name, leaf in other.items()]
        )
        return gaps if np.isfinite(gaps).all() and time.thread_time() < self.until else None

    def _matters(self, variant: Variant, wrong: Seen) -> bool:
        if not variant.differs(self.log.case, self.log.n, any(call.method == "restore" for call in self.log.calls)):
            return False
        if variant.scope == "training":
            return ("logits", 0) in self.shown and wrong.kind != "logits"
        if variant.scope == "evaluation":
            return wrong.kind == "logits" and bool(
                self.shown & {(kind, wrong.updates) for kind in ("loss", "gradient")}
            )
        if wrong.kind == "rate":
            return variant.group in ("schedule", "accumulation", "state", "checkpoint")
        if wrong.updates == 0 and wrong.kind == "logits":
            return variant.group in ("forward", "dropout", "state", "precision")
        return wrong.updates > 0 or wrong.kind == "distance" or variant.group not in LATER

    def _nearest(self, trials: Sequence[Several], than: Gap) -> list[tuple[Several, Gap]]:
        """The combinations that come nearer `than` this, nearest first, each within its own bounds."""
        gaps = []
        for several in trials:
            if time.thread_time() > self.until or self.tried >= MOST:
                break
            self.tried += 1
            left = gap(self.mine, replay(several, self.log, self.log.points(), unrounded), self.limits)
            if left.whole or left.passed > than.passed or left.margin * NEARER < than.margin:
                gaps.append((several, left))
        again = []
        for several, _ in sorted(gaps, key=lambda pair: _order(pair[1]))[:NEAREST]:
            own = bounds(several, self.log)
            again.append((several, gap(self.mine, iter([one for one, _ in own]), [limit for _, limit in own])))
        return sorted(again, key=lambda pair: _order(pair[1]))


def fitted(variant: Variant, residual: Callable[[Variant], Array | None]) -> Variant | None:
    """The variant with the value at which the residual is least, to as few digits as fit; None if there is none."""
    value = variant.value
    for _ in range(FITS):
        here, there = residual(with_value(variant, value)), residual(with_value(variant, value * (1 + FAR)))
        if here is None or there is None:
            return None
        slope = (there - here) / (value * FAR)
        size = float(slope @ slope)
        if size == 0:
            return None
        # A value that would change its sign is halved or doubled: all of these numbers are positive.
        value = min(max(value - float(slope @ here) / size, value / 100), value * 100)
    return with_value(variant, float(f"{value:.4g}"))


def _plainness(several: Several) -> tuple[bool, bool]:
    return not any(variant.needs for variant in several), any(variant.scope for variant in several)


def _order(left: Gap) -> tuple[bool, int, float]:
    return not left.whole, -left.passed, left.margin


def wrong(logs: Sequence[Log]) -> Log | None:
    """The last of these runs whose numbers are not the oracle's; None if all are."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return next((log for log in reversed(logs) if not Search(log, 0.0).before.whole), None)


def explain(
    logs: Sequence[Log], seconds: float, known: Iterable[Several] = (), deepest: int = DEEPEST
) -> Explanation | None:
    """The explanation of the last of these runs whose numbers are not the oracle's; None if all are.

    Combinations have at most `deepest` variants.
    """
    until = time.thread_time() + seconds
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for log in reversed(logs):
            if time.thread_time() > until:
                break
            explanation = Search(log, until).explain(known, deepest)
            if explanation is not None:
                return explanation
    return None
