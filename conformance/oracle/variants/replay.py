"""A trainer's calls and results -> those of a variant of the oracle for the same calls, and how far they are apart.

Each comparison has the bound that a check has: the noise of the variant itself under the roundings of its parameters
(`bounds_measured.py`), times its factor. Wherever the trainer's parameters are known, a replay continues from them, so
that roundings of earlier updates do not add up.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...adapter import Arrays, Case, HostBatch
from ...core.comparison import Bound, distance
from .. import bounds_measured as measured
from ..bounds_derived import UNIT
from ..model import example_losses
from ..sharded import ShardedTrainer
from ..tape import Array, Params, Rounding, Tape, unrounded
from .table import Variant, trainer_of

# Calls whose results are compared; save and restore are replayed, others are left out.
COMPARED = ("step", "params", "gradients", "moments", "evaluate")
SEPARATOR = "|"
# The most rows, leaves or groups that a sentence names.
MOST_NAMED = 3
# Kind of a result -> what it is, with the number of updates.
WORDS = {
    "loss": "loss of update {}", "rate": "learning rate of update {}", "gradient": "gradient of update {}",
    "logits": "logits after {} updates", "distance": "parameters after {} updates",
    "first moment": "first moments after {} updates", "second moment": "second moments after {} updates",
    "restored": "parameters that a restart restores after {} updates",
}  # fmt: skip


class Call(NamedTuple):
    """A call of a trainer: the method, its batch if any, and copies of what it returned."""

    method: str
    batch: HostBatch | None = None
    result: Any = None


@dataclass
class Log:
    """The calls of a run since its start."""

    case: Case
    params: Params
    n: int
    calls: list[Call] = field(default_factory=list)

    def points(self) -> dict[int, Params]:
        """Index of a call -> the trainer's parameters from there on; -1 is the start."""
        return {-1: self.params} | {i: call.result for i, call in enumerate(self.calls) if call.method == "params"}

    def joint(self) -> Params:
        """All these parameters in one dict."""
        points = self.points().items()
        return {f"{i}{SEPARATOR}{name}": leaf for i, params in points for name, leaf in params.items()}


class Seen(NamedTuple):
    """Something that a trainer returned, by leaf."""

    kind: str  # one of `WORDS`
    updates: int  # the number of updates before it
    value: Params
    start: Params  # the parameters of the trainer before it
    since: int = 0  # how many updates a distance is that of

    @property
    def what(self) -> str:
        """In words, for a report."""
        return WORDS[self.kind].format(self.updates)


class Gap(NamedTuple):
    """How far a replay is from the trainer: at the first thing that is out of its bound, or at the last one."""

    passed: int  # how many things are within their bounds
    margin: float  # error over bound of the next one; of the largest one, if all are within
    what: str  # what that is
    whole: bool  # whether all are within their bounds


def seen(log: Log) -> list[Seen]:
    """What the trainer returned, in order."""
    return list(_things(log, log.points(), lambda call: call.result))


def _things(log: Log, points: dict[int, Params], result: Callable[[Call], Any]) -> Iterator[Seen]:
    """What a trainer returned, whose parameters at some calls are `points`."""
    since, updates, start, fresh = 0, 0, points[-1], False
    zero = measured.zero_gradients(log.case)
    for i, call in enumerate(log.calls):
        got = result(call)
        if call.method == "step":
            yield Seen("loss", updates, {"loss": np.array(got.loss, float)}, start)
            yield Seen("rate", updates, {"rate": np.array(got.learning_rate, float)}, start)
            since, updates = since + 1, updates + 1
        elif call.method == "params":
            if since:
                moved = {name: leaf - start[name] for name, leaf in got.items() if name not in zero}
                yield Seen("distance", updates, moved, start, since)
            elif fresh:
                yield Seen("restored", updates, {name: leaf for name, leaf in got.items() if name not in zero}, start)
            since, start, fresh = 0, points[i], False
        elif call.method == "restore":
            fresh = True
        elif call.method == "gradients":
            yield Seen("gradient", updates, got, start)
        elif call.method == "moments":
            yield Seen("first moment", updates, got[0], start)
            yield Seen("second moment", updates, got[1], start)
        elif call.method == "evaluate" and call.batch is not None:
            yield Seen("logits", updates, {"logits": got[call.batch.weights > 0]}, start)


