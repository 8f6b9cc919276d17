"""A process that runs checks, as the scheduler sees it: the check that runs now, its deadline, and the results.

It is a session of its own, so that ending it ends what it started, and it does not outlive its parent.
"""

from __future__ import annotations

import functools
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.result import MISMATCH
from .channel import Process
from .serve import END_OF_CHECK, tie

# Seconds in which a process must reach its first check, go from one check to the next, and end after the last.
START, BETWEEN, EXIT = 180.0, 180.0, 60.0


class Child(Process):
    """A running process, which has `left` checks to run.

    Attributes:
        running: the id of the check that runs now, or None.
        answered: how many checks have ended.
        since: when the present check, or the pause between two checks, began.
        deadline: the seconds that it may take.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], left: int) -> None:
        self.running: str | None = None
        self.answered, self.left = 0, left
        self.since, self.deadline = time.monotonic(), START
        self._mismatch, self._mismatches = "", dict[str, str]()
        # `preexec_fn` is safe here: the scheduler has one thread.
        tied = functools.partial(tie, os.getpid())
        super().__init__(command, variables, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=tied)

    def _hear(self, line: bytes) -> None:
        if line.startswith(END_OF_CHECK):
            check = line.removeprefix(END_OF_CHECK).decode()
            self._mismatches[check], self._mismatch = self._mismatch, ""
            return
        super()._hear(line)
        if MISMATCH in self.output[-1]:
            self._mismatch = self.output[-1]

    def _follow(self, event: dict[str, Any]) -> None:
        if event["event"] == "start":
            self.running, self.deadline, self.since = event["id"], event["deadline"], time.monotonic()
        elif event["event"] == "result":
            event["mismatch"] = self._mismatches.pop(event["id"], "")
            self.answered, self.left = self.answered + 1, self.left - 1
            self.running, self.since = None, time.monotonic()
            self.deadline = BETWEEN if self.left > 0 else EXIT

    def overdue(self) -> bool:
        """Whether the present check, or the pause between two checks, has taken longer than its deadline."""
        return time.monotonic() - self.since > self.deadline
