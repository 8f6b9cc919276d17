"""Where a run is wrong, in general -> in particular: which numbers of a leaf, how many bits, devices and updates."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ....oracle.sharded import rounded
from ....oracle.tape import Array, Params
from ....oracle.variants.fit import NEAR
from ....oracle.variants.located import Located, Pair, moves, pairs
from ....oracle.variants.measure import NARROW, common_factor
from ....oracle.variants.replay import MOST_NAMED, Log
from .made import Calls, Until, attempted, margin_of
from .simpler import changed

# The largest relative error of a rounding to a type; a number on the border of two can be rounded to either.
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
# A number of devices between one and all of them, beside half of all: it is no power of two, and divides few batches.
ODD = 3
# The fewest consecutive elements that are a part of a leaf: fewer can be next to each other by chance.
PART = 4
# Fewer elements are a part of it if each errs by at least this many bounds of the whole leaf.
FAR_OFF = 100.0
# Places of wrong gradients and updates that say nothing of which numbers are wrong.
VAGUE = (
    "backward", "later-gradient", "before-moments", "after-moments", "second-moment", "scaled-update", "optimizer",
    "gradient-or-optimizer", "shown-parameters",
)  # fmt: skip
# The relative error up to which one factor is the square of another.
TIMES = 1e-2
# Results that show parts of leaves; and the most indices or updates that a sentence lists.
BY_LEAF, MOST_LISTED = ("gradient", "distance", "first moment"), 6


def narrow_parameters(run: Log, compared: Sequence[Pair]) -> Located | None:
    """The place, if the trainer shows parameters of fewer bits than it got; None if not."""
    shown = next((call.result for call in run.calls if call.method == "params"), None)
    if shown is None or run.case.precision == "bfloat16":
        return None
    kind = next((kind for kind in NARROW if _all_of(shown, kind) and not _all_of(run.params, kind)), "")
    if not kind:
        return None
    words = [f"params() after an update: every number is one of {kind}, and those that `start` got are not"]
    moments = next((call.result for call in run.calls if call.method == "moments"), None)
    if moments is not None:
        more = "are of that type too" if all(_all_of(one, kind) for one in moments) else "have more bits"
        words.append(f"Adam's moments {more}")
    logits = next((pair for pair in compared if (pair.got.kind, pair.got.updates) == ("logits", 0)), None)
    if logits is not None:
        used = "wrong too, so the network has them" if logits.bad else "right, so the network has more bits then"
        words.append(f"the logits before any update are {used}")
    return Located("narrow-parameters", tuple(words))


def _all_of(leaves: Params, kind: str) -> bool:
    return all(np.array_equal(rounded(leaf, kind), leaf) for leaf in leaves.values())


def sharper(place: Located, run: Log, compared: Sequence[Pair]) -> Located:
    """The place, or a more particular one, if logits are right: what is only shown, few bits, or a part of a leaf."""
    wrong = [pair for pair in compared if pair.bad]
    if any(pair.got.kind == "logits" and pair.got.updates == 0 for pair in wrong):
        return place
    if (shown := _only_shown(place, run, wrong, [pair for pair in compared if not pair.bad])) is not None:
        return shown
    gradient = next((pair for pair in wrong if pair.got.kind == "gradient"), None)
    if gradient is not None and run.case.precision != "bfloat16" and (words := _rounded(gradient)):
        return Located("narrow-gradient", (*words, *place.words))
    if place.place not in VAGUE:
        return place
    for pair in wrong:
        found = dict(parts_of_leaves(pair)) if pair.got.kind in BY_LEAF else {}
        if any(not name.endswith("_embeddings.weight") for name in found):
            return Located("elements", (*found.values(), *place.words))
    return place


def _only_shown(place: Located, run: Log, wrong: Sequence[Pair], right: Sequence[Pair]) -> Located | None:
    """The place, if all updates are right, and only a gradient, moments or learning rates that are shown are wrong."""
    kinds = {pair.got.kind for pair in wrong}
    fine = {(pair.got.kind, pair.got.updates) for pair in right}
    moved = {pair.got.updates for pair in right if pair.got.kind == "distance" and moves(pair)}
    if not moved or kinds & {"distance", "loss", "logits"}:
        return None
    if kinds == {"gradient"}:
        # Adam hides the factor of a leaf's gradient, and moments do not.
        after = [pair.got.updates + 1 for pair in wrong]
        hidden = any(_by_factors(pair) for pair in wrong)
        if all(("first moment", one) in fine or (one in moved and not hidden) for one in after):
            return Located("shown-gradient", place.words)
    if kinds <= {"first moment", "second moment"} and len(moved) > 1 and not _scaled(wrong):
        return Located("shown-moments", (*_corrected(run, wrong[0]), *place.words))
    if kinds == {"rate"}:
        return Located("shown-rate", place.words)
    return None


def _by_factors(pair: Pair) -> bool:
    """Whether each wrong leaf is a multiple of the right one."""
    return all(
        common_factor({name: pair.got.value[name]}, {name: pair.want.value[name]}, pair.limits) is not None
        for name in pair.bad
        if pair.want.value[name].size > 1
    )


def _scaled(wrong: Sequence[Pair]) -> bool:
    """Whether wrong moments are those of gradients times one factor in each leaf, which Adam hides in the update."""
    first, second = (
        next((one for one in wrong if one.got.kind == f"{kind} moment"), None) for kind in ("first", "second")
    )
    if first is None or second is None:
        return False
    for name in first.bad:
        one, two = (
            float((pair.got.value[name] * pair.want.value[name]).sum() / (pair.want.value[name] ** 2).sum())
            for pair in (first, second)
        )
        if not np.isclose(two, one**2, rtol=TIMES):
            return False
    return True


def _corrected(run: Log, pair: Pair) -> Iterator[str]:
    """Whether a moment is divided by its bias correction."""
    factor = common_factor(pair.got.value, pair.want.value, pair.limits)
    decay = run.case.b1 if pair.got.kind == "first moment" else run.case.b2
    if factor is not None and np.isclose(factor, 1 / (1 - decay**pair.got.updates), rtol=NEAR):
        yield f"the {pair.got.what} are divided by 1 - {decay:g}^{pair.got.updates}, the bias correction"


def _rounded(pair: Pair) -> tuple[str, ...]:
    """Sentences, if every number of a gradient is one of a narrow type; empty if not."""
    kind = next((kind for kind in NARROW if _all_of(pair.got.value, kind)), "")
    if not kind or not any(leaf.any() for leaf in pair.got.value.values()):
        return ()
    most = max(
        float((np.abs(pair.got.value[name] - leaf) / (np.abs(leaf) * ROUNDING[kind] + pair.limits[name].value)).max())
        for name, leaf in pair.want.value.items()
    )
    how = (
        "and within one rounding of the right one: the gradient is computed with more bits, and rounded once"
        if most <= 1 else f"and up to {most:.2g} roundings from the right one: it is also added up or computed so"
    )  # fmt: skip
    return (f"{pair.got.what}: every number is one of {kind}, {how}",)


def parts_of_leaves(pair: Pair) -> Iterator[tuple[str, str]]:
    """Pairs: a leaf of which a part is zero or wrong, and a sentence about that part."""
    zero: list[tuple[str, str]] = []
    some: list[tuple[str, str]] = []
    for name in pair.bad:
        got, want, limit = np.asarray(pair.got.value[name]), pair.want.value[name], pair.limits[name].value
        if want.ndim == 0 or not np.isfinite(got).all():
            continue
        still, gaps = (got == 0) & (want != 0), np.abs(got - want)
        wrong = gaps > limit
        # Few elements at rest in a leaf that is wrong as a whole are a chance.
        enough = still.sum() >= PART or np.linalg.norm(gaps[~still]) <= limit
        if enough and still.any() and got.any() and (np.abs(want[still]) > limit).any():
            part, is_so = still, "did not move" if pair.got.kind == "distance" else "zero"
        elif wrong.any() and not wrong.all() and np.linalg.norm(gaps[~wrong]) <= limit and _surely(wrong, gaps, limit):
            part, is_so = wrong, "wrong, and the others are right"
        else:
            continue
        at = tuple(int(i) for i in np.argwhere(part)[0])
        numbers = f"({list(at)} is {got[at]:.4g}, must be {want[at]:.4g})"
        verb = "" if is_so.startswith("did") else "is " if part.sum() == 1 else "are "
        words = f"{pair.got.what}: of {name}, {described(part).removesuffix(',')}, {verb}{is_so} {numbers}"
        (zero if part is still else some).append((name, words))
    # What is wrong in some leaves as a whole is no part of others.
    yield from [*zero, *(some if len(zero) + len(some) == len(pair.bad) else ())][:MOST_NAMED]


def _surely(part: npt.NDArray[np.bool_], gaps: Array, limit: float) -> bool:
    """Whether these elements are no chance: they are consecutive or a slice, or far off."""
    return (part.sum() >= PART and "first at" not in described(part)) or bool((gaps[part] >= FAR_OFF * limit).all())


def described(part: npt.NDArray[np.bool_]) -> str:
    """Which elements of an array [...] these are, in row-major order."""
    flat = np.flatnonzero(part)
    if len(flat) == 1:
        return f"one of {part.size} elements, {[int(i) for i in np.argwhere(part)[0]]},"
    first, last = ([int(i) for i in np.unravel_index(flat[k], part.shape)] for k in (0, -1))
    many = f"{len(flat)} of {part.size} elements"
    if flat[-1] - flat[0] + 1 == len(flat):
        where = "the last " if flat[-1] == part.size - 1 else "the first " if flat[0] == 0 else ""
        return f"{where}{many.replace('elements', 'elements from')} {first} to {last}"
    for axis in range(part.ndim):
        others = tuple(one for one in range(part.ndim) if one != axis)
        if np.array_equal(part, np.broadcast_to(part.any(axis=others, keepdims=True), part.shape)):
            these = np.flatnonzero(part.any(axis=others)).tolist()
            more = " and others" if len(these) > MOST_LISTED else ""
            return f"{many}, those with index {', '.join(map(str, these[:MOST_LISTED]))}{more} of axis {axis},"
    return f"{many}, the first at {first},"


def counts_of_devices(trainer: Any, run: Log, until: Until) -> str:
    """On which numbers of devices a run is right, and on which it is wrong: it is right on one, and wrong on all."""
    parts = run.case.accumulate
    rows = {len(call.batch.weights) for call in run.calls if call.batch is not None}
    right, wrong = [1], [run.n]
    for n in sorted({run.n // 2, ODD}):
        fits = "padding rows" in trainer.capabilities or not any(count % (n * parts) for count in rows)
        if 1 < n < run.n and fits and not until.over and (margin := margin_of(trainer, changed(run, n=n))) is not None:
            (wrong if margin > 1 else right).append(n)
    well = "one device" if right == [1] else f"{', '.join(map(str, sorted(right)))} devices"
    return f"right on {well}, wrong on {', '.join(map(str, sorted(wrong)))}"


def left_over(run: Log) -> str:
    """Whether the number of parameters divides among the devices."""
    size = sum(leaf.size for leaf in run.params.values())
    return f"the model has {size} parameters, which leave {size % run.n} over if divided among {run.n} devices"


def differing_replicas(trainer: Any, run: Log) -> str:
    """Which devices have the same parameters after two updates, in words; empty if the trainer shows no replicas."""
    batches = [call.batch for call in run.calls if call.method == "step"]
    if "replicas" not in trainer.capabilities or run.n == 1 or not batches:
        return ""
    after = attempted(trainer, run, [("step", batches[0]), ("step", batches[-1]), ("replicas", None)])
    if after is None:
        return ""
    alike: dict[bytes, list[int]] = {}
    for device, leaves in enumerate(after.calls[-1].result):
        alike.setdefault(b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in leaves.values()), []).append(device)
    if len(alike) == 1:
        return "all devices have the same parameters after two updates"
    if len(alike) == run.n:
        return "after two updates the devices have different parameters: every device has its own"
    groups = "; ".join(f"devices {', '.join(map(str, some))}" for some in alike.values())
    return f"after two updates the devices have different parameters; the same have: {groups}"


def late(trainer: Any, log: Log) -> Log | None:
    """A run of many updates, observed up to its first wrong one, and with everything around it; None if none is wrong.

    The oracle continues from the trainer's parameters, so each update is compared by itself.
    """
    batches = [call.batch for call in log.calls if call.method == "step"]
    able = [name for name in ("gradients", "moments") if name in trainer.capabilities]
    calls: Calls = []
    for batch in batches:
        calls += [("step", batch), ("params", None), *((name, None) for name in able if name == "moments")]
    run = attempted(trainer, log, calls)
    wrong = [] if run is None else [pair.got for pair in pairs(run) if pair.bad]
    if not wrong:
        return None
    first = min(one.updates - (one.kind in ("distance", "first moment", "second moment")) for one in wrong)
    calls = []
    for number, batch in enumerate(batches[: first + 3]):
        near = number >= first - 1
        calls += [("gradients", batch)] if near and "gradients" in able else []
        calls += [("step", batch), ("params", None)]
        calls += [("moments", None)] if near and "moments" in able else []
        calls += [("evaluate", batch)] if near else []
    return attempted(trainer, log, calls)


def _by_update(compared: Sequence[Pair]) -> dict[int, bool]:
    """Number of each update -> whether its results are right.

    If only what updates change is wrong, an update is right only if it changed something: not at a learning rate of 0.
    """
    changes = ("distance", "first moment", "second moment")
    only = all(pair.got.kind in changes for pair in compared if pair.bad)
    each: dict[int, bool] = {}
    for pair in compared:
        after = pair.got.kind in changes
        moved = pair.bad or any(leaf.any() for leaf in pair.want.value.values())
        if (pair.got.since <= 1 and moved) if after else (pair.got.kind != "logits" and not only):
            number = pair.got.updates - after
            each[number] = each.get(number, True) and not pair.bad
    return each


def first_wrong(compared: Sequence[Pair]) -> int:
    """The number of the first wrong update; 0 if there is none."""
    return min((number for number, right in _by_update(compared).items() if not right), default=0)


def course(compared: Sequence[Pair]) -> Iterator[str]:
    """In which updates a run is wrong, if the first of them are right."""
    each = _by_update(compared)
    wrong = [number for number, is_right in each.items() if not is_right]
    if not wrong or wrong[0] == min(each):
        return
    again = [number for number in each if number > wrong[0] and each[number]]
    before = f"update {min(each)}" if wrong[0] == min(each) + 1 else f"updates {min(each)} to {wrong[0] - 1}"
    if again:
        these = f"in update {', '.join(map(str, wrong[:MOST_LISTED]))}"
        these += f", and right again in {', '.join(map(str, again[:MOST_LISTED]))}"
    else:
        these = f"from update {wrong[0]} on" if len(wrong) > 1 else f"in update {wrong[0]}, the last that was observed"
    yield f"right in {before}, wrong {these}"
