"""Variants of a restart: what a checkpoint lacks, or has in another form. The state is that of `ShardedTrainer`."""

from typing import Any

from ..sharded import ShardedTrainer, rounded
from ..tape import Params
from .table import Wrong, wrong

STATE = {
    "Adam's moments": ("first", "second"), "Adam's first moments": ("first",), "Adam's second moments": ("second",),
    "the number of the update": ("t",), "Adam's moments and the number of the update": ("first", "second", "t"),
    "the parameters": ("now",),
}  # fmt: skip


@wrong("not-restored", "restored")
def _not_restored(right: Wrong, _: ShardedTrainer, state: dict[str, Any], *, value: str) -> None:
    right({name: leaf for name, leaf in state.items() if name not in STATE[value]})


@wrong("restored-with-another-number", "restored")
def _shifted(right: Wrong, _: ShardedTrainer, state: dict[str, Any], *, value: int) -> None:
    right(state | {"t": max(state["t"] + value, 0)})


@wrong("restored-moments-exchanged", "restored")
def _exchanged(right: Wrong, _: ShardedTrainer, state: dict[str, Any]) -> None:
    right(state | {"first": state["second"], "second": state["first"]})


@wrong("saved-in", "restored")
def _narrow(right: Wrong, _: ShardedTrainer, state: dict[str, Any], *, value: str) -> None:
    what, kind = value.split(" in ")
    names = ("now",) if what == "parameters" else ("first", "second")
    right(state | {name: {k: rounded(leaf, kind) for k, leaf in state[name].items()} for name in names})


# A save before the last update.


@wrong("saved-before-the-update", "update")
def _keep(right: Wrong, self: ShardedTrainer, gradients: Params, rate: float, **__: Any) -> None:
    # The number of the update has been advanced.
    self.notes["before"] = {"now": self.now, "first": self.first, "second": self.second, "t": self.t - 1}
    right(gradients, rate)


@wrong("saved-before-the-update", "restored")
def _saved_before(right: Wrong, _: ShardedTrainer, state: dict[str, Any], *, value: str) -> None:
    before = state["notes"].get("before", {})
    right(state | ({k: leaf for k, leaf in before.items() if k == "now"} if value == "The parameters" else before))


# What counts from the restart on.


@wrong("counts-from-the-restart", "restored")
def _mark(right: Wrong, self: ShardedTrainer, state: dict[str, Any], **_: Any) -> None:
    right(state)
    self.notes["restarted"] = self.t


def _since(self: ShardedTrainer, step: int) -> int:
    return step - int(self.notes.get("restarted", 0))


@wrong("counts-from-the-restart", "rate")
def _rate(right: Wrong, self: ShardedTrainer, *, value: str) -> float:
    t, self.t = self.t, _since(self, self.t) if value == "The schedule" else self.t
    rate: float = right()
    self.t = t
    return rate


@wrong("counts-from-the-restart", "corrections")
def _corrections(right: Wrong, self: ShardedTrainer, *, value: str) -> tuple[float, float]:
    t, self.t = self.t, _since(self, self.t) if value == "Adam's bias correction" else self.t
    both: tuple[float, float] = right()
    self.t = t
    return both


@wrong("counts-from-the-restart", "masks")
def _masks(right: Wrong, self: ShardedTrainer, step: int, *, value: str) -> Any:
    return right(_since(self, step) if value == "Dropout" else step)
