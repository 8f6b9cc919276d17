"""faults/catalogue.toml -> the seeded faults; faults/equivalent.toml -> the equivalent changes, which no law sees."""

import functools
from dataclasses import dataclass

from .kit import KIT
from .law import by_id, read

LAYERS = (
    "copy", "collective", "operator", "precision", "autodiff", "random numbers", "optimizer", "data", "training loop",
    "evaluation", "checkpoint", "process", "performance", "environment",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An entry of `catalogue.toml`, or of `equivalent.toml`."""

    id: str  # a stable name
    does: str  # what is wrong, in a few words
    module: str  # the module of `faults` that seeds it
    layer: str = ""  # which of `LAYERS` is faulty; "" for an equivalent change
    looks_like: str = ""  # what a user with this fault notices
    seen_by: tuple[str, ...] = ()  # the ids of the laws that must see it; others may see it too
    level: str = "quick"  # the lowest level at which these laws can see it; some sizes run only from `standard` on
    devices: int = 1  # the least number of devices on which it has an effect
    multiple_of: int = 1  # the number of devices must be a multiple of this
    sample: bool = False  # whether every run seeds it; others are seeded at level `full` only
    links: tuple[str, ...] = ()  # threads of people who had this fault


@functools.cache
def faults() -> dict[str, Fault]:
    """The seeded faults, by id; a ValueError names a wrong entry, or an id that occurs twice."""
    return by_id((fault.id, fault) for fault in read(KIT / "faults" / "catalogue.toml", Fault))


@functools.cache
def changes() -> dict[str, Fault]:
    """The equivalent changes, by id; raises as `faults` does."""
    return by_id((change.id, change) for change in read(KIT / "faults" / "equivalent.toml", Fault))


def seen_by(law: str) -> list[Fault]:
    """The seeded faults that a law must see."""
    return [fault for fault in faults().values() if law in fault.seen_by]
