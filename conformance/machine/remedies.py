"""Settings that may fix a fault of this machine: which of them are worth a try, what they change, and with what result.

They are those in `remedies.toml`, which fixed similar faults elsewhere, and the unsetting of variables of the user.
"""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ..core.law import read

# Variables of the user that change what is computed or how data moves ...
OWN = re.compile(
    r"(JAX|XLA|HIP|HSA|ROCR|AMD|MIOPEN|NCCL|RCCL|LIBTPU|TF_(CUDNN|ENABLE|FORCE|GPU|ROCM|XLA)|CUDA_(LAUNCH|DEVICE_MAX))_.*"
)
# ... except those that select devices, name paths, or configure logs.
KEPT = re.compile(r".*(VISIBLE|PLATFORM|CACHE|_HOME|_ROOT|_PATH|_DIR|NUM_|CLIENT_|COORDINATOR|PROCESS_ID|LOG|DEBUG).*")
# Variables that decide which libraries are loaded.
LOADER = ("LD_LIBRARY_PATH", "LD_PRELOAD")
DEVICE_COUNT = "--xla_force_host_platform_device_count"
RESULTS = FIXES, FAILS, REFUSED, SILENT, UNTRIED = (
    "mends", "does not mend", "is not known here", "cannot be asked", "was not tried"
)  # fmt: skip
# The words that users see; report.json keeps the values above, from its first schema.
WORDS = {
    FIXES: "fixes it", FAILS: "does not fix it", REFUSED: "not supported here", SILENT: "no result",
    UNTRIED: "not tried",
}  # fmt: skip
UNSET_SOURCE = "https://docs.jax.dev/en/latest/xla_flags.html"


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A setting that may fix a fault."""

    id: str  # its name
    does: str  # what it changes, in words
    source: str  # a link to where it fixed such a fault, or is documented
    platforms: tuple[str, ...] = ()  # names of the platforms that it is for; empty means any
    rungs: tuple[int, ...] = ()  # numbers of rungs on which it can matter; empty means any
    ends: tuple[str, ...] = ()  # statuses of checks that it can fix; empty means any
    flags: tuple[str, ...] = ()  # added to XLA_FLAGS, where the last of two flags with one name counts
    sets: Mapping[str, str] = field(default_factory=dict)  # variables and their values
    without: str = ""  # name of a variable to unset
    devices: int | None = None  # the most devices to use

    def suits(self, platforms: Collection[str], rung: int, statuses: Collection[str]) -> bool:
        """Whether this setting can matter to checks of this rung with these statuses, on this platform."""
        return (
            (not self.platforms or not set(self.platforms).isdisjoint(platforms))
            and (not self.rungs or rung in self.rungs)
            and (not self.ends or not set(self.ends).isdisjoint(statuses))
        )

    def change(self, environment: Mapping[str, str]) -> dict[str, str]:
        """A copy of the environment with this setting."""
        changed = {**environment, **self.sets}
        flags = environment.get("XLA_FLAGS", "")
        if self.without:
            changed.pop(self.without, None)
            # If XLA_FLAGS is unset, its number of simulated devices is kept.
            count = " ".join(flag for flag in flags.split() if flag.startswith(DEVICE_COUNT))
            if self.without == "XLA_FLAGS" and count:
                changed["XLA_FLAGS"] = count
        if self.flags:
            changed["XLA_FLAGS"] = " ".join([flags, *self.flags]).strip()
        return changed

    @property
    def words(self) -> str:
        """The setting as a user would type it."""
        words = [f"XLA_FLAGS={shlex.quote(' '.join(self.flags))}"] if self.flags else []
        words += [f"{name}={shlex.quote(value)}" for name, value in self.sets.items()]
        words += [f"unset {self.without}"] if self.without else []
        return " ".join([*words, *([f"--devices {self.devices}"] if self.devices else [])])


@dataclass(frozen=True, kw_only=True)
class Try:
    """One setting that was tried."""

    id: str  # the id of the remedy
    words: str  # the setting as a user would type it
    does: str  # what it changes
    source: str  # the link of the remedy
    result: str  # one of `RESULTS`
    message: str = ""  # the failure, or why there is no result
    everything: str = ""  # the verdict's line if the whole ladder was rerun with this setting


@dataclass(kw_only=True)
class Tries:
    """All settings that were tried."""

    asked: list[str]  # ids of the failed checks, or the phase of JAX's start, that were rerun
    unchanged: int = 0  # reruns without any change
    passed_unchanged: int = 0  # how many of these reruns passed
    tries: list[Try] = field(default_factory=list)  # one for each setting
    workaround: str = ""  # the setting with which everything passes; empty if there is none

    @property
    def evidence(self) -> list[str]:
        """The results of all reruns, in lines of text for a diagnosis."""
        what = ", ".join(self.asked)
        if self.passed_unchanged:
            passed = f"{self.passed_unchanged} of {self.unchanged} reruns without any change passed"
            return [f"{what}: intermittent; {passed}"]
        lines = [f"{self.workaround}: everything passes with it"] if self.workaround else []
        fixes = [one for one in self.tries if one.result == FIXES and one.words != self.workaround]
        lines += [f"{one.words}: {what} passes with it{f'; the whole run: {one.everything}' if one.everything else ''}"
                  for one in fixes]  # fmt: skip
        for result in (FAILS, REFUSED, SILENT, UNTRIED):
            words = [one.words for one in self.tries if one.result == result]
            lines += [f"{WORDS[result]}: {'; '.join(words)}"] if words else []
        return lines


@cache
def listed() -> tuple[Remedy, ...]:
    """The settings in `remedies.toml`; a ValueError names a wrong entry."""
    return tuple(read(Path(__file__).with_name("remedies.toml"), Remedy))


def _own(environment: Mapping[str, str]) -> Iterator[Remedy]:
    for name in sorted(environment):
        if (OWN.fullmatch(name) and not KEPT.fullmatch(name)) or name in LOADER:
            yield Remedy(id=f"without-{name}", does=f"unsets {name}", source=UNSET_SOURCE, without=name)


def remedies(
    platforms: Collection[str], rung: int, statuses: Collection[str], environment: Mapping[str, str], devices: int
) -> list[Remedy]:
    """The settings worth a try: first, to unset each variable of the user; then the listed ones that change something.

    They depend on the platform's names (`snapshot.platform_names`), the lowest rung with a failure, the statuses of its
    failed checks, the environment in which they failed, and the number of devices in use.
    """
    candidates = [*_own(environment), *(remedy for remedy in listed() if remedy.suits(platforms, rung, statuses))]
    return [
        remedy for remedy in candidates
        if remedy.change(environment) != dict(environment) or (remedy.devices is not None and remedy.devices < devices)
    ]  # fmt: skip
