"""A seeded fault -> what a user reads whose machine, or trainer, has it: the ladder, the diagnosis, the verdict."""

import time

from ..core.fault import Fault
from ..core.settings import Settings
from ..judge.diagnosis import diagnose
from ..judge.verdict import Verdict, judge
from ..report.terminal import Screen
from .trial import as_run, row


def read(fault: Fault, settings: Settings) -> Verdict:
    """Run all laws that can meet the fault while it is seeded, and print what `verify` would."""
    began = time.monotonic()
    outcome = as_run(fault, row(fault, settings), settings)
    outcome.seconds = time.monotonic() - began
    screen, verdict = Screen(settings, {}), judge(outcome)
    for group in outcome.groups():
        screen.rung(group)
    screen.diagnosis(diagnose(outcome))
    screen.verdict(verdict, "")
    return verdict
