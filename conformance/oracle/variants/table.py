"""variants.toml -> the variants of the oracle, each a trainer that differs from it in one thing; several combine."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...adapter import Case, HostBatch
from ...core.law import by_id, read
from ..draws import rows_of
from ..sharded import ShardedTrainer

# (right method, trainer, *arguments) -> the wrong result; the right method is bound.
Wrong = Callable[..., Any]
# Id of an entry -> method of `ShardedTrainer` -> what replaces it.
WRONG: dict[str, dict[str, Wrong]] = {}
# Scope of a variant, which ends its id after AT -> the sentence that its cause begins or ends with.
AT = "@"
PHASES = {"training": "In training only: ", "evaluation": "In evaluation only: "}
APART = (
    "Compare what the training step and the evaluation give to the network, and which network they call: arguments, "
    "mode, precision and configuration. The phase that is named is the wrong one."
)
BLOCKS = {"blocks": "", "blocks-of-shards": " on each device"}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The oracle with one difference."""

    id: str  # the entry's id, with the value in brackets if it has several
    entry: str
    group: str
    layer: str
    cause: str
    next_step: str
    needs: str = ""
    field: str = ""
    value: Any = None
    scope: str = ""  # a phase: the difference is in this phase only; or how rows are dealt to micro-batches

    def differs(self, case: Case, n: int, restarts: bool = True) -> bool:
        """Whether a run of the case on n devices, which restarts or not, can differ from the oracle's."""
        here = {
            "": True, "devices": n > 1, "dropout": case.dropout, "micro-batches": case.accumulate > 1,
            "classes": not case.regression, "regression": case.regression, "restart": restarts,
        }  # fmt: skip
        return here[self.needs] and (not self.field or getattr(case, self.field) != self.value)

    def methods(self) -> dict[str, Wrong]:
        """Method of `ShardedTrainer` -> what replaces it."""
        own: dict[str, Wrong]
        if self.field and self.scope:
            own = {"network": functools.partial(_network_with, constants={self.field: self.value})}
        elif self.field:
            own = {"start": functools.partial(_with_constants, constants={self.field: self.value})}
        else:
            own = {
                name: wrong if self.value is None else functools.partial(wrong, value=self.value)
                for name, wrong in WRONG[self.entry].items()
            }
        if self.scope in PHASES:
            own = {name: functools.partial(_in_phase, wrong, self.scope) for name, wrong in own.items()}
            return own | {"evaluate": noting("evaluating")}
        return own | {"micro_batches": functools.partial(_dealt, self.scope)} if self.scope else own


@dataclass(frozen=True, kw_only=True)
class Group:
    """A table of variants.toml."""

    id: str
    layer: str
    next_step: str
    variants: dict[str, Any] = field(default_factory=dict)

    def all(self) -> Iterator[Variant]:
        """Its variants, one for each value of an entry."""
        for name, entry in self.variants.items():
            values = [None] if isinstance(entry, str) else entry.get("values", [None])
            yield from (self.of(name, value) for value in values)

    def of(self, name: str, value: Any) -> Variant:
        """The variant of an entry with a value, listed or not; None for an entry without values."""
        entry = self.variants[name]
        more = {"cause": entry} if isinstance(entry, str) else dict(entry)
        cause, _ = more.pop("cause"), more.pop("values", None)
        text = f"{value:g}" if isinstance(value, float) else f"{value:+d}" if isinstance(value, int) else value
        return Variant(
            id=name if value is None else f"{name}({text})", entry=name, group=self.id, value=value,
            cause=cause.format(value=text), **{"layer": self.layer, "next_step": self.next_step} | more,
        )  # fmt: skip


def wrong(entry: str, method: str) -> Callable[[Wrong], Wrong]:
    """Make the decorated function replace a method in the variants of an entry."""

    def add(function: Wrong) -> Wrong:
        WRONG.setdefault(entry, {})[method] = function
        return function

    return add


def noting(what: str) -> Wrong:
    """The right method, during which `notes` of the trainer say `what`."""

    def noted(right: Wrong, self: ShardedTrainer, *arguments: Any, **_: Any) -> Any:
        self.notes[what] = True
        result = right(*arguments)
        self.notes[what] = False
        return result

    return noted


