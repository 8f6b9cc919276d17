"""A pytest session -> the ladder and the verdict in its summary, the reports, and the verdict's exit code.

It also measures how long each check compiled. In a child process of `verify` it does only that.
"""

import datetime
import faulthandler
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from ..core import deviations as known
from ..core.result import Result
from ..core.settings import Settings
from ..judge.outcome import Outcome
from ..judge.verdict import judge
from ..laws.support.compilation import COMPILING
from ..machine import snapshot
from ..report import write
from ..report.terminal import ladder
from .session import SessionResults, results_of


def add_options(add: Callable[..., None]) -> None:
    """Add the options of the summary."""
    add("--sftref-out", type=Path, metavar="DIR", help="write report.json, .html, .md and junit.xml there")
    add("--sftref-deviations", type=Path, metavar="FILE", help="a TOML file of known failures to accept")


class Summary:
    """The summary of a session.

    Args:
        config: pytest's.
        settings: of the run.
        run: the session's results and stream.

    Raises:
        known.DeviationsError: the file of deviations cannot be used.
    """

    def __init__(self, config: pytest.Config, settings: Settings, run: SessionResults) -> None:
        file: Path | None = config.option.sftref_deviations
        self.settings, self.run = settings, run
        # `verify` passes the failed rungs, and makes the summary itself.
        self.in_child = config.option.sftref_failed is not None
        self.out: Path | None = config.option.sftref_out
        self.deviations = known.load(file) if file else []
        self.today = datetime.datetime.now(datetime.UTC).date()
        self.outcome = Outcome(settings=settings, expected=[], deviations=self.deviations)
        self.machine: dict[str, Any] = {}
        self.environment_sent = False
        self.has_checks = False
        self.listens = False
        self.compiled = 0.0
        self.began = time.monotonic()
        self.problem = ""
        if self.in_child:
            # The scheduler requests the stacks before it ends this process for a check over its deadline.
            faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)

    def expect(self, ids: list[str]) -> None:
        """Note that this session has checks of the kit, and that `ids` of them will run."""
        self.has_checks = True
        self.outcome.expected += ids
        if ids and not self.listens:
            import jax

            self.listens = True
            jax.monitoring.register_event_duration_secs_listener(self._count)

    def _count(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILING:
            self.compiled += duration_secs

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Reset the time: programs of fixtures count for the check that uses them."""
        self.compiled = 0.0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """Note how long the check compiled."""
        try:
            return (yield)
        finally:
            check = pyfuncitem.funcargs.get("check")
            if hasattr(check, "facts") and self.compiled > 0:
                check.facts["compile_seconds"] = round(self.compiled, 3)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turn a known failure into an expected one."""
        report = yield
        for value in results_of(report) if self.deviations else ():
            platforms = self._read_machine().get("platforms", [])
            record = known.accepted(self.deviations, Result.from_json(value), platforms, self.today)
            if record.status == "deviation" and value["status"] != "deviation":
                value.update(record.to_json())
                report.outcome, report.wasxfail = "skipped", record.message
        return report

    def _read_machine(self) -> dict[str, Any]:
        """JAX's devices and settings; empty before JAX is imported."""
        if not self.machine and "jax" in sys.modules:
            try:
                self.machine = snapshot.live(self.settings.devices)
            except Exception as error:  # laws report a backend that does not start
                self.machine = {"platforms": [], "devices": [], "unknown": f"{type(error).__name__}: {error}"[:300]}
        return self.machine

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Send the machine's description to the scheduler after the first check that passed, since JAX works then."""
        passed = any(value["status"] == "pass" for value in results_of(report))
        if self.in_child and passed and not self.environment_sent:
            self.environment_sent = True
            self.run.tell({"event": "environment", **self._read_machine()})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Report a file that cannot be imported to the scheduler."""
        if report.failed:
            lines = str(report.longrepr).strip().splitlines()
            errors = [line[1:].strip() for line in lines if line.startswith("E ")]
            file, reason = Path(report.nodeid).name, (errors or lines)[-1]
            self.run.tell({"event": "trouble", "file": file, "message": f"{file}: {reason[:300]}"})

    def pytest_internalerror(self, excrepr: object) -> None:
        """Report the error that ended the session to the scheduler."""
        self.run.tell({"event": "trouble", "file": "", "message": str(excrepr).strip().splitlines()[-1][:300]})

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Judge the results; a session that did not verify everything does not exit with 0."""
        if self.in_child or hasattr(session.config, "workerinput") or not (self.has_checks or self.run.records):
            return
        outcome = self.outcome
        outcome.records = {record.id: record for record in self.run.records}
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
        if not self.outcome.records and not self.has_checks:
            return
        terminalreporter.section("conformance")
        for line in ladder(self.outcome):
            terminalreporter.line(line)
        terminalreporter.line(judge(self.outcome).line)
        if self.problem:
            terminalreporter.line(self.problem, red=True)
        elif self.out is not None:
            terminalreporter.line(f"report: {self.out / 'report.html'}")
