"""A pytest session -> its results; the ladder and the verdict in its summary, the reports, and the verdict's exit code.

It also measures how long each check spends on compilation. In a child process of `verify` it makes no summary, but
writes the results to a stream of events, which the scheduler reads.
"""

import datetime
import faulthandler
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from ..core import deviations as known
from ..core.law import laws
from ..core.result import Result
from ..core.settings import Settings
from ..judge.outcome import Outcome
from ..judge.verdict import judge
from ..laws.support.compilation import COMPILING
from ..machine import snapshot
from ..report import write
from ..report.terminal import ladder
from ..workers.serve import Stream

# The name of the property of pytest's reports that has the result of a check.
PROPERTY = "sftref"


def results_of(report: pytest.TestReport) -> list[dict[str, Any]]:
    """The results in a report of pytest, as `Result.to_json` returns them."""
    return [value for name, value in report.user_properties if name == PROPERTY and isinstance(value, dict)]


class Summary:
    """The results of a session and their summary; under xdist a worker and the controlling session each have one.

    Attributes:
        outcome: the results so far.
        failed: (rung, trainer or None) of each failure, in this session or before.

    Raises:
        ValueError: the file of deviations cannot be used.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        option = config.option
        file: Path | None = option.sftref_deviations
        self.outcome = Outcome(settings=settings, expected=[], deviations=known.load(file) if file else [])
        before = [word.partition(":") for word in (option.sftref_failed or "").split(",") if word]
        self.failed = {(int(rung), subject or None) for rung, _, subject in before}
        self.stream = None if option.sftref_stream is None else Stream(option.sftref_stream)
        self.under_xdist = hasattr(config, "workerinput")
        # Only `verify` passes this option; it makes the summary itself.
        self.in_child = option.sftref_failed is not None
        self.out: Path | None = option.sftref_out
        self.today = datetime.datetime.now(datetime.UTC).date()
        self.machine: dict[str, Any] = {}
        self.environment_sent = False
        self.has_checks = False
        self.compiled = 0.0
        self.began = time.monotonic()
        self.problem = ""
        if self.in_child:
            # If a check misses its deadline, the scheduler requests the stacks of this process before it ends it.
            faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)

    def tell(self, event: dict[str, Any]) -> None:
        """Append one event to the stream."""
        if self.stream is not None:
            self.stream.tell(event)

    def expect(self, ids: list[str]) -> None:
        """Note that this session has checks of the kit, and that those with these `ids` will run."""
        self.has_checks = True
        self.outcome.expected += ids
        if ids:
            import jax

            jax.monitoring.register_event_duration_secs_listener(self._count)

    def _count(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILING:
            self.compiled += duration_secs

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Reset the time of compilation before fixtures run: their programs count for the check that uses them."""
        self.compiled = 0.0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """Note how long the programs of the check compiled."""
        try:
            return (yield)
        finally:
            check = pyfuncitem.funcargs.get("check")
            if hasattr(check, "facts") and self.compiled > 0:
                check.facts["compile_seconds"] = round(self.compiled, 3)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Report a failure that a deviation accepts as an expected failure (xfail)."""
        report = yield
        deviations = self.outcome.deviations
        for value in results_of(report) if deviations else ():
            platforms = self._read_machine().get("platforms", [])
            record = known.accepted(deviations, Result.from_json(value), platforms, self.today)
            if record.status == "deviation" and value["status"] != "deviation":
                value.update(record.to_json())
                report.outcome, report.wasxfail = "skipped", record.message
        return report

    def _read_machine(self) -> dict[str, Any]:
        """JAX's devices and settings; empty before JAX is imported."""
        if not self.machine and "jax" in sys.modules:
            try:
                self.machine = snapshot.live(self.outcome.settings.devices)
            except Exception as error:  # laws report a backend that does not start
                self.machine = {"platforms": [], "devices": [], "unknown": f"{type(error).__name__}: {error}"[:300]}
        return self.machine

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Store the result of a check that ended; after the first one that passed, JAX can describe the machine."""
        for value in results_of(report):
            if value["id"] in self.outcome.records:
                continue
            self.outcome.records[value["id"]] = record = Result.from_json(value)
            if record.status in ("fail", "error") and laws()[record.law].blocks:
                self.failed.add((record.rung, record.subject))
            if not self.under_xdist:
                self.tell({"event": "result", **value})
            if self.in_child and record.status == "pass" and not self.environment_sent:
                self.environment_sent = True
                self.tell({"event": "environment", **self._read_machine()})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Report a file that cannot be imported to the scheduler."""
        if report.failed:
            lines = str(report.longrepr).strip().splitlines()
            errors = [line[1:].strip() for line in lines if line.startswith("E ")]
            file = Path(report.nodeid).name
            self.tell({"event": "trouble", "file": file, "message": f"{file}: {(errors or lines)[-1][:300]}"})

    def pytest_internalerror(self, excrepr: object) -> None:
        """Report the error that ended the session to the scheduler."""
        self.tell({"event": "trouble", "file": "", "message": str(excrepr).strip().splitlines()[-1][:300]})

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Judge the results; a session that did not verify everything does not exit with 0."""
        outcome = self.outcome
        if self.in_child or self.under_xdist or not (self.has_checks or outcome.records):
            return
        outcome.expected += [check for check in outcome.records if check not in outcome.expected]
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            outcome.interrupted = int(exitstatus)
        outcome.fill("interrupted" if outcome.interrupted else "never run")
        outcome.seconds = time.monotonic() - self.began
        outcome.environment = snapshot.static() | (self._read_machine() if outcome.of_status("pass") else {})
        verdict = judge(outcome)
        if exitstatus == pytest.ExitCode.OK:
            session.exitstatus = verdict.exit_code
        if self.out is not None:
            try:
                write(self.out, outcome, verdict)
            except OSError as error:
                self.problem = f"--sftref-out {self.out}: cannot be written ({error.strerror or error})"
                session.exitstatus = session.exitstatus or 2

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the ladder and the verdict."""
        if self.in_child or not (self.has_checks or self.outcome.records):
            return
        terminalreporter.section("conformance")
        for line in ladder(self.outcome):
            terminalreporter.line(line)
        terminalreporter.line(judge(self.outcome).line)
        if self.problem:
            terminalreporter.line(self.problem, red=True)
        elif self.out is not None:
            terminalreporter.line(f"report: {self.out / 'report.html'}")
