"""(fault, law) -> a record: one law asked in this process, with one fault seeded."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from ..core.check import Check
from ..core.fault import Fault
from ..core.kit import PACKAGE
from ..core.law import Law, laws
from ..core.result import Result
from ..core.settings import Settings
from ..laws.support import call
from .backend.lowering import CannotSeedError

SUBJECTS, PERFORMANCE, LOWERED, PROCESSES = "trainers", "trainers.performance", "trainers.lowered", "trainers.processes"
# The modules that seed faults in trainers; the others seed them in the machine.
TRAINERS = (SUBJECTS, PERFORMANCE, LOWERED)


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
                if hasattr(value, "cache_clear") and value is not call.functions:
                    value.cache_clear()


def run_law(
    law: Law, instead: dict[str, Any], settings: Settings, subject: str | None = None, *, narrows: bool = False
) -> Result:
    """Run one law as pytest would; values of `instead` replace the fixtures of their names."""
    check = Check(law, settings.level, settings.seed, narrows=narrows)
    error: BaseException | None = None
    began = time.monotonic()
    try:
        call.run(check, settings, instead)
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
                yield run_law(laws()[law], instead, settings, subject, narrows=narrows)
    except CannotSeedError as error:
        yield from (Result.ended(laws()[law], subject, "not_run", str(error), 0.0) for law, _ in asked)


def _enough(fault: Fault, settings: Settings) -> None:
    n = len(call.devices(settings))
    if n < fault.devices or n % fault.multiple_of:
        count = f"{fault.devices}{f', a multiple of {fault.multiple_of},' if fault.multiple_of > 1 else ''}"
        raise CannotSeedError(f"needs {count} devices, found {n}")
