"""One process of `sftref verify --distributed` from its start to its end; process 0 prints and writes."""

import dataclasses
import datetime
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from .. import report
from ..core import output
from ..core.deviations import Deviation, accepted
from ..core.kit import PACKAGE
from ..core.law import split_id
from ..core.settings import Settings
from ..judge.outcome import Outcome
from ..judge.verdict import judge
from ..machine import snapshot
from ..report.terminal import STYLES, Screen
from ..workers.channel import Worker
from .agent import Agent
from .director import Director
from .options import Cluster
from .outcome import TOP_ALONE, outcome_of
from .pairs import run_pairs
from .store import Gone, Server, Store
from .together import run_together

# The exit code of a process that lost process 0; the verdict UNRESPONSIVE has the same code.
LOST = 3
# The number of simulated devices of all processes together; with more processes, each has one.
SIMULATED = 4
# Seconds between two lines that say what is running.
EVERY = 10.0


class Lines(Screen):
    """The screen of process 0."""

    def note(self, state: str, text: str) -> None:
        """Print a line with the glyph of a state (good, bad, idle); without a state, the line as it is."""
        self._print(f"{self.glyphs[state]:<2} {text}" if state else text, STYLES.get(state))


def run(cluster: Cluster, settings: Settings, known: list[Deviation], out: Path) -> int:
    """Take part in a run; returns the exit code. `known` are the failures to accept.

    Raises:
        ValueError: the port of the coordinator cannot be used, or the report cannot be written.
    """
    if cluster.process != 0:
        return follow(cluster, out)
    with output.prepared(out):
        return lead(cluster, settings, known, out)


def follow(cluster: Cluster, out: Path) -> int:
    """What each process does except process 0."""
    signal.signal(signal.SIGTERM, _end)
    agent = Agent(cluster, out)
    try:
        last = agent.run()
    except (KeyboardInterrupt, SystemExit) as stop:
        how = "Ctrl-C" if isinstance(stop, KeyboardInterrupt) else "SIGTERM"
        agent.leave(f"it was ended by {how}")
        raise
    except Gone as error:
        where = f"{cluster.coordinator}: {error}"
        print(f"sftref: process {cluster.process}: process 0 is lost: {where}", file=sys.stderr, flush=True)
        return LOST
    print(f"process {cluster.process}: {last['line']}", flush=True)
    return 0


def lead(cluster: Cluster, settings: Settings, known: list[Deviation], out: Path) -> int:
    """What process 0 does: it serves the store, gives the jobs, judges and writes."""
    began, store = time.monotonic(), Store()
    store.put({"run": {"processes": cluster.processes}})
    try:
        server = Server(store, cluster.port)
    except OSError as error:
        words = f"--coordinator {cluster.coordinator}: this host cannot serve port {cluster.port}: {error.strerror}"
        raise ValueError(f"{words}; choose another port, or end the run that uses it") from error
    signal.signal(signal.SIGTERM, _end)
    screen = Lines(settings, {})
    director = Director(cluster, on_devices(settings, cluster), store, screen.note, Waits())
    line = "process 0 failed"
    with Worker(f"{PACKAGE}.cluster.agent:Agent", cluster, out, dict(os.environ), alone=True) as own:
        own.send("run")
        try:
            interrupted = phases(director, settings)
            if interrupted is not None:
                own.close()
                store.put({f"left/{cluster.process}": "it was ended"})
            outcome = outcome_of(director, settings, time.monotonic() - began)
            outcome.interrupted, outcome.deviations = interrupted, known
            accept(outcome)
            verdict = judge(outcome)
            line = verdict.line
            show(screen, outcome)
            report.write(out, outcome, verdict)
            screen.verdict(verdict, f"; report: {out / 'report.html'}")
        finally:
            here = [host.process for host in director.hosts if host.facts and host.state != "lost"]
            director.jobs.end(here, {"line": line})
            server.close()
    return verdict.exit_code


def phases(director: Director, settings: Settings) -> int | None:
    """Run all phases; returns the exit code of a signal that interrupted them."""
    try:
        director.start()
        director.run_alone(dataclasses.replace(director.settings, only=lower(settings)))
        run_pairs(director, director.cluster.pairs)
        run_together(director)
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return int(stop.code or 1)
    return None


def accept(outcome: Outcome) -> None:
    """Mark the results that are known failures."""
    today = datetime.datetime.now(datetime.UTC).date()
    for check, record in outcome.records.items():
        outcome.records[check] = accepted(outcome.deviations, record, outcome.platforms, today)


def show(screen: Lines, outcome: Outcome) -> None:
    """Print the ladder, and the option that leaves bad hosts out."""
    for group in outcome.groups():
        screen.rung(group)
    if outcome.cluster and outcome.cluster["exclude"]:
        screen.note("bad", f"without the bad hosts: {outcome.cluster['exclude']}")


def lower(settings: Settings) -> tuple[str, ...]:
    """The checks that each host runs alone: of those that the user selected, or all, those of rungs 0 to 5."""
    return tuple(check for check in settings.checks() if split_id(check)[0].rung <= TOP_ALONE)


def on_devices(settings: Settings, cluster: Cluster) -> Settings:
    """The settings of each process: with a CPU only, few simulated devices, since processes may share its cores.

    No host seeds faults or tries other settings: `verify` on one host does that.
    """
    settings = dataclasses.replace(settings, self_test=False, remedies=False)
    if settings.devices is None and snapshot.foreseen(settings.platform) == ["cpu"]:
        return dataclasses.replace(settings, devices=max(1, SIMULATED // cluster.processes))
    return settings


class Waits:
    """Prints to stderr, every ten seconds, for which processes a phase waits."""

    def __init__(self) -> None:
        self.began = self.printed = time.monotonic()

    def __call__(self, phase: str, busy: Sequence[int]) -> None:
        """Called several times a second."""
        now = time.monotonic()
        if now - self.printed > EVERY:
            self.printed = now
            which = ", ".join(map(str, busy[:8])) + (" ..." if len(busy) > 8 else "")
            print(f"   {now - self.began:.0f} s: {phase}; waiting for process {which}", file=sys.stderr, flush=True)


def _end(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
