"""A pytest session -> the ladder and the verdict in its summary, the reports, an exit code that tells the truth.

And, on each check, how long it compiled. In a process that the runner started only the measuring is left.
"""

from __future__ import annotations

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
from ..core.settings import Settings, device_limit
from ..judge.outcome import Outcome
from ..judge.verdict import judge
from ..laws.support.compilation import COMPILING
from ..machine import snapshot
from ..report import write
from ..report.terminal import ladder
from .session import Run


def add_options(add: Callable[..., None]) -> None:
    """The options of the summary."""
    add(
        "--sftref-out", type=Path, default=None, metavar="DIR", help="write report.json, .html, .md and junit.xml there"
    )
    add("--sftref-deviations", type=Path, default=None, metavar="FILE", help="a TOML file of known deviations")


class Summary:
    """Watches a session, and sums it up.

    Args:
        config: pytest's.
        settings: the run's.
        run: the records of the session, and the stream to which it tells.

    Raises:
        known.DeviationsError: the file of deviations cannot be used.
    """

    def __init__(self, config: pytest.Config, settings: Settings, run: Run) -> None:
        file: Path | None = config.option.sftref_deviations
        self.settings, self.run = settings, run
        # The runner, which says what failed before, sums up itself.
        self.in_child = config.option.sftref_failed is not None
        self.out: Path | None = config.option.sftref_out
        self.deviations = known.load(file) if file else []
        self.today = datetime.datetime.now(datetime.UTC).date()
        self.outcome = Outcome(settings=settings, expected=[], deviations=self.deviations)
        self.live: dict[str, Any] = {}
        self.told = False
        self.held = False
        self.compiled = 0.0
        self.listens = False
        self.began = time.monotonic()
        self.problem = ""
        if self.in_child:
            # Asked by the runner before it ends this process for a check over its deadline.
            faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)

    def held_checks(self, ids: list[str]) -> None:
        """This session holds checks of ours, those of `ids` among them to be asked."""
        self.held = True
        self.outcome.expected += ids
        if ids and not self.listens:
            self._listen()

    def _listen(self) -> None:
        import jax

        def heard(event: str, duration_secs: float, **_: str | int) -> None:
            if event == COMPILING:
                self.compiled += duration_secs

        self.listens = True
        jax.monitoring.register_event_duration_secs_listener(heard)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Begin to count: what fixtures compile belongs to the check that asked for them."""
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
        """Turn a failure that is a known deviation into an expected one."""
        report = yield
        for name, value in report.user_properties:
            if name == "sftref" and isinstance(value, dict) and self.deviations:
                record = known.accepted(self.deviations, Result.from_json(value), self._platforms(), self.today)
                if record.status == "deviation" and value["status"] != "deviation":
                    value.update(record.to_json())
                    report.outcome, report.wasxfail = "skipped", record.message
        return report

    def _platforms(self) -> list[str]:
        return self._ask_jax().get("platforms", [])

    def _ask_jax(self) -> dict[str, Any]:
        if not self.live and "jax" in sys.modules:
            try:
                self.live = snapshot.live(device_limit(self.settings))
            except Exception as error:  # a backend that does not start is the laws' to report
                self.live = {"platforms": [], "devices": [], "unknown": f"{type(error).__name__}: {error}"[:300]}
        return self.live

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell the runner about this machine, once a check has passed and JAX is known to answer."""
        passed = any(n == "sftref" and isinstance(v, dict) and v["status"] == "pass" for n, v in report.user_properties)
        if self.in_child and passed and not self.told:
            self.told = True
            self.run.tell({"event": "environment", **self._ask_jax()})

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
        """Sum up; a session that verified nothing, or not all, does not end as if it had."""
        if self.in_child or hasattr(session.config, "workerinput") or not (self.held or self.run.records):
            return
        outcome = self.outcome
        outcome.records = {record.id: record for record in self.run.records}
        outcome.expected += [check for check in outcome.records if check not in outcome.expected]
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            outcome.interrupted = int(exitstatus)
        outcome.fill("interrupted" if outcome.interrupted else "never asked")
        outcome.seconds = time.monotonic() - self.began
        outcome.environment = snapshot.static() | (self._ask_jax() if outcome.of_status("pass") else {})
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
        if not self.outcome.records and not self.held:
            return
        terminalreporter.section("conformance")
        for line in ladder(self.outcome):
            terminalreporter.line(line)
        terminalreporter.line(judge(self.outcome).line)
        if self.problem:
            terminalreporter.line(self.problem, red=True)
        elif self.out is not None:
            terminalreporter.line(f"report: {self.out / 'report.html'}")