def replay(several: Sequence[Variant], log: Log, points: dict[int, Params], rounding: Rounding) -> Iterator[Seen]:
    """What the oracle with these variants returns for the same calls."""
    trainer = trainer_of(several)
    # Sums over devices are exact, so one device gives the same; but rows are dealt to micro-batches by device.
    alone = log.case.accumulate == 1 and not any(
        variant.needs == "devices" or "shard" in variant.entry for variant in several
    )
    if rounding is not unrounded:
        trainer.losses = _rounded(trainer.losses, trainer, rounding)  # type: ignore[method-assign]
        trainer.tape = _rounded_tape(trainer.tape, rounding)  # type: ignore[assignment, method-assign]
    trainer.start(log.case, points[-1], 1 if alone else log.n)
    saved: list[dict[str, Any]] = []
    ends: dict[int, int] = {id(call): i for i, call in enumerate(log.calls)}

    def result(call: Call) -> Any:
        if call.method == "params":
            got = trainer.params()
            trainer.now = points[ends[id(call)]]
            return got
        if call.method == "save":
            saved.append(vars(trainer) | {"notes": dict(trainer.notes)})
        elif call.method == "start":
            trainer.start(log.case, call.result or log.params, trainer.n)  # before a restore
        elif call.method == "restore":
            trainer.restored(saved[-1])
        elif call.method in COMPARED:
            return getattr(trainer, call.method)(*(() if call.batch is None else (call.batch,)))
        return call.result

    yield from _things(log, points, result)


def _rounded(right: Callable[..., Any], trainer: ShardedTrainer, rounding: Rounding) -> Callable[..., Any]:
    """The losses, whose derivative errs by the rounding of the probabilities."""

    def losses(logits: Array, batch: HostBatch) -> tuple[Array, Array]:
        values, slopes = right(logits, batch)
        exact = example_losses(trainer.case, logits, batch.labels)[1]
        return values, slopes + example_losses(trainer.case, logits, batch.labels, rounding)[1] - exact

    return losses


def _rounded_tape(right: Callable[[Arrays], Tape], rounding: Rounding) -> Callable[[Arrays], Tape]:
    """The operators, of which erf and tanh are rounded."""

    def tape(params: Arrays) -> Tape:
        made = right(params)
        made.rounding = rounding
        return made

    return tape


def bounds(several: Sequence[Variant], log: Log) -> list[tuple[Seen, dict[str, Bound]]]:
    """What these variants return, with the bound of each leaf."""
    runs: list[list[Seen]] = []

    def run(joint: Params, rounding: Rounding) -> Params:
        points: dict[int, Params] = {}
        for key, leaf in joint.items():
            place, _, name = key.partition(SEPARATOR)
            points.setdefault(int(place), {})[name] = leaf
        runs.append(list(replay(several, log, points, rounding)))
        return {}

    joint = log.joint()
    measured.reference(log.case, joint, run)
    return [(one, _bounds(log.case, [made[i] for made in runs])) for i, one in enumerate(runs[0])]


def _bounds(case: Case, draws: list[Seen]) -> dict[str, Bound]:
    """The bounds of one thing, from an exact replay and from those under roundings."""
    right, again = draws[0], iter(draws)
    if right.kind == "rate":
        u = 4 * UNIT["float32"] * case.learning_rate
        return {"rate": Bound(u, u / 4, "four roundings of the largest rate")}
    reference = measured.reference(case, right.start, lambda *_: next(again).value)
    if right.kind == "distance":
        reference = measured.stored(case, right.start, reference, right.since)
    return reference.bounds


def gap(mine: list[Seen], theirs: Iterator[Seen], limits: list[dict[str, Bound]]) -> Gap:
    """How far a trainer's results are from those of a replay, which ends at the first one that is out of its bound."""
    most, where = 0.0, ""
    for i, (one, other, limit) in enumerate(zip(mine, theirs, limits, strict=True)):
        margin = max(_margin(one.value[name], leaf, limit[name].value) for name, leaf in other.value.items())
        if margin > 1:
            return Gap(i, margin, one.what, whole=False)
        if margin >= most:
            most, where = margin, one.what
    return Gap(len(mine), most, where, whole=True)


def _margin(got: Array, want: Array, bound: float) -> float:
    error = distance(np.asarray(got, np.float64), np.asarray(want, np.float64), 1.0)
    return 0.0 if error == 0 else error / bound if bound > 0 else np.inf


def joined(leaves: Params, names: Sequence[str], limits: dict[str, Bound]) -> Array:
    """These leaves in one vector, each in units of its bound."""
    return np.concatenate([np.ravel(leaves[name]) / max(limits[name].value, np.finfo(float).tiny) for name in names])


def named(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
