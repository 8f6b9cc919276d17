"""pytest's side of the kit: options, the fixtures that laws ask for, and one record for each check.

It does not import JAX before a law is collected: as an installed plugin it loads in every pytest run of its
environment.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from ..adapter import AdapterError, TrainerUnderTest, load_adapter
from ..benchmarks import options as speed
from ..core.check import Blocked, Check
from ..core.law import LEVELS, Law, blocked_by, check_id, laws, selects
from ..core.result import Result
from ..core.settings import Settings, start_jax
from ..laws.support import call as law_call
from .session import Run
from .summary import Summary, add_options

SETTINGS = pytest.StashKey[Settings]()
RUN = pytest.StashKey[Run]()
SUMMARY = pytest.StashKey[Summary]()
CHECK = pytest.StashKey[Check]()
CHECK_ID = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The kit's options, all under one name so that none meets another plugin's."""
    group = parser.getgroup("sftref", "conformance of distributed training")
    add = group.addoption
    add("--sftref-level", default="standard", choices=LEVELS, help="how much is asked (default: standard)")
    add("--sftref-adapter", action="append", default=[], metavar="MODULE:FACTORY", help="a trainer under test")
    add("--sftref-against", default=Settings.against, metavar="MODULE:FACTORY", help="the trainer to compare with")
    add("--sftref-platform", default=None, help="cpu, gpu, rocm, cuda or tpu: where arrays must live")
    add("--sftref-devices", type=int, default=None, metavar="N", help="at most N devices (CPU: simulate N)")
    add("--sftref-expect", default=None, metavar="PLATFORM[:COUNT[:KIND]]", help="the devices that must be here")
    add("--sftref-only", action="append", default=[], metavar="ID", help="an id, the start of one, or a rung")
    add("--sftref-seed", type=int, default=0, metavar="S", help="of every value drawn (default: 0)")
    add("--sftref-processes", type=int, metavar="N", help="at most N processes on rung 9")
    add("--sftref-stream", type=Path, default=None, metavar="FILE", help="append each check's record as JSON")
    add("--sftref-failed", default=None, help="rungs that failed before, as the runner passes them: 2,6:mesh")
    add_options(add)
    speed.add_options(add)


def pytest_configure(config: pytest.Config) -> None:
    """Validate the options once.

    Raises:
        pytest.UsageError: naming the option.
    """
    config.addinivalue_line("markers", "law(id): the requirement of laws.toml that a check asks")
    option = config.option
    try:
        settings = Settings(
            level=option.sftref_level,
            adapters=tuple(option.sftref_adapter) or Settings.adapters,
            against=option.sftref_against,
            platform=option.sftref_platform,
            devices=option.sftref_devices,
            expect=option.sftref_expect,
            only=tuple(option.sftref_only),
            seed=option.sftref_seed,
            processes=option.sftref_processes,
        )
        if option.sftref_adapter or option.sftref_against != Settings.against:
            # Found from where pytest was called, like the files that it is given.
            sys.path.append(str(config.invocation_params.dir))
            start_jax(settings)
            settings.check_adapters()
        config.stash[RUN] = run = Run(option.sftref_stream, option.sftref_failed)
        config.stash[SUMMARY] = Summary(config, settings, run)
        if option.sftref_benchmark:
            speed.configure(config, settings)
    except (ValueError, AdapterError) as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SETTINGS] = settings
    config.pluginmanager.register(Keeper(run, tells=not hasattr(config, "workerinput")), "sftref-keeper")
    config.pluginmanager.register(config.stash[SUMMARY], "sftref-summary")


def _law_of(item: pytest.Item) -> Law | None:
    mark = item.get_closest_marker("law")
    return laws()[mark.args[0]] if mark else None


