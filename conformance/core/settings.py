"""The options of a run, which the command line and the pytest plugin share, and the set-up of JAX for these options."""

import contextlib
import importlib.metadata
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..adapter import AdapterError, load_adapter
from .kit import INSTALLED, PACKAGE
from .law import LEVELS, expected, laws, split_id

SIMULATED_DEVICES = 8
MOST_PROCESSES = 8
PLATFORMS = ("cpu", "gpu", "rocm", "cuda", "tpu")
SFTREF = "sftref.conformance.adapters.sftref"
# Of a run without `--adapter`, `single`, `pmap` and `mesh` have all checks. `shard_map` shares their step, and differs
# only in how devices take part; so it has only those of one rung, and all at level `full`.
TIMED_ADAPTERS = tuple(f"{SFTREF}:{kind}" for kind in ("single", "pmap", "mesh"))
SHARD_MAP = f"{SFTREF}:shard_map"
SHARD_MAP_SINCE = (0, 6, 1)  # the first release with `jax.shard_map`
SHARD_MAP_RUNG = "equivalence"


def default_adapters(jax_version: str | None) -> tuple[str, ...]:
    """The trainers of a run without `--adapter`, for a release of JAX; None if JAX is not installed."""
    if jax_version and tuple(map(int, re.findall(r"\d+", jax_version)[:3])) < SHARD_MAP_SINCE:
        return TIMED_ADAPTERS
    return (*TIMED_ADAPTERS, SHARD_MAP)


def _jax_version() -> str | None:
    try:
        return importlib.metadata.version("jax")
    except importlib.metadata.PackageNotFoundError:
        return None


