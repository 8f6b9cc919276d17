"""The benchmarks under pytest: one test for each, and the verdict at the end.

This module is imported only with `--sftref-benchmark`, because it needs pytest-benchmark and starts JAX.
"""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from ..core.settings import Settings
from ..machine import snapshot
from .judging import stored_runs, verdict
from .judging.intervals import AMBIGUOUS, FAIL
from .measuring.bench import Bench, find_devices
from .measuring.kernels import kernels
from .measuring.rounds import measure
from .measuring.suite import suite
from .measuring.timing import WrongResultError
from .page import table, write

AUTOMATIC = "first"
UNDECIDED = 6  # beyond pytest's own exit codes: a benchmark is AMBIGUOUS
DEFAULT_STORAGE = "file://./.benchmarks"


class Speed:
    """The pytest plugin of a session that runs benchmarks."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        option = config.option
        devices = find_devices(settings)
        self.config, self.settings = config, settings
        self.results: list[verdict.Judged] = []
        self.out: Path | None = option.sftref_bench_out
        self.bench = Bench(devices, settings.timed, option.sftref_size, settings.seed)
        self.entries = {e.id: e for e in suite(self.bench, settings.level, option.sftref_time)}
        if not self.entries:
            stems = sorted({e.id.partition("[")[0] for e in suite(self.bench, "full")})
            words, known = ", ".join(option.sftref_time), ", ".join(stems)
            raise ValueError(f"--only = {words} matches no benchmark at level {settings.level}; there are: {known}")
        self.widest = max(map(len, self.entries))
        self.where = stored_runs.described(devices, self.bench.size)
        self.environment = snapshot.static() | snapshot.live(settings.devices)
        self.kernels = kernels(devices[0])
        if option.benchmark_storage == DEFAULT_STORAGE:
            option.benchmark_storage = f"file://{stored_runs.storage(self.where)}"
        cores, simulated = self.environment["machine"]["cores"], devices[0].platform == "cpu"
        self.processor = stored_runs.processor(cores) if simulated else ""
        every = stored_runs.load(Path(option.benchmark_storage.removeprefix("file://")))
        self.runs, self.others = stored_runs.comparable(every, self.processor)
        versions = self.environment["versions"]
        # The first runs are stored, to measure the scatter between runs, unless JAX has changed since.
        same = all(stored_runs.same_program(run, versions) for run in self.runs)
        first = len(self.runs) < stored_runs.ENOUGH and same
        saved = option.benchmark_save or option.benchmark_autosave
        self.automatic = first and not saved and not option.sftref_time
        if self.automatic:
            option.benchmark_save = AUTOMATIC
        least = {entry.id: entry.scatter for entry in self.entries.values()}
        count, recording = len(self.entries), bool(self.automatic or (first and saved))
        matters = option.sftref_matters
        self.judge = verdict.Judge(self.runs, versions, matters, count, least=least, recording=recording)
        # The times of all rounds are stored, so that a run can be analysed later.
        option.benchmark_save_data = True

    @pytest.fixture
    def speed(self, request: pytest.FixtureRequest, benchmark: Any) -> Callable[[], None]:
        """A function that times one benchmark, and fails if it is slower, wrong, or compiles to another program."""
        entry = self.entries[request.param]

        def timed() -> None:
            kernel = self.kernels[entry.kernel]
            try:
                judged = self.judge.judge(measure(entry, self.bench, kernel, self.settings.level, benchmark))
            except WrongResultError as error:
                judged = verdict.Judged(entry.id, verdict.WRONG, message=str(error))
            except Exception as error:
                self.results.append(verdict.Judged(entry.id, verdict.WRONG, message=f"{type(error).__name__}: {error}"))
                raise
            self.results.append(judged)
            if self.config.option.sftref_lines:
                print("\n".join(table([judged], self.widest)), flush=True)
            if judged.word in (FAIL, verdict.WRONG):
                pytest.fail(f"{judged.id}: {judged.word}: {judged.message}", pytrace=False)

        return timed

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test for each benchmark."""
        if "speed" in metafunc.fixturenames:
            metafunc.parametrize("speed", list(self.entries), indirect=True)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Do not store a slower or wrong run unless requested; write the report; set the exit code if AMBIGUOUS."""
        word = verdict.overall(self.results)
        if self.automatic and word in (FAIL, verdict.WRONG):
            self.config._benchmarksession.save = None  # type: ignore[attr-defined]
            self.automatic = False
        yield
        if self.out is not None:
            write(self.out, self.results, self.where, self.judge.matters, {"environment": self.environment})
        if self.config.option.sftref_lines:
            print(self._line(), flush=True)
        if session.exitstatus == pytest.ExitCode.OK and word == AMBIGUOUS:
            session.exitstatus = UNDECIDED

    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        """Add devices and versions to the stored run."""
        machine_info[stored_runs.KEY] = {"where": self.where, **self.environment}

    def pytest_benchmark_compare_machine_info(self, compared_benchmark: dict[str, Any]) -> None:
        """Refuse a stored run of other devices, with a UsageError."""
        try:
            words = str(self.config.option.benchmark_compare)
            stored_runs.check_device(compared_benchmark["machine_info"], self.where, words, self.processor)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the verdict on each benchmark, and on the run."""
        terminalreporter.section("speed")
        for text in [*table(self.results, self.widest), self._line()]:
            terminalreporter.write_line(text)

    def _line(self) -> str:
        kept = f"; {self.others}" if self.others else ""
        if self.automatic:
            kept += f"; stored as run {len(self.runs) + 1} of {stored_runs.ENOUGH} for comparison with later runs"
        if self.out is not None:
            kept += f"; report: {self.out / 'bench.html'}"
        return f"{verdict.line(self.results, self.where)}{kept}"
