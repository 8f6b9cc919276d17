"""laws/rungs.toml and laws/*/test_*.toml -> the ladder, its laws, and the ids of the checks of a run.

Everything that is known about a law, apart from its code, is a field of its entry.
"""

import enum
import inspect
import tomllib
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from .kit import KIT

LEVELS = ("quick", "standard", "full")
UPPER = "the upper rungs"
Entry = TypeVar("Entry")


class NotRunReason(enum.StrEnum):
    """Why a check did not run. For the first two reasons, the run still counts as complete."""

    UNCLAIMED = "the trainer does not claim a capability"
    NOT_APPLICABLE = "the law does not apply to this machine or trainer"
    LACKING = "this machine lacks something that the law needs, such as a second device"
    UNREACHED = "the run ended before the check began"


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One rung of the ladder, as `laws/rungs.toml` states it."""

    name: str  # one or two words
    needs: tuple[int, ...]  # numbers of the rungs on which this one depends: if one fails, this rung is blocked
    process: str = UPPER  # name of the child process that runs the machine's laws of this rung
    phases: tuple[str, ...] = ()  # phases of JAX's start that fail for the same reasons as this rung


@dataclass(frozen=True, kw_only=True)
class Law:
    """One requirement of the kit, as its TOML entry states it."""

    id: str  # a stable name, which lists of known deviations use
    rung: int  # number of its rung, 0 to 10
    requirement: str  # a sentence with MUST
    catches: tuple[str, ...]  # what kinds of fault break it, in a few words each
    cause: str  # the most likely cause of a failure
    next_step: str  # what to do about it
    per: str = "machine"  # `machine`, or `subject` for a law that runs once for each trainer under test
    level: str = "quick"  # the lowest level that runs it
    deadline: float = 180.0  # seconds after which its check counts as hung
    # Whether its failure means that nothing else can be verified here; the verdict is then SETUP.
    setup: bool = False
    # Whether its failure blocks the rungs that need its rung. Versions that do not match do not: kernels may run.
    blocks: bool = True
    # The highest level at which the programs of a trainer are compiled without XLA's optimizations on simulated
    # devices, because the requirement does not depend on them.
    unoptimized_up_to: str = "quick"

    def __post_init__(self) -> None:
        """Raise a ValueError for an unknown kind of check, level or rung."""
        known = {"per": ("machine", "subject"), "level": LEVELS, "unoptimized_up_to": LEVELS}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"law {self.id}: {name} = {getattr(self, name)!r}, must be one of {', '.join(values)}")
        if not 0 <= self.rung < len(RUNGS):
            raise ValueError(f"law {self.id}: rung = {self.rung}, must be 0 to {len(RUNGS) - 1}")

    @property
    def rung_name(self) -> str:
        """The name of its rung."""
        return RUNGS[self.rung]

    @property
    def stream(self) -> int:
        """A number that selects its stream of random values: the CRC-32 of its id."""
        return zlib.crc32(self.id.encode())

    def runs_at(self, level: str, processes: int | None) -> bool:
        """Whether a run at `level` includes this law; with `--processes`, any level includes the rung of processes."""
        lowest = LEVELS[0] if processes is not None and self.rung_name == "processes" else self.level
        return LEVELS.index(lowest) <= LEVELS.index(level)

    def unoptimized_at(self, level: str) -> bool:
        """Whether a run at `level` compiles this law's programs without optimizations on simulated devices."""
        return self.per == "subject" and LEVELS.index(level) <= LEVELS.index(self.unoptimized_up_to)


def entry_of(kind: Callable[..., Entry], where: str, entry: dict[str, Any]) -> Entry:
    """A table of a TOML file as an object; arrays become tuples. A ValueError names a missing or unknown field."""
    names = inspect.signature(kind).parameters
    unknown = sorted(entry.keys() - names)
    if unknown:
        raise ValueError(f"{where}: unknown field {', '.join(unknown)}; the fields are {', '.join(sorted(names))}")
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()})
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def read(path: Path, kind: Callable[..., Entry]) -> list[Entry]:
    """The objects of a TOML file with one array of tables; raises as `entry_of` does."""
    [entries] = tomllib.loads(path.read_text(encoding="utf-8")).values()
    return [entry_of(kind, f"{path.parent.name}/{path.name}", entry) for entry in entries]


def by_id(entries: Iterable[tuple[str, Entry]]) -> dict[str, Entry]:
    """Pairs of id and object -> a dict; a ValueError names an id that occurs twice."""
    table: dict[str, Entry] = {}
    for name, entry in entries:
        if name in table:
            raise ValueError(f"the id {name} occurs twice")
        table[name] = entry
    return table


def ladder_of(rungs: Sequence[Rung]) -> tuple[Rung, ...]:
    """The rungs as a tuple; a ValueError names a rung that needs one which is not below it."""
    for number, rung in enumerate(rungs):
        if not set(rung.needs) <= set(range(number)):
            raise ValueError(f"laws/rungs.toml: {rung.name} needs {list(rung.needs)}, must be numbers below {number}")
    return tuple(rungs)


LADDER = ladder_of(read(KIT / "laws" / "rungs.toml", Rung))
RUNGS = tuple(rung.name for rung in LADDER)


@cache
def laws() -> dict[str, Law]:
    """All laws by id, from the lowest rung up; a ValueError names a wrong entry, or an id that occurs twice."""
    entries = [law for path in sorted((KIT / "laws").glob("*/test_*.toml")) for law in read(path, Law)]
    return by_id((law.id, law) for law in sorted(entries, key=lambda law: law.rung))


def check_id(law: str, subject: str | None) -> str:
    """The id of a check: the law's, followed by the trainer under test in brackets, if any."""
    return law if subject is None else f"{law}[{subject}]"


def split_id(check: str) -> tuple[Law, str | None]:
    """A check's id -> its law and its trainer: the inverse of `check_id`."""
    law, _, subject = check.partition("[")
    return laws()[law], subject.removesuffix("]") or None


def selects(only: Sequence[str], check: str) -> bool:
    """Whether `--only` names the id, the law, the start of the law's id or the rung of a check; true if it is empty."""
    law = check.partition("[")[0]
    names = (check, law, str(laws()[law].rung))
    return not only or any(word in names or law.startswith(f"{word}.") for word in only)


def expected(
    level: str, subjects: Iterable[str], only: Sequence[str] = (), *, processes: int | None = None
) -> list[str]:
    """The ids of all checks of a run at `level`: rung by rung, first the machine's, then trainer by trainer."""
    trainers = list(subjects)
    ids: list[str] = []
    for rung in range(len(RUNGS)):
        here = [law for law in laws().values() if law.rung == rung and law.runs_at(level, processes)]
        ids += [law.id for law in here if law.per == "machine"]
        ids += [check_id(law.id, trainer) for trainer in trainers for law in here if law.per == "subject"]
    return [check for check in ids if selects(only, check)]


def blocked_by(failed: Iterable[tuple[int, str | None]], law: Law, subject: str | None) -> str | None:
    """The lowest failed rung that blocks a law, in words; None if the law can run.

    `failed` has pairs of a rung's number and the trainer that failed there. None as a trainer means the machine.
    """
    for rung, trainer in sorted(failed, key=lambda key: key[0]):
        if rung in LADDER[law.rung].needs and trainer in (None, subject):
            return f"rung {rung} ({RUNGS[rung]}{f' of {trainer}' if trainer else ''})"
    return None
