"""Calls a law: finds its function and arguments, and sets how its programs compile. For pytest, faults and rung 9."""

import contextlib
import functools
import importlib
import inspect
import os
import pkgutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...adapter import load_adapter
from ...core.check import Check
from ...core.kit import PACKAGE
from ...core.settings import Settings
from ...workers.plan import SCRATCH
from . import compilation
from .guarded import Guarded

Law = Callable[..., None]


@functools.cache
def functions() -> dict[str, Law]:
    """A law's id -> the function marked with `@pytest.mark.law(id)`."""
    package = importlib.import_module(f"{PACKAGE}.laws")
    names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    by_id: dict[str, Law] = {}
    for name in sorted(name for name in names if ".test_" in name):
        for function in vars(importlib.import_module(name)).values():
            by_id |= {mark.args[0]: function for mark in getattr(function, "pytestmark", ()) if mark.name == "law"}
    return by_id


def generator(check: Check) -> np.random.Generator:
    """The generator of a check's values: each law has its own stream for a seed."""
    return np.random.default_rng((check.law.stream, check.seed))


def devices(settings: Settings) -> list[Any]:
    """The devices to verify: the first `--devices` of the platform, or all."""
    import jax

    return jax.devices()[: settings.devices]


def trainer(adapter: str) -> Any:
    """`MODULE:FACTORY` -> the trainer, whose calls are checked; an `AdapterError` says why there is none."""
    return Guarded(load_adapter(adapter), adapter)


@contextlib.contextmanager
def around(check: Check) -> Iterator[None]:
    """Compile programs as the law's entry says; finish the check if nothing raised."""
    with compilation.of(check):
        yield
    check.finish()


def with_arguments(function: Law, values: Mapping[str, Any]) -> None:
    """Call a law's function with the entries of `values` that are its parameters."""
    function(**{name: values[name] for name in inspect.signature(function).parameters})


def run(check: Check, settings: Settings, instead: Mapping[str, Any]) -> None:
    """Run a law in this process as pytest would, and record its comparisons in `check`; raises what the law raises.

    `instead` (name -> value) replaces values of pytest's fixtures; it must have `subject` if the law takes that.
    """
    function = functions()[check.law.id]
    with tempfile.TemporaryDirectory(prefix="sftref-", dir=os.environ.get(SCRATCH)) as folder:
        fixtures: dict[str, Callable[[], Any]] = {
            "check": lambda: check,
            "rng": lambda: generator(check),
            "settings": lambda: settings,
            "devices": lambda: devices(settings),
            "against": lambda: trainer(settings.against),
            "adapter": str,  # a name by which only the processes of rung 9 load the trainer
            "tmp_path": lambda: Path(folder),
        }
        missing = inspect.signature(function).parameters.keys() - instead.keys()
        values = {name: fixtures[name]() for name in missing}
        with around(check):
            with_arguments(function, {**instead, **values})
