"""Settings that have mended such faults elsewhere, as data: which would change anything here, how, and what that did.

Beside those of `remedies.toml`, each variable that the user has set is one: to leave it out.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

# A user's own variables that change what is computed or how it travels ...
THEIRS = re.compile(
    r"(JAX|XLA|HIP|HSA|ROCR|AMD|MIOPEN|NCCL|RCCL|LIBTPU|TF_(CUDNN|ENABLE|FORCE|GPU|ROCM|XLA)|CUDA_(LAUNCH|DEVICE_MAX))_.*"
)
# ... but for those that say which devices there are, where something lies, or what is logged.
KEPT = re.compile(r".*(VISIBLE|PLATFORM|CACHE|_HOME|_ROOT|_PATH|_DIR|NUM_|CLIENT_|COORDINATOR|PROCESS_ID|LOG|DEBUG).*")
# Whose libraries are loaded.
LOADER = ("LD_LIBRARY_PATH", "LD_PRELOAD")
DEVICE_COUNT = "--xla_force_host_platform_device_count"
RESULTS = MENDS, FAILS, REFUSED, SILENT, UNTRIED = (
    "mends", "does not mend", "is not known here", "cannot be asked", "was not tried"
)  # fmt: skip
UNSET_SOURCE = "https://docs.jax.dev/en/latest/xla_flags.html"


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A setting to try.

    Attributes:
        id: its name.
        does: what it changes, in words.
        source: where it mended such a fault, or where it is described.
        platforms: names of the platforms that it is for; empty means any.
        rungs: on which it can matter; empty means any.
        ends: statuses that it can mend; empty means any.
        flags: words that are added to XLA_FLAGS, where the last one of a name counts.
        sets: variables and their values.
        without: a variable that is taken away.
        devices: at most so many are used.
    """

    id: str
    does: str
    source: str
    platforms: tuple[str, ...] = ()
    rungs: tuple[int, ...] = ()
    ends: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    sets: Mapping[str, str] = field(default_factory=dict)
    without: str = ""
    devices: int | None = None

    def suits(self, platforms: Collection[str], rung: int, statuses: Collection[str]) -> bool:
        """Whether it can matter for what fell on this rung, of a platform with these names."""
        return (
            (not self.platforms or not set(self.platforms).isdisjoint(platforms))
            and (not self.rungs or rung in self.rungs)
            and (not self.ends or not set(self.ends).isdisjoint(statuses))
        )

    def change(self, given: Mapping[str, str]) -> dict[str, str]:
        """The environment with this setting."""
        changed = {**given, **self.sets}
        if self.without:
            changed.pop(self.without, None)
            if self.without == "XLA_FLAGS" and _count(given):
                changed["XLA_FLAGS"] = _count(given)
        if self.flags:
            changed["XLA_FLAGS"] = " ".join([given.get("XLA_FLAGS", ""), *self.flags]).strip()
        return changed

    @property
    def words(self) -> str:
        """As a person would set it."""
        words = [f"XLA_FLAGS={shlex.quote(' '.join(self.flags))}"] if self.flags else []
        words += [f"{name}={shlex.quote(value)}" for name, value in self.sets.items()]
        words += [f"unset {self.without}"] if self.without else []
        return " ".join([*words, *([f"--devices {self.devices}"] if self.devices else [])])


@dataclass(frozen=True, kw_only=True)
class Try:
    """One setting that was tried.

    Attributes:
        id: of the remedy.
        words: as a person would set it.
        does: what it changes.
        source: where that mended such a fault.
        result: one of `RESULTS`.
        message: what fell, or why it could not be asked.
        everything: the verdict's line of the whole ladder under it; empty where that was not asked.
    """

    id: str
    words: str
    does: str
    source: str
    result: str
    message: str = ""
    everything: str = ""


@dataclass(kw_only=True)
class Tries:
    """What was tried.

    Attributes:
        asked: ids of checks, or the phase of JAX's start, that fell and were asked again.
        unchanged: tries without any change.
        passed_unchanged: how many of them passed.
        tries: each setting.
        workaround: the setting under which everything passes; empty where there is none.
    """

    asked: list[str]
    unchanged: int = 0
    passed_unchanged: int = 0
    tries: list[Try] = field(default_factory=list)
    workaround: str = ""

    @property
    def said(self) -> list[str]:
        """In lines, for the evidence."""
        what = ", ".join(self.asked)
        if self.passed_unchanged:
            again = f"{self.passed_unchanged} of {self.unchanged} times"
            return [f"{what}: asked again without any change, it passed {again}: it is wrong only sometimes"]
        found = [f"{self.workaround}: everything passes with it"] if self.workaround else []
        mends = [one for one in self.tries if one.result == MENDS and one.words != self.workaround]
        found += [f"{one.words}: {what} passes with it" + (f", and then {one.everything}" if one.everything else "")
                  for one in mends]  # fmt: skip
        for result in (FAILS, REFUSED, SILENT, UNTRIED):
            words = [one.words for one in self.tries if one.result == result]
            found += [f"{result}: {'; '.join(words)}"] if words else []
        return found

    def to_json(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self)


@cache
def listed() -> tuple[Remedy, ...]:
    """Those of `remedies.toml`.

    Raises:
        TypeError: an entry has a field too many or too few.
    """
    text = Path(__file__).with_name("remedies.toml").read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = tomllib.loads(text)["remedy"]
    made: list[dict[str, Any]] = [
        {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()} for entry in entries
    ]
    return tuple(Remedy(**entry) for entry in made)


def _count(given: Mapping[str, str]) -> str:
    """The words of XLA_FLAGS that say how many devices are simulated."""
    return " ".join(word for word in given.get("XLA_FLAGS", "").split() if word.startswith(DEVICE_COUNT))


def _theirs(given: Mapping[str, str]) -> Iterator[Remedy]:
    for name in sorted(given):
        if (THEIRS.fullmatch(name) and not KEPT.fullmatch(name)) or name in LOADER:
            yield Remedy(id=f"without-{name}", does=f"leaves {name} out", source=UNSET_SOURCE, without=name)


def remedies(
    platforms: Collection[str], rung: int, statuses: Collection[str], given: Mapping[str, str], devices: int
) -> list[Remedy]:
    """What is worth a try.

    Args:
        platforms: names of the one that was verified, as `environment.platform_names` has them.
        rung: the lowest one that fell.
        statuses: of what fell there.
        given: the environment that it fell in.
        devices: how many were used.

    Returns:
        A user's own settings first, each to be left out; then those of the list that are not so already.
    """
    found = [*_theirs(given), *(remedy for remedy in listed() if remedy.suits(platforms, rung, statuses))]
    return [
        remedy for remedy in found
        if remedy.change(given) != dict(given) or (remedy.devices is not None and remedy.devices < devices)
    ]  # fmt: skip
