"""faults/catalogue.toml, faults/equivalent.toml -> the seeded faults, and the changes that no law may see."""

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
    """An entry of `catalogue.toml`, or of `equivalent.toml`."""

    id: str  # stable
    does: str  # what is wrong, in a few words
    module: str  # the module of `faults` that seeds it
    layer: str = ""  # the faulty one of `LAYERS`; "" for an equivalent change
    looks_like: str = ""  # what a user who has it notices
    seen_by: tuple[str, ...] = ()  # the ids of the laws that must see it; others may see it too
    level: str = "quick"  # the lowest level at which these laws can see it, since some sizes run from `standard` on
    devices: int = 1  # the least number of devices on which it shows
    multiple_of: int = 1  # a divisor that their number must have
    sample: bool = False  # whether every run seeds it; others are seeded at level `full` only
    links: tuple[str, ...] = ()  # threads of people who had it


@functools.cache
def faults() -> dict[str, Fault]:
    """The seeded faults, by id.

    Raises:
        TypeError: an entry lacks a field, or has an unknown one.
        ValueError: an id occurs twice.
    """
    return _read("catalogue.toml", "fault")


@functools.cache
def changes() -> dict[str, Fault]:
    """The equivalent changes, by id; raises as `faults` does."""
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