@functools.cache
def variants() -> dict[str, Variant]:
    """All variants by id; raises as `core.law.read` does."""
    return by_id((variant.id, variant) for group in groups().values() for variant in group.all())


@functools.cache
def all_variants() -> dict[str, Variant]:
    """All variants, and those of the network in one phase only, and those of micro-batches of consecutive rows."""
    more = [
        scoped(one, scope)
        for one in variants().values()
        for scope in (PHASES if one.group == "forward" else BLOCKS if one.needs == "micro-batches" else ())
    ]
    return variants() | {one.id: one for one in more}


def scoped(variant: Variant, scope: str) -> Variant:
    """The variant in one phase only, or with another way to deal rows to micro-batches."""
    if not scope:
        return variant
    where = f" (Micro-batches are blocks of consecutive rows{BLOCKS[scope]}.)" if scope in BLOCKS else ""
    cause = f"{PHASES.get(scope, '')}{variant.cause}{where}"
    one = dataclasses.replace(variant, id=f"{variant.id}{AT}{scope}", cause=cause, scope=scope)
    layers = {"training": "training loop", "evaluation": "evaluation"}
    return dataclasses.replace(one, layer=layers[scope], next_step=APART) if scope in PHASES else one


@functools.cache
def groups() -> dict[str, Group]:
    """The tables of variants.toml, by id."""
    return by_id((group.id, group) for group in read(Path(__file__).with_name("variants.toml"), Group))


def with_value(variant: Variant, value: float) -> Variant:
    """The variant of the same entry and scope with another value."""
    return scoped(groups()[variant.group].of(variant.entry, value), variant.scope)


def named(name: str) -> Variant | None:
    """The variant of an id, which may have a number in brackets that is not listed; None if there is none."""
    if name in all_variants():
        return all_variants()[name]
    entry, _, rest = name.partition("(")
    number, _, scope = rest.partition(AT)
    like = next((one for one in variants().values() if one.entry == entry and isinstance(one.value, float)), None)
    try:
        return scoped(with_value(like, float(number.removesuffix(")"))), scope) if like else None
    except ValueError:
        return None


def trainer_of(several: Sequence[Variant]) -> ShardedTrainer:
    """The oracle on n devices with all differences of several variants."""
    kind: type[ShardedTrainer] = ShardedTrainer
    for variant in several:
        methods = {name: _method(kind, name, function) for name, function in variant.methods().items()}
        kind = type(variant.id, (kind,), methods)
    return kind()


def _method(kind: type[ShardedTrainer], name: str, function: Wrong) -> Wrong:
    right = getattr(kind, name)
    return lambda self, *arguments: function(functools.partial(right, self), self, *arguments)


def _with_constants(right: Wrong, _: ShardedTrainer, case: Case, *rest: Any, constants: dict[str, Any]) -> None:
    right(dataclasses.replace(case, **constants), *rest)


def _network_with(right: Wrong, self: ShardedTrainer, *arguments: Any, constants: dict[str, Any]) -> Any:
    case, self.case = self.case, dataclasses.replace(self.case, **constants)
    network = right(*arguments)
    self.case = case
    return network


# Scopes.


def _in_phase(wrong: Wrong, phase: str, right: Wrong, self: ShardedTrainer, *arguments: Any) -> Any:
    now = "evaluation" if self.notes.get("evaluating") else "training"
    return wrong(right, self, *arguments) if now == phase else right(*arguments)


def _dealt(scope: str, _: Wrong, self: ShardedTrainer, batch: HostBatch) -> list[list[HostBatch]]:
    """For each micro-batch, a block of rows of the batch or of each shard, the part of each device."""
    whole = [batch] if scope == "blocks" else self.shards(batch)
    dealt: list[list[HostBatch]] = []
    for k in range(self.case.accumulate):
        parts = [rows_of(one, block(len(one.weights), self.case.accumulate, k)) for one in whole]
        dealt.append([shard for part in parts for shard in self.shards(part)] if scope == "blocks" else parts)
    return [parts for parts in dealt if parts]


def block(rows: int, many: int, k: int) -> npt.NDArray[np.integer]:
    """The rows of the k-th of `many` blocks of consecutive rows."""
    share = -(-rows // many)
    return np.arange(rows)[k * share : (k + 1) * share]
