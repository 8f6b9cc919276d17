"""A trainer's wrong gradient or update -> how often each row counts in it, and how far each leaf moved, in words.

Both are least-squares fits of few unknowns to thousands of numbers, and count only if they leave an error within the
bounds of a right trainer. So they are measurements: what they say is true, whatever its cause is.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...adapter import HostBatch
from ...core.comparison import Bound
from ..bounds_measured import zero_gradients
from ..draws import devices, rows_of
from ..sharded import ShardedTrainer
from ..tape import Array
from ..updates import decays, learning_rate
from .replay import MOST_NAMED, Log, Seen, joined, named

# A count is known if its standard error is at most KNOWN, and is another than 1 if it differs by this many errors.
KNOWN, ERRORS = 0.02, 6.0
# Counts are the same if they differ by at most this part, beside their errors: in exact arithmetic, and for a rule.
SAME, NEAR = 1e-7, 1e-3
# The factors of a leaf that moved as the oracle's, whether it decays or not.
RIGHT = (1.0, np.inf)


class Counts(NamedTuple):
    """How often each row of a batch counts in a gradient, in units of its weight."""

    times: Array  # [B]; NaN where it cannot be known, and for rows of weight 0
    errors: Array  # [B]; standard errors
    leaves: tuple[str, ...]  # the leaves of the fit: all that are wrong
    whole: bool  # whether these are all leaves with a gradient

    @property
    def wrong(self) -> npt.NDArray[np.bool_]:
        """[B]; whether a row is known not to count once."""
        with np.errstate(invalid="ignore"):
            return np.abs(self.times - 1) > ERRORS * self.errors


def counts(log: Log, batch: HostBatch, got: Seen, limits: dict[str, Bound], bad: Sequence[str]) -> Counts | None:
    """How often each row counts in the wrong leaves of a gradient; None if no such numbers give it."""
    real = np.flatnonzero(batch.weights > 0)
    oracle = ShardedTrainer()
    oracle.start(log.case, got.start, 1)
    oracle.t = got.updates
    share = batch.weights.astype(np.float64) / batch.weights.sum(dtype=np.float64)
    one = batch._replace(weights=(batch.weights > 0).astype(np.float32))
    parts = [oracle.sums(rows_of(one, np.array([row]))).gradients for row in real]
    zero = zero_gradients(log.case)
    learning = [name for name in limits if name not in zero and any(part[name].any() for part in parts)]
    moving = [name for name in bad if name in learning]
    if not moving or not all(np.isfinite(got.value[name]).all() for name in moving):
        return None
    columns = np.stack([joined(part, moving, limits) * share[row] for part, row in zip(parts, real, strict=True)], 1)
    wanted = joined(got.value, moving, limits)
    found, _, rank, _ = np.linalg.lstsq(columns, wanted, rcond=1e-12)
    if not np.isfinite(found).all():
        return None
    if rank < len(real):
        return _one_device(log, batch, columns, wanted, moving, len(moving) == len(learning))
    left = wanted - columns @ found
    ends = np.cumsum([got.value[name].size for name in moving])[:-1]
    most = max(1.0, float(np.abs(found).max()))
    if max(float(np.linalg.norm(part)) for part in np.split(left, ends)) > most:
        return None
    # A bound is several times the root mean square of the rounding of its leaf.
    noise = np.concatenate([np.full(got.value[name].size, 1 / np.sqrt(got.value[name].size)) for name in moving])
    inverse = np.linalg.pinv(columns)
    errors = np.sqrt(((inverse * noise) ** 2).sum(axis=1))
    times, all_errors = np.full(len(share), np.nan), np.full(len(share), np.nan)
    times[real], all_errors[real] = np.where(errors <= KNOWN, found, np.nan), errors
    return Counts(times, all_errors, tuple(moving), len(moving) == len(learning))


def _one_device(
    log: Log, batch: HostBatch, columns: Array, wanted: Array, leaves: Sequence[str], whole: bool
) -> Counts | None:
    """The counts, of leaves with fewer numbers than rows, if one device alone can count wrongly; None if not."""
    real = np.flatnonzero(batch.weights > 0)
    own = devices(batch, log.n)[real]
    fits = []
    for device in np.unique(own):
        rest, part = columns[:, own != device].sum(axis=1), columns[:, own == device].sum(axis=1)
        size = float(part @ part)
        times = float(part @ (wanted - rest)) / size if size else np.nan
        # Two numbers fit one unknown by chance only if they agree by chance.
        if len(wanted) > 1 and np.linalg.norm(wanted - rest - times * part) <= 1 and size**-0.5 <= KNOWN:
            fits.append((device, times, size**-0.5))
    if len(fits) != 1 or log.n == 1:
        return None
    device, times, error = fits[0]
    all_times, errors = np.full(len(batch.weights), np.nan), np.full(len(batch.weights), np.nan)
    all_times[real], errors[real] = np.where(own == device, times, 1.0), error
    return Counts(all_times, errors, tuple(leaves), whole)


def said(found: Counts, log: Log, batch: HostBatch, only: str = "") -> Iterator[tuple[str, str]]:
    """Pairs of a place (an id of `judge/places.toml`) and a sentence about which rows count how often.

    `only` is `device` or `micro-batch` if rows that count alike can only be those of one.
    """
    wrong, where = found.wrong, "" if found.whole else f" in {named(found.leaves)}"
    if not wrong.any():
        return
    known = found.times[np.isfinite(found.times)]
    if _alike(found, np.isfinite(found.times)):
        yield "factor", f"all rows {_times(_of(found, np.isfinite(found.times)))}{where}"
        return
    for place, what, group in _groupings(log, batch, only):
        if len(np.unique(group)) > 1 and _constant(found, group):
            yield _groups(found, batch, place, what, group, where)
            return
    if log.case.num_labels > 2 and _constant(found, batch.labels):
        _, words = _groups(found, batch, "class", "label", batch.labels, where)
        yield "class-weights", words
        return
    weights = np.where(batch.weights > 0, batch.weights, np.nan)
    alike = found.times * weights
    if np.nanmax(alike) - np.nanmin(alike) <= NEAR * np.nanmax(np.abs(alike)):
        yield "weights", f"all rows count the same{where}, whatever their weights"
        return
    if part := _means(found, log, batch, only):
        yield f"{part}-means", f"every {part} counts the same{where}, whatever the weight of its rows"
    rows = np.flatnonzero(wrong)
    values = {f"{times:.3g}" for times in found.times[rows]}
    if len(values) <= MOST_NAMED:
        # Rows that are lost or repeated count a whole number of times as often as others; weights need not.
        least = min((abs(one) for one in known if abs(one) >= KNOWN), default=1.0)
        place = "rows" if all(abs(one / least - round(one / least)) <= KNOWN for one in known) else "row-weights"
        for value in sorted(values, key=lambda text: abs(float(text))):
            these = [int(row) for row in rows if f"{found.times[row]:.3g}" == value]
            yield place, f"rows {these} of the batch {_times(float(value))}{where}"
        return
    # One output, or two classes, have one direction: there any other loss or label is another count.
    place = "slopes" if log.case.regression or log.case.num_labels <= 2 else "rows"
    yield place, f"rows count {known.min():.3g} to {known.max():.3g} times their weights{where}"


def _means(found: Counts, log: Log, batch: HostBatch, only: str) -> str:
    """`device` or `micro-batch` if each has the same part of the sum, whatever rows it has; empty if not.

    Rows that count alike are those of whole parts, so together they have a whole number of parts of the sum.
    """
    real = np.flatnonzero(batch.weights > 0)
    order = real[np.argsort(found.times[real])]
    share = batch.weights[order] * found.times[order] / batch.weights.sum(dtype=np.float64)
    starts = np.flatnonzero(np.diff(found.times[order], prepend=-np.inf) > NEAR)
    counts = np.add.reduceat(share, starts)
    for what, many in (("micro-batch", log.case.accumulate), ("device", log.n)):
        whole = np.round(counts * many)
        each = what.startswith(only) and 1 < len(counts) <= many and whole.all() and whole.sum() == many
        if each and np.allclose(counts * many, whole, atol=NEAR):
            return what
    return ""


def _groupings(log: Log, batch: HostBatch, only: str) -> Iterator[tuple[str, str, npt.NDArray[np.integer]]]:
    """Triples: a place, what its groups of rows are, and the group of each row."""
    rows, share, many = len(batch.weights), -(-len(batch.weights) // log.n), log.case.accumulate
    at = np.arange(rows)
    if only != "micro-batch":
        yield "device", "device", devices(batch, log.n)
    if only != "device":
        # As the oracle deals them, and two other ways.
        yield "micro-batch", "micro-batch", at % share % many
        yield "micro-batch", "block of consecutive rows", at // -(-rows // many)
        yield "micro-batch", "block of each device's rows", at % share // -(-share // many)


def _groups(
    found: Counts, batch: HostBatch, place: str, what: str, group: npt.NDArray[np.integer], where: str
) -> tuple[str, str]:
    """The place and the sentence for devices or micro-batches whose rows all count equally often."""
    each = {int(one): _of(found, group == one) for one in np.unique(group)}
    each = {one: times for one, times in each.items() if np.isfinite(times)}
    total = {one: float(batch.weights[group == one].sum()) for one in each}
    sizes = [times * total[one] for one, times in each.items()]
    if np.ptp(sizes) <= NEAR * max(np.abs(sizes)) and np.ptp(list(total.values())) > KNOWN * max(total.values()):
        return f"{place}-means", f"every {what} counts the same{where}, whatever the weight of its rows"
    wrong = {one: times for one, times in each.items() if (found.wrong & (group == one)).any()}
    by = {_times(times): [one for one in wrong if _times(wrong[one]) == _times(times)] for times in wrong.values()}
    who = f"the rows of {what}"
    if what == "device" and np.ptp(np.unique(group, return_counts=True)[1]):
        # Where rows do not divide evenly, trainers deal them in several ways.
        who, by = "rows", {much: np.flatnonzero(np.isin(group, ones)).tolist() for much, ones in by.items()}
    words = [f"{who} {', '.join(map(str, ones))} {much}" for much, ones in by.items()]
    # Rows that are left out or read twice count so in every leaf; a part that is lost on the way may not.
    rows = found.whole and all(abs(one - round(one)) <= KNOWN / 2 and round(one) != 1 for one in wrong.values())
    # If the sum of weights counts them so too, they count so relative to others.
    least = min(map(abs, each.values()), default=0.0)
    if least > KNOWN and abs(sum(sizes) / float(batch.weights.sum()) - 1) <= NEAR:
        by_least = [one / least for one in each.values()]
        rows = found.whole and max(by_least) > 1.5 and all(abs(one - round(one)) <= NEAR for one in by_least)
    return f"{place}-rows" if rows else place, f"{'; '.join(words[:MOST_NAMED])}{where}"


def _constant(found: Counts, group: npt.NDArray[np.integer]) -> bool:
    """Whether all rows of each group count equally often, and not all groups do; False if the groups are too small."""
    means, alone = [], 0
    for one in np.unique(group):
        known = (group == one) & np.isfinite(found.times)
        if not known.any():
            continue
        alone += known.sum() == 1
        if not _alike(found, known):
            return False
        means.append(_of(found, known))
    # Groups of one row are alike by themselves.
    return len(means) > 1 and np.ptp(means) > 0 and 2 * alone <= len(means)


def _alike(found: Counts, which: npt.NDArray[np.bool_]) -> bool:
    """Whether these rows count equally often, within their errors."""
    gaps = np.abs(found.times[which] - _of(found, which))
    return bool((gaps <= ERRORS * found.errors[which] + SAME * np.abs(found.times[which])).all())


def _of(found: Counts, which: npt.NDArray[np.bool_]) -> float:
    """The mean count of some rows, each weighted by how well it is known; NaN if none is known."""
    known = which & np.isfinite(found.times)
    return float(np.average(found.times[known], weights=found.errors[known] ** -2)) if known.any() else np.nan


def _times(times: float) -> str:
    if abs(times) < KNOWN:
        return "do not count"
    return f"count {times:.9g} times" if abs(times - 1) < KNOWN else f"count {times:.3g} times"


# Updates.


def steps(log: Log, got: Seen, want: Seen, limits: dict[str, Bound]) -> Iterator[tuple[str, str]]:
    """Pairs of a place and a sentence about how far leaves moved, as multiples of the oracle's step and decay.

    Nothing is said if a leaf moved in another direction than the sum of a multiple of each.
    """
    rate = learning_rate(log.case, got.updates - 1)
    if got.kind != "distance" or got.since != 1 or rate == 0:
        return
    groups: dict[tuple[float, float], list[str]] = {}
    decay = log.case.weight_decay
    for name, leaf in want.value.items():
        down = -rate * decay * got.start[name]
        step = leaf - (down if decays(name) else 0.0)
        pair = _multiples(got.value[name], step, down, limits[name].value, decays(name))
        if pair is None:
            return
        groups.setdefault(pair, []).append(name)
    right = groups.pop(RIGHT, [])
    if len(groups) > 2 * MOST_NAMED:
        moved = [step for step, _ in groups]
        yield "leaves", f"each leaf moved by a factor of its own, {min(moved):.3g} to {max(moved):.3g} times as far"
        return
    for (step_by, decay_by), names in sorted(groups.items(), key=lambda pair: -len(pair[1]))[:MOST_NAMED]:
        who = named(names) if right or len(groups) > 1 else "all leaves"
        if step_by == decay_by == 0:
            yield "leaves", f"{who}: did not move"
        elif step_by == 0 and decay_by == 1:
            yield "no-gradient", f"{who}: moved by the decay alone"
        elif step_by == decay_by != 1:
            yield ("leaves" if right or len(groups) > 1 else "rate"), f"{who}: moved {step_by:.4g} times as far"
        elif step_by == 1:
            much = "without decay" if decay_by == 0 else f"with {decay_by:.4g} times the decay"
            yield "decay", f"{who}: the step is right, {much}"
        else:
            yield "leaves", f"{who}: {step_by:.4g} times the step, and {decay_by:.4g} times the decay"
    if right:
        yield "", f"{len(right)} other leaves moved as the oracle's"


def _multiples(got: Array, step: Array, down: Array, bound: float, decaying: bool) -> tuple[float, float] | None:
    """The factors (a, b) with got = a step + b down within the bound; the simplest pair that fits."""
    if not np.isfinite(got).all():
        return None
    a, b = np.ravel(step), np.ravel(down)
    y = np.ravel(got)
    usual = 1.0 if decaying else 0.0

    def fits(one: float, two: float) -> bool:
        return float(np.linalg.norm(y - one * a - two * b)) <= bound * max(1.0, abs(one), abs(two))

    if fits(1.0, usual):
        return RIGHT
    both = a + usual * b
    size = float(both @ both)
    if size and fits(k := float(both @ y) / size, usual * k) and abs(k - 1) > NEAR:
        k = 0.0 if abs(k) < 1e-6 else float(f"{k:.4g}")
        return k, k
    size = float(b @ b)
    if size and fits(1.0, k := float(b @ (y - a)) / size):
        return 1.0, 0.0 if abs(k) < KNOWN and fits(1.0, 0.0) else float(f"{k:.4g}")
    pair = np.linalg.lstsq(np.stack([a, b], 1), y, rcond=None)[0]
    return (float(f"{pair[0]:.4g}"), float(f"{pair[1]:.4g}")) if fits(*map(float, pair)) else None
