"""catalogue.toml, equivalent.toml -> the faults that the kit seeds, and changes that no law may see."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass

from .kit import KIT

LAYERS = (
    "copy", "collective", "operator", "precision", "autodiff", "random numbers", "optimizer", "data", "training loop",
    "checkpoint", "process", "performance", "environment",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One wrong thing, as `catalogue.toml` states it.

    Attributes:
        id: stable.
        layer: one of `LAYERS`, at fault.
        does: what is wrong, in a few words.
        looks_like: what whoever has it notices, if anything.
        seen_by: the ids of the laws that must see it; others may see it too.
        module: the module of this package that seeds it.
        level: the lowest at which those laws can see it: some sizes are asked from `standard` on.
        devices: the least number on which it shows: a message of the eighth device needs eight.
        multiple_of: what must divide their number: five devices have no groups of every second one.
        sample: whether it is seeded in every run; the others are at `full`.
        links: threads of people who had it.
    """

    id: str
    does: str
    module: str
    layer: str = ""
    looks_like: str = ""
    seen_by: tuple[str, ...] = ()
    level: str = "quick"
    devices: int = 1
    multiple_of: int = 1
    sample: bool = False
    links: tuple[str, ...] = ()


@functools.cache
def faults() -> dict[str, Fault]:
    """All of them, by id.

    Raises:
        TypeError: an entry has a field too many or too few.
        ValueError: an id stands twice.
    """
    return _read("catalogue.toml", "fault")


@functools.cache
def changes() -> dict[str, Fault]:
    """The equivalent changes of `equivalent.toml`, which no law may see; they have no layer.

    Raises:
        TypeError: an entry has a field too many or too few.
        ValueError: an id stands twice.
    """
    return _read("equivalent.toml", "change")


def _read(name: str, kind: str) -> dict[str, Fault]:
    entries = tomllib.loads((KIT / "faults" / name).read_text(encoding="utf-8"))[kind]
    by_id: dict[str, Fault] = {}
    for entry in entries:
        lists = {key: tuple(entry.get(key, ())) for key in ("seen_by", "links")}
        fault = Fault(**entry | lists)
        if fault.id in by_id:
            raise ValueError(f"faults/{name}: the id {fault.id} occurs twice")
        by_id[fault.id] = fault
    return by_id


def seen_by(law: str) -> list[Fault]:
    """The seeded faults that a law must see."""
    return [fault for fault in faults().values() if law in fault.seen_by]
