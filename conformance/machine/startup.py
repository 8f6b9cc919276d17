"""Starts JAX in a process of its own, phase by phase with deadlines, to find the phase in which a driver hangs.

The first start of an accelerator can take minutes; a start of a broken one never ends. A person sees no difference.
"""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.settings import Settings
from ..workers.channel import NoAnswer, Worker
from ..workers.plan import variables
from ..workers.process import EXIT, START
from .startup_phases import PHASES, Phases

READY, FAILED, HANG, CRASH = "ready", "failed", "hang", "crash"
# The name of the phase before the first and after the last one, in which only Python itself can fail.
PYTHON = "Python"
MOST_LINES = 20


@dataclass
class Started:
    """How a start of JAX went."""

    how: str = READY  # ready, failed (an exception), hang or crash
    phase: str = ""  # the phase in which the start ended; empty if JAX is ready
    message: str = ""  # the error, the exit code and last output, or the stack
    seconds: dict[str, float] = field(default_factory=dict)  # phase that passed -> its seconds
    # Devices and settings of JAX, as `snapshot.live` returns them; empty if JAX is not ready.
    live: dict[str, Any] = field(default_factory=dict)
    stderr: list[str] = field(default_factory=list)  # the last lines of the process's stderr

    @property
    def line(self) -> str:
        """The result in one line."""
        done = ", ".join(f"{name} {took:.1f} s" for name, took in self.seconds.items())
        if self.how == READY:
            return f"JAX started: {done}"
        words = {FAILED: "failed", HANG: "hung", CRASH: "crashed"}[self.how]
        return f"JAX {words} in the phase '{self.phase}': {self.message}{f' (after {done})' if done else ''}"


def start(settings: Settings, tell: Callable[[str], None], environment: Mapping[str, str]) -> Started:
    """Start JAX on the platform and devices of `settings`; compile, run and reduce; each phase has a deadline.

    `tell` is called with the name of the current phase, several times a second.
    """
    started = Started()
    own = Settings(platform=settings.platform, devices=settings.devices)
    with Worker(f"{Phases.__module__}:Phases", own, variables=variables(environment, None), alone=True) as worker:
        limit = environment.get("SFTREF_START_SECONDS")
        phases = [(name, "run", (name,), float(limit or seconds)) for name, seconds in PHASES.items()]
        calls = [(PYTHON, "ready", (), START), *phases, (PYTHON, "live", (), START), (PYTHON, "leave", (), EXIT)]
        for phase, method, arguments, seconds in calls:
            began = time.monotonic()
            answer = worker.ask(method, *arguments, seconds=seconds, waiting=functools.partial(tell, phase))
            if isinstance(answer, NoAnswer) and (method, answer.code) != ("leave", 0):
                started.how = HANG if answer.silent else FAILED if answer.code is None else CRASH
                started.phase, started.message = phase, answer.how
                break
            if method == "run":
                started.seconds[phase] = round(time.monotonic() - began, 3)
            elif method == "live":
                started.live = answer
        started.stderr = list(worker.output)[-MOST_LINES:]
    return started