DEFAULT_ADAPTERS = default_adapters(_jax_version())


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of one run."""

    level: str = "standard"  # quick, standard or full
    adapters: tuple[str, ...] = DEFAULT_ADAPTERS  # `MODULE:FACTORY` of each trainer under test
    named: bool = False  # whether the user named them; each then has all checks, also those that are the default ones
    against: str = f"{SFTREF}:single"  # the trainer to compare those with, in addition to the oracle
    platform: str | None = None  # the platform of the devices; None takes the one that JAX chooses
    devices: int | None = None  # the most devices to use; None takes all, or eight simulated ones on the CPU
    # `PLATFORM[:COUNT[:KIND]]` of the devices that must be present, as `rocm:8:gfx942`; None checks nothing.
    expect: str | None = None
    only: tuple[str, ...] = ()  # ids, starts of ids, or numbers of rungs; empty means all
    seed: int = 0  # seed of all random values
    # The most processes on rung 9, at any level; None means two at `standard` and four at `full`.
    processes: int | None = None
    self_test: bool = True  # whether faults are seeded to test that the laws see them
    remedies: bool = True  # whether checks that failed on this machine are rerun under other settings

    def __post_init__(self) -> None:
        """Refuse impossible values with a ValueError that names the option."""
        if self.level not in LEVELS:
            raise ValueError(f"--level = {self.level}, must be one of {', '.join(LEVELS)}")
        if self.platform not in (None, *PLATFORMS):
            raise ValueError(f"--platform = {self.platform}, must be one of {', '.join(PLATFORMS)}")
        if self.devices is not None and self.devices < 1:
            raise ValueError(f"--devices = {self.devices}, must be at least 1")
        if self.expect is not None:
            self._check_expectation()
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed = {self.seed}, must be 0 to {2**32 - 1}")
        if self.processes is not None and not 2 <= self.processes <= MOST_PROCESSES:
            raise ValueError(f"--processes = {self.processes}, must be 2 to {MOST_PROCESSES} processes of this machine")
        labels = subject_labels(self.adapters)
        for word in self.only:
            law, _, subject = word.partition("[")
            known = word.isdigit() and any(str(entry.rung) == word for entry in laws().values())
            known = known or any(name == law or name.startswith(f"{law}.") for name in laws())
            if not known or (subject and subject.removesuffix("]") not in labels):
                raise ValueError(f"--only = {word} matches no check; `sftref explain` lists them")

    def _check_expectation(self) -> None:
        platform, count, _ = self.expectation
        if platform not in PLATFORMS or not (count is None or count > 0):
            raise ValueError(
                f"--expect = {self.expect}, must be PLATFORM[:COUNT[:KIND]], as rocm:8 or rocm:8:gfx942, with one of "
                f"{', '.join(PLATFORMS)}"
            )
        if self.platform not in (None, platform):
            raise ValueError(f"--expect = {self.expect} with --platform = {self.platform}; leave one of them out")
        object.__setattr__(self, "platform", platform)

    @property
    def expectation(self) -> tuple[str, int | None, str]:
        """Platform, number and kind of device in `expect`; a number that cannot be read becomes 0, which is refused."""
        platform, _, rest = (self.expect or "").partition(":")
        count, _, kind = rest.partition(":")
        return platform, (int(count) if count.isdigit() else 0) if rest else None, kind

    @property
    def subjects(self) -> dict[str, str]:
        """Trainers under test: the name in ids -> `MODULE:FACTORY`."""
        return dict(zip(subject_labels(self.adapters), self.adapters, strict=True))

    @property
    def timed(self) -> dict[str, str]:
        """The trainers that benchmarks measure: without `--adapter` all but `shard_map`, as fast as `mesh`."""
        return {label: name for label, name in self.subjects.items() if not self.default or name != SHARD_MAP}

    @property
    def default(self) -> bool:
        """Whether the trainers are those of a run without `--adapter`."""
        return not self.named and self.adapters == DEFAULT_ADAPTERS

    def has(self, check: str) -> bool:
        """Whether a run with these trainers at this level has a check, whatever `only` selects."""
        law, subject = split_id(check)
        if not self.default or self.level == LEVELS[-1] or law.rung_name == SHARD_MAP_RUNG:
            return True
        return subject is None or self.subjects[subject] != SHARD_MAP

    def checks(self, only: Sequence[str] | None = None, *, processes: int | None = None) -> list[str]:
        """The ids of all checks of the run, in their order.

        `only` and `processes` replace the fields of these names.
        """
        words = self.only if only is None else only
        ids = expected(self.level, self.subjects, words, processes=processes or self.processes)
        return [check for check in ids if self.has(check)]

    def repro(self, check: str, subject: str | None) -> str:
        """The command that reruns one check with the same values."""
        start = ["sftref"] if PACKAGE == INSTALLED else ["python", "-m", PACKAGE]
        words = [*start, "verify", "--only", check, "--level", self.level, "--seed", str(self.seed)]
        if subject is not None and not self.default:
            words += ["--adapter", self.subjects[subject]]
        if self.against != f"{SFTREF}:single":
            words += ["--against", self.against]
        for option, value in self.options("platform", "devices", "expect", "processes"):
            words += [f"--{option}", value]
        return shlex.join(words)

    def options(self, *names: str) -> list[tuple[str, str]]:
        """(name, value) of each of these options that has a value."""
        return [(name, str(value)) for name in names if (value := getattr(self, name)) is not None]

    def check_adapters(self, loading: Callable[[str], None] = lambda _: None) -> None:
        """Load every trainer once; an `AdapterError` names one that cannot be used.

        `loading` is called with each one's name before it is loaded, and with an empty name at the end.
        """
        for name in dict.fromkeys((*self.adapters, self.against)):
            loading(name)
            load_adapter(name)
        loading("")


def subject_labels(adapters: Sequence[str]) -> list[str]:
    """A short name for each adapter: its factory's name, or module and factory if two have the same name.

    An `AdapterError` names an adapter without a colon, or one that occurs twice.
    """
    for name in adapters:
        if ":" not in name:
            raise AdapterError(f"must be MODULE:FACTORY, as in {SFTREF}:mesh", name)
        if list(adapters).count(name) > 1:
            raise AdapterError("is given twice", name)
    short = [name.partition(":")[2] for name in adapters]
    pairs = zip(short, adapters, strict=True)
    return [label if short.count(label) == 1 else name.replace(":", ".") for label, name in pairs]


def start_jax(settings: Settings) -> None:
    """Configure JAX before its first backend starts: the platform, and simulated devices on the CPU.

    JAX has a CPU backend also beside an accelerator, and simulated devices on it cost nothing.
    """
    import jax

    # The user's own number of devices is kept; JAX refuses a second one beside that of XLA_FLAGS. If a backend runs
    # already, as in a notebook, JAX refuses a change, and the devices stay as they are.
    flags = os.environ.get("XLA_FLAGS", "")
    if not os.environ.get("JAX_NUM_CPU_DEVICES") and "xla_force_host_platform_device_count" not in flags:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", settings.devices or SIMULATED_DEVICES)
    # For `gpu`, JAX chooses between cuda and rocm itself.
    if settings.platform not in (None, "gpu") and not os.environ.get("JAX_PLATFORMS"):
        jax.config.update("jax_platforms", "cpu" if settings.platform == "cpu" else f"{settings.platform},cpu")
