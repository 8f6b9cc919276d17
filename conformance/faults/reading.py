"""A seeded fault -> what a person reads whose machine, or trainer, has it: the ladder, the diagnosis, the verdict."""

from __future__ import annotations

import dataclasses
import time

from ..core.fault import Fault
from ..core.result import Result
from ..core.settings import Settings, device_limit
from ..judge.diagnosis import diagnose
from ..judge.outcome import Outcome
from ..judge.verdict import Verdict, judge
from ..machine import snapshot
from ..report.terminal import Screen
from .matrix import as_run, row
from .trial import TRAINERS


def read(fault: Fault, settings: Settings) -> Verdict:
    """Ask all laws of the fault's side with it seeded, and print what `verify` would."""
    began = time.monotonic()
    outcome = as_run(fault, row(fault, settings).records, settings)
    if fault.module not in TRAINERS:
        outcome = of_the_machine(outcome)
    outcome.environment = snapshot.static() | snapshot.live(device_limit(settings))
    outcome.seconds = time.monotonic() - began
    screen, verdict = Screen(settings, {}), judge(outcome)
    for group in outcome.groups():
        screen.rung(group)
    screen.diagnosis(diagnose(outcome))
    screen.verdict(verdict, "")
    return verdict


def of_the_machine(outcome: Outcome) -> Outcome:
    """The same run where checks bear no trainer's name: a trial has the fault's in its place."""

    def bare(record: Result) -> Result:
        return dataclasses.replace(record, id=record.law, subject=None)

    records = {record.law: bare(record) for record in outcome.records.values()}
    return dataclasses.replace(outcome, expected=list(records), records=records)
