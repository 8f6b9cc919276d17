"""An agent's link to process 0: requests that are repeated until they are answered, and signs of life meanwhile."""

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

from .store import Client, Gone

# Seconds between two signs of life, and seconds without any after which process 0 and its agents give each other up.
BEAT, LOST = 1.0, 45.0
# Seconds in which the host of process 0 may answer that no process listens, before an agent takes process 0 for dead.
REFUSED = 5.0
# Seconds between two attempts.
PAUSE = 0.2


class Stop(Exception):  # noqa: N818 - as `signals.Stopped`
    """Process 0 ends a job: another member of the group failed."""


class Link:
    """The link of one agent; `job` is the number of its present job.

    A thread sends the signs of life, since the agent itself may be busy for seconds on a host without free cores.
    """

    def __init__(self, client: Client) -> None:
        self.client, self.job = client, -1
        self.gone: Gone | None = None  # process 0 is lost
        self.stopped = -1  # the last job that process 0 ended
        self._silent: float | None = None  # since when process 0 gives no answer
        self._refused: float | None = None  # since when its host refuses connections

    def beat(self) -> None:
        """Send signs of life from now on, in a thread."""
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while self.gone is None:
            with contextlib.suppress(Gone):
                if self._once({}, f"stop/{self.job}/{self.client.process}", 0.0):
                    self.stopped = self.job
            time.sleep(BEAT)

    def ask(self, put: Mapping[str, Any] | None = None, get: str = "", hold: float = 0.0) -> Any:
        """A request that is repeated until process 0 answers.

        Raises:
            Gone: process 0 is lost.
        """
        while True:
            try:
                return self._once(put or {}, get, hold)
            except Gone:
                if self.gone is not None:
                    raise self.gone from None
                time.sleep(PAUSE)

    def check(self, *_: object) -> None:
        """Raise a `Stop` if process 0 ended this job, or a `Gone` if it is lost; called often while a child works."""
        if self.gone is not None:
            raise self.gone
        if self.stopped == self.job:
            raise Stop

    def _once(self, put: Mapping[str, Any], get: str, hold: float) -> Any:
        try:
            answer = self.client.request(put, get, hold)
        except Gone as error:
            now = time.monotonic()
            self._silent = self._silent or now
            self._refused = (self._refused or now) if error.refused else None
            if now - self._silent > LOST or (self._refused and now - self._refused > REFUSED):
                words = f"no answer for {now - self._silent:.0f} s ({error})"
                self.gone = Gone(words, refused=error.refused)
            raise
        self._silent = self._refused = None
        return answer
