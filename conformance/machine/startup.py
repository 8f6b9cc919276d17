"""Starts JAX in a process of its own, phase by phase and against the clock: a driver that hangs is named.

The first start of an accelerator can take minutes, and on a broken one it never ends; to a person both look alike.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.settings import Settings
from ..workers import process
from ..workers.plan import variables
from ..workers.process import Child
from .startup_phases import PHASES

READY, FAILED, HANG, CRASH = "ready", "failed", "hang", "crash"
MOST_LINES = 20


@dataclass
class Started:
    """How a start of JAX went.

    Attributes:
        how: ready, failed (an exception), hang or crash.
        phase: in which it ended; empty where it is ready.
        message: what was said there.
        seconds: of each phase that came to its end.
        live: devices and settings, as `environment.live` tells; empty where it is not ready.
        stderr: the last lines of its log.
    """

    how: str = READY
    phase: str = ""
    message: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)
    stderr: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """In a line."""
        done = ", ".join(f"{name} {took:.1f} s" for name, took in self.seconds.items())
        if self.how == READY:
            return f"JAX started: {done}"
        words = {FAILED: "failed", HANG: "hung", CRASH: "crashed"}[self.how]
        return f"JAX {words} in the phase '{self.phase}': {self.message}{f' (after {done})' if done else ''}"


def start(settings: Settings, tell: Callable[[str], None], given: Mapping[str, str]) -> Started:
    """Start JAX, compile, run and reduce, each phase within its seconds.

    Args:
        settings: platform and devices.
        tell: is told several times a second which phase is waited for.
        given: the environment to start it in.
    """
    words = [sys.executable, "-P", "-m", f"{__package__}.startup_phases"]
    for name, value in (("--platform", settings.platform), ("--devices", settings.devices)):
        words += [name, str(value)] if value is not None else []
    child = Child(words, variables(given, None), len(PHASES))
    found = Started()
    try:
        while True:
            process.wait(child.pipes(), 0.2)
            over = child.ended()
            for event in child.events():
                _take(found, event)
            if over:
                break
            if child.overdue():
                _hung(found, child)
                return found
            tell(child.running or "Python")
    finally:
        running, code = child.running, child.close()
        found.stderr = list(child.stderr)[-MOST_LINES:]
    if found.how == READY and code != 0:
        said = process.last_words(child.stderr)
        how = process.how_it_ended(code)
        found.how, found.phase = CRASH, running or "Python"
        found.message = f"{how}; it said: {said}" if said else how
    return found


def _take(found: Started, event: dict[str, Any]) -> None:
    kind = event.pop("event")
    if kind == "result":
        found.seconds[event["id"]] = event["seconds"]
    elif kind == "failed":
        found.how, found.phase, found.message = FAILED, event["id"], event["message"]
    elif kind == "live":
        found.live = event


def _hung(found: Started, child: Child) -> None:
    stack = child.stacks()
    where = process.frames(stack)
    found.how, found.phase = HANG, child.running or "Python"
    found.message = f"no answer within {child.deadline:g} s{f'; it stood in {where}' if where else ''}"
