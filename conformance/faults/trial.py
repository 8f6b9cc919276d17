"""(fault, law) -> a record: one law asked in this process, with one fault seeded."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import pkgutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..adapter import load_adapter
from ..core.check import Check
from ..core.fault import Fault
from ..core.kit import PACKAGE
from ..core.law import Law, laws
from ..core.result import Result
from ..core.settings import Settings, device_limit
from ..laws.support import compilation
from .backend.lowering import CannotSeedError

SUBJECTS, PERFORMANCE, LOWERED, PROCESSES = "trainers", "trainers.performance", "trainers.lowered", "trainers.processes"
# The modules that seed faults in trainers; the others seed them in the machine.
TRAINERS = (SUBJECTS, PERFORMANCE, LOWERED)


@functools.cache
def functions() -> dict[str, Callable[..., None]]:
    """Law -> the function that asks it."""
    package = importlib.import_module(f"{PACKAGE}.laws")
    found: dict[str, Callable[..., None]] = {}
    for name in sorted(
        m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.") if ".test_" in m.name
    ):
        for function in vars(importlib.import_module(name)).values():
            for mark in getattr(function, "pytestmark", ()):
                found |= {mark.args[0]: function} if mark.name == "law" else {}
    return found


@contextlib.contextmanager
def seeded(fault: Fault | None) -> Iterator[dict[str, Any]]:
    """Seed a fault; gives what a law that asks for it by name gets instead of the right thing.

    Raises:
        CannotSeedError: this JAX or this machine has no place for it.
    """
    if fault is None:
        yield {}
        return
    module = importlib.import_module(f"{PACKAGE}.faults.{fault.module}")
    # A trainer of ours compiles programs of its own, or none.
    anew = forget if fault.module not in TRAINERS else lambda: None
    anew()
    try:
        with module.seed(fault.id) as instead:
            yield instead or {}
    finally:
        anew()


def forget() -> None:
    """Drop all compiled programs, JAX's and the kit's own: what was compiled without a fault does not have it."""
    jax.clear_caches()
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{PACKAGE}.laws."):
            for value in vars(module).values():
                if hasattr(value, "cache_clear") and value is not functions:
                    value.cache_clear()


def ask(
    law: Law, instead: dict[str, Any], settings: Settings, subject: str | None = None, *, narrows: bool = False
) -> Result:
    """Ask one law as pytest would; what is in `instead` takes the place of the fixture of its name."""
    check = Check(law, settings.level, settings.seed, narrows=narrows)
    error: BaseException | None = None
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sftref-") as folder:
        ways: dict[str, Callable[[], Any]] = {
            "check": lambda: check,
            "rng": lambda: np.random.default_rng((zlib.crc32(law.id.encode()), settings.seed)),
            "settings": lambda: settings,
            "devices": lambda: jax.devices()[: int(min(device_limit(settings), len(jax.devices())))],
            "against": lambda: load_adapter(settings.against),
            # Of a trainer that claims processes; others are not asked in several.
            "adapter": str,
            "tmp_path": lambda: Path(folder),
        }
        function = functions()[law.id]
        names = inspect.signature(function).parameters
        try:
            given = {name: instead[name] if name in instead else ways[name]() for name in names}
            with compilation.of(check):
                function(**given)
            check.finish()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as raised:
            error = raised
    return Result.of(law, subject, check, error, time.monotonic() - began, "")


def trials(fault: Fault | None, asked: Sequence[tuple[str, Settings]], *, narrows: bool = False) -> Iterator[Result]:
    """One fault seeded, or none, and laws asked with it there; the records' subject is the fault."""
    subject = fault.id if fault else None
    try:
        if fault is not None:
            _enough(fault, asked[0][1])
        with seeded(fault) as instead:
            for law, settings in asked:
                yield ask(laws()[law], instead, settings, subject, narrows=narrows)
    except CannotSeedError as error:
        yield from (Result.ended(laws()[law], subject, "not_run", str(error), 0.0) for law, _ in asked)


def _enough(fault: Fault, settings: Settings) -> None:
    found = int(min(device_limit(settings), len(jax.devices())))
    if found < fault.devices or found % fault.multiple_of:
        count = f"{fault.devices}{f', a multiple of {fault.multiple_of},' if fault.multiple_of > 1 else ''}"
        raise CannotSeedError(f"needs {count} devices, found {found}")
