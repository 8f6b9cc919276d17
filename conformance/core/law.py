"""laws/*/test_*.toml -> the laws, the ladder that they stand on, and the ids that a run must answer for."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from .kit import KIT

LEVELS = ("quick", "standard", "full")
RUNGS = (
    "environment",
    "copies",
    "collectives",
    "operators",
    "autodiff",
    "random numbers",
    "step",
    "equivalence",
    "training",
    "processes",
    "performance",
)
# A rung that fails blocks those that compute with it: nothing can be said of a step whose operators are wrong.
NEEDS: tuple[frozenset[int], ...] = tuple(
    frozenset(needs)
    for needs in ((), (0,), (0, 1), (0, 1), (0, 1, 3), (0, 1), (0, 1, 3, 4, 5), range(7), range(8), range(8), range(8))
)


@dataclass(frozen=True, kw_only=True)
class Law:
    """One requirement of the kit, as its TOML file states it.

    Attributes:
        id: stable; known deviations name it.
        rung: of the ladder, 0 to 10.
        requirement: a sentence with MUST.
        catches: what kinds of fault break it, in a few words each.
        cause: what is most likely wrong where it is broken.
        next_step: what to do then.
        per: `machine`, or `subject`: asked of each trainer.
        level: the lowest level that asks it.
        deadline: seconds after which it counts as hung.
    """

    id: str
    rung: int
    requirement: str
    catches: tuple[str, ...]
    cause: str
    next_step: str
    per: str = "machine"
    level: str = "quick"
    deadline: float = 180.0

    @property
    def rung_name(self) -> str:
        """The rung in words."""
        return RUNGS[self.rung]

    def asked(self, level: str, processes: int | None) -> bool:
        """Whether a run at `level` asks it; those of processes at any level, where these are asked for."""
        mine = LEVELS[0] if processes is not None and self.rung_name == "processes" else self.level
        return LEVELS.index(mine) <= LEVELS.index(level)


@cache
def laws() -> dict[str, Law]:
    """All laws by id, from the lowest rung up.

    Raises:
        TypeError: an entry of its TOML file has a field too many or too few.
        ValueError: an id is used twice.
    """
    by_id: dict[str, Law] = {}
    for path in sorted((KIT / "laws").glob("*/test_*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["law"]:
            law = Law(**{**entry, "catches": tuple(entry.get("catches", ()))})
            if law.id in by_id:
                raise ValueError(f"{path.relative_to(KIT)}: the id {law.id} is used twice")
            by_id[law.id] = law
    return dict(sorted(by_id.items(), key=lambda item: item[1].rung))


def check_id(law: str, subject: str | None) -> str:
    """The id of a check: the law's, with the subject it was asked of."""
    return law if subject is None else f"{law}[{subject}]"


def selects(only: Sequence[str], check: str) -> bool:
    """Whether `--only` asks for a check: no choice means all; an id, a law, a rung's number or the start of an id."""
    law = check.partition("[")[0]
    return not only or any(
        check == word or law == word or law.startswith(f"{word}.") or word == str(laws()[law].rung) for word in only
    )


def expected(
    level: str, subjects: Iterable[str], only: Sequence[str] = (), *, processes: int | None = None
) -> list[str]:
    """The ids that a run at `level` must answer for, rung by rung, and within a rung subject by subject."""
    names = list(subjects)
    asked = [law for law in laws().values() if law.asked(level, processes)]
    ids: list[str] = []
    for rung in range(len(RUNGS)):
        here = [law for law in asked if law.rung == rung]
        ids += [law.id for law in here if law.per == "machine"]
        ids += [check_id(law.id, name) for name in names for law in here if law.per == "subject"]
    return [check for check in ids if selects(only, check)]


def blocked_by(failed: Iterable[tuple[int, str | None]], law: Law, subject: str | None) -> str | None:
    """The lowest of the `failed` rungs, each with its subject or None, that a law stands on, in words; or None."""
    for rung, whose in sorted(failed, key=lambda key: key[0]):
        if rung in NEEDS[law.rung] and whose in (None, subject):
            return f"rung {rung} ({RUNGS[rung]}{f' of {whose}' if whose else ''})"
    return None


def split_id(check: str) -> tuple[Law, str | None]:
    """A check's id -> its law and its subject: the inverse of `check_id`."""
    law, _, subject = check.partition("[")
    return laws()[law], subject.removesuffix("]") or None
