"""Process 0's part of a run: the phases, one after the other, and what each says about hosts and links."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core.settings import Settings
from .hosts import NAMED, Host, differences, minority, numbers
from .jobs import Jobs
from .options import Cluster, slurm_hosts
from .speed.stragglers import stragglers
from .store import Store
from .tournament import Pair

# Seconds for rungs 0 to 5 on one host, by level; each check has its own deadline too.
ALONE = {"quick": 900.0, "standard": 2700.0, "full": 10800.0}
START = 900.0
# Seconds of timing on each host, by level.
TIMED = {"quick": 4.0, "standard": 20.0, "full": 60.0}
Say = Callable[[str, str], None]


class Director:
    """Runs the phases; afterwards its attributes have what was found.

    Args:
        cluster: the processes.
        settings: the settings of the run.
        store: what this process serves to the agents.
        say: prints a line: its state (good, bad, idle) and its text.
        progress: called several times a second, with a phase and the processes for which it waits.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        store: Store,
        say: Say,
        progress: Callable[[str, Sequence[int]], None],
    ) -> None:
        self.cluster, self.settings, self.store, self.say = cluster, settings, store, say
        self.hosts = [Host(process) for process in range(cluster.processes)]
        self.phase, self.seconds = "", dict[str, float]()
        self.only = settings.only  # what the user selected
        self.progress = progress
        self.jobs = Jobs(store, settings, lambda busy: progress(self.phase, busy))
        self.alone: dict[int, dict[str, Any]] = {}  # process -> the result of its job `alone`
        self.together: dict[int, dict[str, Any]] = {}  # process -> check -> its result
        self.collectives: dict[str, list[str]] = {}  # collective of all hosts -> what was wrong
        self.pairs: dict[Pair, tuple[str, float, str]] = {}  # pair -> its state, seconds, and what was wrong
        self.silences: dict[int, dict[str, Any]] = {}  # process -> its first hang, crash or error in a pair
        self.healed: list[Pair] = []  # pairs that passed when repeated
        self.bad_links: list[Pair] = []
        self.differences: list[dict[str, Any]] = []
        self.times: dict[str, dict[int, list[float]]] = {}
        self.stragglers: list[Any] = []

    def members(self) -> list[int]:
        """The processes that can take part in the next phase."""
        return [host.process for host in self.hosts if not host.out]

    def begin(self, phase: str) -> None:
        """The next phase begins."""
        self.phase, self._began = phase, time.monotonic()

    def end(self, text: str) -> None:
        """The phase ends: print its line, and the hosts that went wrong in it."""
        phase = self.phase
        self.seconds[phase] = round(time.monotonic() - self._began, 3)
        wrong = [host for host in self.hosts if host.states[phase] not in ("pass", "not_run")]
        state = "bad" if wrong else "good"
        self.say(state, f"{phase:<10} {text}, {self.seconds[phase]:.1f} s")
        for host in wrong[:NAMED]:
            self.say("", f"     {host.title}: {host.states[phase]}: {host.messages.get(phase, '')}".rstrip(": "))
        if len(wrong) > NAMED:
            self.say("", f"     and {len(wrong) - NAMED} more; see the report")

    def start(self) -> None:
        """Wait for the agents, start JAX on every host, and compare the hosts."""
        self.begin("start")
        self._await()
        here = [host.process for host in self.hosts if host.facts]
        for process, result in self.jobs.run("start", here, START).items():
            host = self.hosts[process]
            host.live = result.get("live", {})
            self._note(host, result)
        self.differences = differences(self.hosts)
        for found in self.differences:
            usual = found["values"][0]["value"]
            for process in minority(found) if found["level"] == "broken" else ():
                own = next(v["value"] for v in found["values"][1:] if process in numbers(v["processes"]))
                self.hosts[process].set("start", "different", f"{found['name']}: {own}; most others: {usual}")
        count = sum(len(host.live.get("devices", ())) for host in self.hosts)
        self.end(f"{len(here)} of {len(self.hosts)} processes, {count} devices")
        for found in self.differences[:NAMED]:
            values = "; ".join(f"{one['value']} (process {one['processes']})" for one in found["values"])
            self.say("idle", f"differs: {found['name']}: {values}")

    def _await(self) -> None:
        until = time.monotonic() + self.cluster.wait
        while True:
            missing = [host for host in self.hosts if not host.facts]
            for host in missing:
                hello = self.store.get(f"hello/{host.process}")
                if hello is not None:
                    host.name, host.facts = hello["host"], hello | {"offset": hello["time"] - time.time()}
            if not missing or time.monotonic() > until:
                break
            self.progress(self.phase, [host.process for host in missing])
            self.store.wait(0.1)
        names = slurm_hosts(os.environ, len(self.hosts)) if missing else []
        for host in missing:
            host.name = names[host.process] if names else ""
            host.set("start", "absent", f"it did not come within --wait {self.cluster.wait} s")

    def _note(self, host: Host, result: Mapping[str, Any]) -> None:
        """Note how a job ended on a host."""
        phase = self.phase
        state = "hang" if result["state"] == "stopped" else result["state"]
        host.set(phase, state, result.get("message", ""), result.get("stack", ()))
        host.seconds[phase] = host.seconds.get(phase, 0.0) + result.get("seconds", 0.0)

    def run_alone(self, settings: Settings) -> None:
        """Rungs 0 to 5 on each host, all hosts at the same time."""
        self.begin("alone")
        self.jobs.settings = settings
        members = self.members()
        results = self.jobs.run("alone", members, ALONE[settings.level]) if settings.only else {}
        self.jobs.settings = self.settings
        for process, result in results.items():
            host = self.hosts[process]
            self._note(host, result)
            checks = result.get("checks", {})
            statuses = {check: "pass" if isinstance(one, list) else one["status"] for check, one in checks.items()}
            self.alone[process] = result
            host.checks["alone"] = counted(statuses)
            for state, kinds in (("hang", ("hang",)), ("crash", ("crash",)), ("fail", ("fail", "error"))):
                names = [check for check, status in statuses.items() if status in kinds]
                if names:
                    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                    host.set("alone", state, f"{names[0]}{more}: {checks[names[0]]['message']}"[:400])
            if result.get("setup") or result.get("troubles"):
                host.set("alone", "error", result.get("setup") or "; ".join(result["troubles"]))
        passed = sum(host.states["alone"] == "pass" for host in self.hosts)
        most = max((len(result.get("checks", ())) for result in results.values()), default=0)
        self._measure()
        slow = f", {len(self.stragglers)} slow" if self.stragglers else ""
        self.end(f"{passed} of {len(members)} hosts passed, up to {most} checks each{slow}")

    def _measure(self) -> None:
        """Time the same work on all hosts at the same time, and name those that are slower than the others."""
        seconds = TIMED[self.settings.level]
        states = ("pass", "fail", "not_run")
        members = [process for process in self.members() if self.hosts[process].states["alone"] in states]
        results = self.jobs.run("measure", members, seconds + START, only=members, duration=seconds)
        for process, result in results.items():
            self._note(self.hosts[process], result)
            for name, times in result.get("times", {}).items():
                self.times.setdefault(name, {})[process] = times
        kinds = {host.process: host.kind for host in self.hosts}
        self.stragglers = stragglers(self.times, kinds)
        for one in self.stragglers:
            words = f"{one.what} takes {one.ratio:.2f} times as long as on the others ({one.low:.2f} to {one.high:.2f})"
            self.hosts[one.process].set("alone", "slow", words)


def counted(statuses: Mapping[str, str]) -> dict[str, Any]:
    """Check -> status, as counts by status and the ids of failed checks."""
    counts: dict[str, Any] = {}
    for status in statuses.values():
        counts[status] = counts.get(status, 0) + 1
    failed = [check for check, status in statuses.items() if status in ("fail", "error", "hang", "crash")]
    return counts | ({"failed": failed[:NAMED]} if failed else {})
