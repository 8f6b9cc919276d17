"""The ids that a run must answer for -> units: which checks share a process, and which processes may run when."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.kit import IMPORT_ROOT, IN_SITE_PACKAGES, KIT, PACKAGE
from ..core.law import LADDER, UPPER, split_id
from ..core.settings import DEFAULT_ADAPTERS, Settings

SEEDED = "the seeded faults"


@dataclass
class Unit:
    """Checks of one process.

    Attributes:
        name: for messages.
        ids: that it must answer for.
        after: ids of other units that must have been answered before it starts: of the rungs that its own stand on.
    """

    name: str
    ids: list[str]
    after: frozenset[str]


def units(ids: Iterable[str]) -> list[Unit]:
    """The machine's rungs 0 to 5 in two processes, and then one for each trainer, and one for what is left."""
    members: dict[str, list[str]] = {}
    for check in ids:
        law, subject = split_id(check)
        home = LADDER[law.rung].process if subject is None else f"trainer {subject}"
        members.setdefault(home, []).append(check)
    first = [name for name in dict.fromkeys(rung.process for rung in LADDER) if name != UPPER and name in members]
    order = first + [name for name in members if name not in first]
    return [Unit(name, members[name], _below(members[name], members)) for name in order]


def _below(mine: Sequence[str], members: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Checks of other units on rungs that `mine` stand on, of the machine or of the same subject."""
    stands_on = {(rung, whose) for law, whose in map(split_id, mine) for rung in LADDER[law.rung].needs}
    found = set()
    for check in (check for several in members.values() for check in several if check not in mine):
        law, subject = split_id(check)
        if any(law.rung == rung and subject in (None, whose) for rung, whose in stands_on):
            found.add(check)
    return frozenset(found)


def trials(ids: Sequence[str]) -> list[Unit]:
    """The seeded faults, in a process of their own: what one of them leaves behind reaches no check."""
    return [Unit(SEEDED, list(ids), frozenset())] if ids else []


def trial_command(settings: Settings, ids: Sequence[str]) -> list[str]:
    """The process that makes these trials."""
    words = [sys.executable, "-P", "-m", f"{PACKAGE}.faults", "--level", settings.level]
    words += ["--seed", str(settings.seed)]
    if settings.platform is not None:
        words += ["--platform", settings.platform]
    if settings.devices is not None:
        words += ["--devices", str(settings.devices)]
    return words + [word for trial in ids for word in ("--trial", trial)]


def command(settings: Settings, ids: Sequence[str], failed: str, deviations: Path | None, scratch: Path) -> list[str]:
    """The pytest process that asks these checks.

    Args:
        settings: of the run.
        ids: to be asked.
        failed: the rungs that have failed so far, in the form of `--sftref-failed`.
        deviations: the file of those that are known.
        scratch: a folder of its own, for what checks write.
    """
    # Not -m pytest in the current folder's sight: a file of the user's must not take a module's place.
    words = [sys.executable, "-P", "-m", "pytest", "-c", str(KIT / "pytest.ini"), "--rootdir", str(KIT)]
    # Nothing is captured: what a native library says before it aborts must reach the runner.
    words += ["-q", "-s", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--basetemp", str(scratch)]
    # The kit has no bare asserts, and pytest would compile each module of each plugin anew for theirs.
    words += ["--assert", "plain"]
    options: list[tuple[str, object]] = [("level", settings.level), ("seed", settings.seed), ("failed", failed)]
    options += [("against", settings.against)]
    if settings.adapters != DEFAULT_ADAPTERS:
        options += [("adapter", name) for name in settings.adapters]
    found = {name: getattr(settings, name) for name in ("platform", "devices", "expect", "processes")}
    options += [(name, value) for name, value in (*found.items(), ("deviations", deviations)) if value is not None]
    words += given(options + [("only", check) for check in ids])
    rungs = sorted({split_id(check)[0].rung for check in ids})
    files = [path for rung in rungs for path in sorted((KIT / "laws").glob(f"*/test_{rung}_*.py"))]
    # Relative: pytest takes a `[` in an argument, as in the name of a folder above, for the parameter of a test.
    return words + [os.path.relpath(path) for path in files]


def given(options: Iterable[tuple[str, object]]) -> list[str]:
    """Options of the kit's plugin for pytest, each in one word.

    pytest looks for a `conftest.py` before it knows them, and would take a word of its own for a path: with `""` it ran
    that of the folder it was called in, and those of `test*/` in there.
    """
    return [f"--sftref-{name}={value}" for name, value in options]


def variables(given: Mapping[str, str], cache: Path | None, scratch: Path | None = None) -> dict[str, str]:
    """The environment of a process of the kit: the user's own, with pytest's and the compilation cache in our hands.

    A cache of the user's could answer for the compiler that is to be verified. On simulated devices, where compilation
    is most of the time, the processes of one run share a cache that lives as long as the run; an accelerator's runtime
    compiles anew in each.
    What Hypothesis keeps goes to `scratch`, and not to a folder `.hypothesis` of whoever runs it; so does the bytecode
    of what they import, where Python would compile it in each process again.
    """
    kept = {name: value for name, value in given.items() if name not in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")}
    kept["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    kept.pop("JAX_COMPILATION_CACHE_DIR", None)
    if not IN_SITE_PACKAGES:
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(IMPORT_ROOT), kept.get("PYTHONPATH"))))
    if scratch is not None:
        kept["HYPOTHESIS_STORAGE_DIRECTORY"] = str(scratch / "hypothesis")
        if not keeps_bytecode("jax"):
            kept.pop("PYTHONDONTWRITEBYTECODE", None)
            kept["PYTHONPYCACHEPREFIX"] = str(scratch / "bytecode")
    if cache is None:
        return kept | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    return kept | keeping(cache)


def keeping(cache: Path) -> dict[str, str]:
    """The variables by which JAX keeps all programs in a folder, and takes them from there."""
    return {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def keeps_bytecode(package: str) -> bool:
    """Whether a package's bytecode is there, or will be once it has been imported.

    It is not where an installer has left it out (uv does) and Python may not write it (PYTHONDONTWRITEBYTECODE, a
    folder that is read-only): JAX is then compiled for two to three seconds in each process.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.cached is None or spec.origin is None:
        return True
    written = not sys.dont_write_bytecode and os.access(Path(spec.origin).parent, os.W_OK)
    return written or Path(spec.cached).exists()
