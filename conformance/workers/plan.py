"""Ids of checks -> units: which checks share a process, when it may start, its command and its environment."""

import enum
import importlib.util
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.kit import IMPORT_ROOT, IN_SITE_PACKAGES, KIT, PACKAGE
from ..core.law import LADDER, UPPER, split_id
from ..core.settings import Settings

# The CPU compiler of JAX 0.10 takes half the processor time with its older code generator and one module a program.
# Other releases have no such choice.
LIGHT_RELEASE = "0.10."
LIGHT_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
SEEDED = "the seeded faults"
# A variable that each child process has: the folder for the temporary files of its run.
SCRATCH = "SFTREF_SCRATCH"


class Stage(enum.IntEnum):
    """The processes of a trainer, in their order."""

    FIRST = 0
    LIGHT = 1  # programs that are compiled with `LIGHT_FLAGS`
    ABOVE = 2  # rungs that need those of the light programs


@dataclass
class Unit:
    """Checks that share a process."""

    name: str  # its name in messages
    ids: list[str]  # ids of the checks
    # Ids of checks in other units, on rungs that this unit needs: they must have ended before this unit starts.
    after: frozenset[str]
    light: bool = False  # whether XLA compiles its programs with `LIGHT_FLAGS`


def units(ids: Iterable[str], light: Collection[str] = ()) -> list[Unit]:
    """Group the machine's checks by the process of their rung, and all others by trainer and stage.

    `light` has the checks for `LIGHT_FLAGS`. Units come after those that they need.
    """
    members: dict[tuple[str, Stage], list[str]] = {}
    lighter = {(law.rung, subject) for law, subject in map(split_id, light)}
    for check in ids:
        law, subject = split_id(check)
        stage = Stage.ABOVE if any((rung, subject) in lighter for rung in LADDER[law.rung].needs) else Stage.FIRST
        home = LADDER[law.rung].process if subject is None else f"trainer {subject}"
        members.setdefault((home, Stage.LIGHT if check in light else stage), []).append(check)
    first = {rung.process for rung in LADDER} - {UPPER}
    order = sorted(members, key=lambda key: (key[0] not in first, key[1]))
    return [Unit(key[0], members[key], _needed(members[key], members), key[1] is Stage.LIGHT) for key in order]


def light_checks(
    ids: Iterable[str], level: str, versions: Mapping[str, str], environment: Mapping[str, str]
) -> frozenset[str]:
    """The checks on simulated devices that get `LIGHT_FLAGS`, if JAX has them: those whose programs are not optimized.

    None gets them if the user's environment says how trainers are compiled.
    """
    if not versions.get("jax", "").startswith(LIGHT_RELEASE) or "JAX_DISABLE_MOST_OPTIMIZATIONS" in environment:
        return frozenset()
    return frozenset(check for check in ids if split_id(check)[0].unoptimized_at(level))


def _needed(ids: Sequence[str], members: Mapping[Any, Sequence[str]]) -> frozenset[str]:
    """The checks outside `ids`, of the machine or of the same trainer, on rungs that `ids` need."""
    needs = {(rung, trainer) for law, trainer in map(split_id, ids) for rung in LADDER[law.rung].needs}
    needed = set()
    for check in (check for several in members.values() for check in several if check not in ids):
        law, subject = split_id(check)
        if any(law.rung == rung and subject in (None, trainer) for rung, trainer in needs):
            needed.add(check)
    return frozenset(needed)


def trials(ids: Sequence[str]) -> list[Unit]:
    """Ids of trials (a law under a seeded fault) -> a unit of their own, so that no fault affects a check."""
    return [Unit(SEEDED, list(ids), frozenset())] if ids else []


def trial_command(settings: Settings, ids: Sequence[str]) -> list[str]:
    """The command of the process that runs these trials."""
    words = [sys.executable, "-P", "-m", f"{PACKAGE}.faults"]
    for name, value in [*settings.options("level", "seed", "platform", "devices"), *(("trial", one) for one in ids)]:
        words += [f"--{name}", value]
    return words


