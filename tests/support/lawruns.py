"""Runs one law in this process as pytest would, for tests that replace its trainer, its devices or a function."""

from typing import Any

import numpy as np
from sftref.conformance.core.check import Check
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.laws.support import call

QUICK = Settings(level="quick")


def run_law(law: str, settings: Settings = QUICK, **instead: Any) -> Check:
    """Run a law with the values `instead` of pytest's fixtures. Returns its check, or raises the law's error.

    It looks for no cause of a failure, which takes seconds.
    """
    check = Check(laws()[law], settings.level, settings.seed, narrows=False)
    call.run(check, settings, instead)
    return check


def numbers() -> np.random.Generator:
    return np.random.default_rng(0)
