"""A seeded fault -> what a user reads whose machine, or trainer, has it: the ladder, the diagnosis, the verdict."""

import dataclasses
import time

from ..core.fault import Fault
from ..core.settings import Settings
from ..judge.diagnosis import diagnose
from ..judge.outcome import Outcome
from ..judge.verdict import Verdict, judge
from ..machine import snapshot
from ..report.terminal import Screen
from .matrix import as_run, row
from .trial import TRAINERS


def read(fault: Fault, settings: Settings) -> Verdict:
    """Run all laws that can meet the fault while it is seeded, and print what `verify` would."""
    began = time.monotonic()
    outcome = as_run(fault, row(fault, settings).results, settings)
    if fault.module not in TRAINERS:
        outcome = of_the_machine(outcome)
    outcome.environment = snapshot.static() | snapshot.live(settings.devices)
    outcome.seconds = time.monotonic() - began
    screen, verdict = Screen(settings, {}), judge(outcome)
    for group in outcome.groups():
        screen.rung(group)
    screen.diagnosis(diagnose(outcome))
    screen.verdict(verdict, "")
    return verdict


def of_the_machine(outcome: Outcome) -> Outcome:
    """The outcome as of laws of the machine, whose ids have no trainer's name: a trial has the fault's there."""
    results = [dataclasses.replace(result, id=result.law, subject=None) for result in outcome.records.values()]
    records = {result.law: result for result in results}
    return dataclasses.replace(outcome, expected=list(records), records=records)