def command(settings: Settings, ids: Sequence[str], failed: str, deviations: Path | None, scratch: Path) -> list[str]:
    """The command of the pytest process for these checks.

    `failed` has the rungs that have failed so far, as `--sftref-failed` takes them; `scratch` is a new folder.
    """
    # -P: a file in the current folder must not replace a module.
    words = [sys.executable, "-P", "-m", "pytest", "-c", str(KIT / "pytest.ini"), "--rootdir", str(KIT)]
    # -s: the scheduler must see what a native library prints before it aborts.
    words += ["-q", "-s", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--basetemp", str(scratch)]
    # Laws do not use `assert`; rewriting asserts would recompile each module of each plugin.
    words += ["--assert", "plain"]
    options = [*settings.options("level", "seed"), ("failed", failed), ("against", settings.against)]
    if not settings.default:
        options += [("adapter", name) for name in settings.adapters]
    options += settings.options("platform", "devices", "expect", "processes")
    if deviations is not None:
        options.append(("deviations", str(deviations)))
    words += plugin_options([*options, *(("only", check) for check in ids)])
    rungs = sorted({split_id(check)[0].rung for check in ids})
    files = [path for rung in rungs for path in sorted((KIT / "laws").glob(f"*/test_{rung}_*.py"))]
    # Relative paths leave out parent folders: pytest takes a `[` in a folder's name for the parameter of a test.
    return words + [os.path.relpath(path) for path in files]


def plugin_options(options: Iterable[tuple[str, object]]) -> list[str]:
    """The words for options of the kit's pytest plugin, each with its value in the same word.

    Before pytest knows these options, it takes a separate value for a path, and searches that for a `conftest.py`: for
    the value `""` it ran the `conftest.py` of the current folder and of its `test*/`.
    """
    return [f"--sftref-{name}={value}" for name, value in options]


def variables(
    environment: Mapping[str, str], cache: Path | None, scratch: Path | None = None, flags: str = ""
) -> dict[str, str]:
    """The environment of a child process: the user's, without the user's pytest options and compilation cache.

    With a user's cache, the compiler would not be verified. On simulated devices, where compilation takes most of the
    time, the processes of one run share a new cache; on an accelerator each process compiles for itself. Hypothesis
    writes to `scratch` instead of `.hypothesis` in the current folder. Python writes bytecode to `scratch` if it would
    otherwise compile the same modules in each process. XLA reads `flags` before the user's own, which so replace them.
    """
    kept = {name: value for name, value in environment.items() if name not in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")}
    kept["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    kept.pop("JAX_COMPILATION_CACHE_DIR", None)
    if not IN_SITE_PACKAGES:
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(IMPORT_ROOT), kept.get("PYTHONPATH"))))
    if flags:
        kept["XLA_FLAGS"] = f"{flags} {kept.get('XLA_FLAGS', '')}".strip()
    if scratch is not None:
        kept[SCRATCH] = str(scratch)
        kept["HYPOTHESIS_STORAGE_DIRECTORY"] = str(scratch / "hypothesis")
        if not keeps_bytecode("jax"):
            kept.pop("PYTHONDONTWRITEBYTECODE", None)
            kept["PYTHONPYCACHEPREFIX"] = str(scratch / "bytecode")
    if cache is None:
        return kept | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    return kept | cache_variables(cache)


def cache_variables(cache: Path) -> dict[str, str]:
    """The variables that make JAX store all programs in a folder and reuse them."""
    return {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def keeps_bytecode(package: str) -> bool:
    """Whether a package has bytecode, or will have it after its first import.

    A package has no bytecode if its installer wrote none (uv does not) and Python may not write it, because of
    PYTHONDONTWRITEBYTECODE or a read-only folder. Importing JAX then takes two to three seconds more in each process.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.cached is None or spec.origin is None:
        return True
    written = not sys.dont_write_bytecode and os.access(Path(spec.origin).parent, os.W_OK)
    return written or Path(spec.cached).exists()
