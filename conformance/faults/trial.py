"""(fault, law) -> a result: one law run in this process, with one fault seeded."""

import contextlib
import importlib
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import jax

from ..core.check import Check, NotRunReason
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
    """Seed a fault; yields the wrong values of fixtures, by name.

    Raises:
        CannotSeedError: this JAX or this machine does not allow it.
    """
    if fault is None:
        yield {}
        return
    module = importlib.import_module(f"{PACKAGE}.faults.{fault.module}")
    # A wrong trainer compiles programs of its own, or none.
    in_machine = fault.module not in TRAINERS
    if in_machine:
        forget()
    try:
        with module.seed(fault.id) as instead:
            yield instead or {}
    finally:
        if in_machine:
            forget()


def forget() -> None:
    """Drop all compiled programs, JAX's and the kit's: those compiled without a fault do not have it."""
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


def trials(
    fault: Fault | None, runs: Sequence[tuple[str, Settings]], *, narrows: bool = False
) -> Generator[Result, None, None]:
    """Run laws with one fault seeded, or none; the `subject` of the results is the fault."""
    subject = fault.id if fault else None
    try:
        if fault is not None:
            _need_devices(fault, runs[0][1])
        with seeded(fault) as instead:
            for law, settings in runs:
                yield run_law(laws()[law], instead, settings, subject, narrows=narrows)
    except CannotSeedError as error:
        for law, _ in runs:
            yield Result.ended(laws()[law], subject, "not_run", str(error), 0.0, NotRunReason.LACKING)


def _need_devices(fault: Fault, settings: Settings) -> None:
    n = len(call.devices(settings))
    if n < fault.devices or n % fault.multiple_of:
        count = f"{fault.devices}{f', a multiple of {fault.multiple_of},' if fault.multiple_of > 1 else ''}"
        raise CannotSeedError(f"needs {count} devices, found {n}")