def _subject_of(item: pytest.Item) -> str | None:
    spec = getattr(item, "callspec", None)
    return spec.params.get("subject") if spec else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask each law that names a subject of every trainer under test."""
    if "subject" in metafunc.fixturenames and metafunc.definition.get_closest_marker("law"):
        names = list(metafunc.config.stash[SETTINGS].subjects)
        metafunc.parametrize("subject", names, indirect=True, ids=names, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the checks that the level and `--sftref-only` ask for, from the lowest rung up, and start JAX."""
    settings = config.stash[SETTINGS]
    ours: list[tuple[Law, pytest.Item]] = []
    others, dropped = [], []
    for item in items:
        law = _law_of(item)
        if law is None:
            others.append(item)
            continue
        item.stash[CHECK_ID] = check_id(law.id, _subject_of(item))
        if not law.runs_at(settings.level, settings.processes) or not selects(settings.only, item.stash[CHECK_ID]):
            dropped.append(item)
            continue
        ours.append((law, item))
    if not ours and not dropped:
        return
    config.hook.pytest_deselected(items=dropped)
    order = list(settings.subjects)
    ours.sort(key=lambda pair: (pair[0].rung, order.index(_subject_of(pair[1]) or order[0])))
    items[:] = others + [item for _, item in ours]
    if config.option.collectonly:
        return  # nothing will run: no JAX, no verdict
    if ours:
        start_jax(settings)
    config.stash[SUMMARY].held_checks([item.stash[CHECK_ID] for _, item in ours])
    if config.pluginmanager.has_plugin("timeout"):
        for law, item in ours:
            item.add_marker(pytest.mark.timeout(law.deadline))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tell that a check begins, and block it when a rung below has failed."""
    law = _law_of(item)
    if law is None or CHECK_ID not in item.stash:
        return
    run = item.config.stash[RUN]
    run.tell({"event": "start", "id": item.stash[CHECK_ID], "deadline": law.deadline, "time": time.time()})
    broken = blocked_by(run.failed, law, _subject_of(item))
    if broken is not None:
        raise Blocked(f"blocked by {broken}")


@pytest.fixture
def check(request: pytest.FixtureRequest) -> Check:
    """The law being asked, to which comparisons are told."""
    law = _law_of(request.node)
    assert law is not None, f"{request.node.nodeid} has no @pytest.mark.law"
    settings = request.config.stash[SETTINGS]
    request.node.stash[CHECK] = found = Check(law, settings.level, settings.seed)
    return found


@pytest.fixture
def rng(check: Check) -> Any:
    """A NumPy generator of this check's own, from the run's seed."""
    return law_call.generator(check)


@pytest.fixture(scope="session")
def settings(request: pytest.FixtureRequest) -> Settings:
    """The run's options."""
    return request.config.stash[SETTINGS]


@pytest.fixture(scope="session")
def devices(settings: Settings) -> list[Any]:
    """The devices to verify: those of the platform asked for, at most `--sftref-devices`."""
    return law_call.devices(settings)


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> TrainerUnderTest:
    """The trainer under test."""
    config = request.config
    found = load_adapter(config.stash[SETTINGS].subjects[request.param])
    claims = sorted(found.capabilities)
    config.stash[RUN].tell({"event": "subject", "label": request.param, "name": found.name, "capabilities": claims})
    return found


@pytest.fixture
def adapter(request: pytest.FixtureRequest, settings: Settings) -> str:
    """`MODULE:FACTORY` of the trainer under test, for processes that load it themselves."""
    return settings.subjects[str(_subject_of(request.node))]


@pytest.fixture(scope="session")
def against(settings: Settings) -> TrainerUnderTest:
    """The trainer that subjects are compared with beside the oracle."""
    return load_adapter(settings.against)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Compile a check's programs as its level says; refuse one that came to its end without comparing anything."""
    check = pyfuncitem.stash.get(CHECK, None)
    if check is None:
        return (yield)
    with law_call.around(check):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the end of a check into its record, which travels on the report."""
    report = yield
    law = _law_of(item)
    over = call.when == "call" or (call.when == "setup" and not report.passed)
    if law is not None and CHECK_ID in item.stash and over:
        error = call.excinfo.value if call.excinfo else None
        stderr = "".join(text for name, text in report.sections if "stderr" in name)
        settings = item.config.stash[SETTINGS]
        subject = _subject_of(item)
        record = Result.of(law, subject, item.stash.get(CHECK, None), error, call.duration, stderr)
        record = dataclasses.replace(record, repro=settings.repro(record.id, subject))
        if record.status == "fail" and report.outcome == "passed":
            report.outcome, report.longrepr = "failed", record.message
        report.user_properties.append(("sftref", record.to_json()))
    return report


class Keeper:
    """Collects the records where reports arrive; under xdist that is in the worker and in the controlling session.

    Args:
        run: takes the records.
        tells: whether this session owns the stream.
    """

    def __init__(self, run: Run, *, tells: bool) -> None:
        self.run, self.tells = run, tells

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep and tell the record of a check that ended."""
        for name, value in report.user_properties:
            if name == "sftref" and isinstance(value, dict) and value["id"] not in self.run.ended:
                record = Result.from_json(value)
                self.run.add(record)
                if self.tells:
                    self.run.tell({"event": "result", **value})
