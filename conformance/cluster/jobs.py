"""Jobs that process 0 gives to the agents, and their results, however they end."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..core.settings import Settings
from .agent import SLOWEST
from .link import LOST
from .store import Store

# Seconds after a member of a group has failed, in which the others may end by themselves: they wait for it.
GRACE = 20.0
# Seconds that an agent has to end a job, beyond the deadline of its children on the busiest host.
SLACK = 30.0
POLL = 0.2
FAILED = ("hang", "crash", "error", "lost", "stopped")


class Jobs:
    """Publishes jobs in a store, and gathers their results.

    Args:
        store: what process 0 serves.
        settings: those of the run, which go with each job.
        progress: called several times a second, with the processes that have not ended their job.
    """

    def __init__(self, store: Store, settings: Settings, progress: Callable[[Sequence[int]], None]) -> None:
        self.store, self.settings, self.progress = store, settings, progress
        self.number = -1

    def publish(self, do: str, **values: Any) -> None:
        """Publish the next job."""
        self.number += 1
        self.store.put({f"job/{self.number}": {"do": do, "settings": asdict(self.settings), **values}})

    def run(
        self, do: str, members: Collection[int], deadline: float, groups: Sequence[Sequence[int]] = (), **values: Any
    ) -> dict[int, dict[str, Any]]:
        """Give a job to all agents, and wait for the results of `members`.

        Args:
            do: what the agent does: the name of a method, without its underscore.
            members: processes.
            deadline: seconds for the children of an agent.
            groups: the members that wait for each other; if one fails, the others are stopped after `GRACE`.
            values: further values of the job.

        Returns:
            Process -> its result, whose `state` is `lost` for an agent without a sign of life, and `stopped` for one
            that did not fail itself.
        """
        self.publish(do, deadline=deadline, groups=[list(group) for group in groups], **values)
        longest = deadline * SLOWEST + SLACK
        until = time.monotonic() + longest
        failing: dict[
            int, float
        ] = {}  # first member of a group -> when one of its members was first seen to have failed
        results: dict[int, dict[str, Any]] = {}
        while len(results) < len(members):
            now = time.monotonic()
            busy = [process for process in members if process not in results]
            for process in busy:
                result = self._result(process)
                if result.get("done"):
                    results[process] = result
                elif left := self.store.get(f"left/{process}"):
                    results[process] = result | {"state": "lost", "message": left}
                elif now - self.store.seen.get(process, 0.0) > LOST:
                    message = f"no sign of life for {LOST:g} s: the process, its host or its network is down"
                    results[process] = result | {"state": "lost", "message": message}
                elif now > until:
                    message = f"its agent did not end the job within {longest:g} s"
                    results[process] = result | {"state": "hang", "message": message}
            for group in groups:
                failed = any(results.get(process, {}).get("state") in FAILED for process in group)
                if failed and now - failing.setdefault(group[0], now) > GRACE:
                    self.store.put({f"stop/{self.number}/{process}": True for process in group if process in busy})
            self.progress(busy)
            self.store.wait(POLL)
        return {process: self._result(process) | results[process] for process in members}

    def _result(self, process: int) -> dict[str, Any]:
        return dict(self.store.get(f"result/{self.number}/{process}") or {})

    def end(self, members: Collection[int], words: Mapping[str, Any], seconds: float = 20.0) -> None:
        """End the run: stop the present job, and wait until all agents have left, at most `seconds`."""
        self.store.put({f"stop/{self.number}/{process}": True for process in members})
        self.publish("end", **words)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not all(self.store.get(f"left/{process}") for process in members):
            self.store.wait(POLL)
