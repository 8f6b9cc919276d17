"""The kit's pytest plugin, except its options: the fixtures of laws, and one result for each check.

It is loaded by `options.py`, and imports JAX only if a law will run or an adapter is named.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Generator
from typing import Any

import pytest

from ..adapter import AdapterError, TrainerUnderTest, fixed_of
from ..benchmarks import options as speed
from ..core.check import Blocked, Check
from ..core.law import Law, blocked_by, check_id, laws, selects
from ..core.result import Result
from ..core.settings import Settings, start_jax
from ..laws.support import call as law_call
from ..laws.support import compilation
from ..run.surroundings import check_flags
from .summary import PROPERTY, Summary

SETTINGS = pytest.StashKey[Settings]()
SUMMARY = pytest.StashKey[Summary]()
CHECK = pytest.StashKey[Check]()
CHECK_ID = pytest.StashKey[str]()
# Fields of `Settings` that are options with the same name.
OPTIONS = ("level", "against", "platform", "devices", "expect", "seed", "processes")


def pytest_configure(config: pytest.Config) -> None:
    """Check the options.

    Raises:
        pytest.UsageError: an option is wrong; the message names it.
    """
    option = config.option
    try:
        settings = Settings(
            **{name: value for name in OPTIONS if (value := getattr(option, f"sftref_{name}")) is not None},
            adapters=tuple(option.sftref_adapter) or Settings.adapters,
            named=bool(option.sftref_adapter),
            only=tuple(option.sftref_only),
        )
        config.stash[SUMMARY] = summary = Summary(config, settings)
        if option.sftref_adapter or settings.against != Settings.against:
            # Adapters in the folder in which pytest was called can then be imported.
            sys.path.append(str(config.invocation_params.dir))
            _start_jax(config, settings)
            compilation.options()
            settings.check_adapters(lambda name: summary.tell({"event": "loading", "adapter": name}))
        if option.sftref_benchmark:
            speed.configure(config, settings)
    except (ValueError, AdapterError) as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SETTINGS] = settings
    config.pluginmanager.register(config.stash[SUMMARY], "sftref-summary")


def _start_jax(config: pytest.Config, settings: Settings) -> None:
    # `verify` has checked the flags before it starts this process with a stream.
    if config.stash[SUMMARY].stream is None:
        try:
            check_flags(os.environ)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error
    start_jax(settings)


def _law_of(item: pytest.Item) -> Law | None:
    mark = item.get_closest_marker("law")
    if mark is None:
        return None
    if mark.args[0] not in laws():
        raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.law({mark.args[0]!r}) names no law of laws/*/test_*.toml")
    return laws()[mark.args[0]]


def _subject_of(item: pytest.Item) -> str | None:
    spec = getattr(item, "callspec", None)
    return spec.params.get("subject") if spec else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each law that takes `subject` once for every trainer under test."""
    if "subject" in metafunc.fixturenames and metafunc.definition.get_closest_marker("law"):
        names = list(metafunc.config.stash[SETTINGS].subjects)
        metafunc.parametrize("subject", names, indirect=True, ids=names, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the checks of the level and of `--sftref-only`, sort them from the lowest rung up, and start JAX."""
    settings = config.stash[SETTINGS]
    ours: list[tuple[Law, pytest.Item]] = []
    others, dropped = [], []
    for item in items:
        law = _law_of(item)
        if law is None:
            others.append(item)
            continue
        item.stash[CHECK_ID] = check_id(law.id, _subject_of(item))
        check = item.stash[CHECK_ID]
        if law.runs_at(settings.level, settings.processes) and settings.has(check) and selects(settings.only, check):
            ours.append((law, item))
        else:
            dropped.append(item)
    config.stash[SUMMARY].tell({"event": "collected", "ids": [item.stash[CHECK_ID] for _, item in ours]})
    if not ours and not dropped:
        return
    config.hook.pytest_deselected(items=dropped)
    order = list(settings.subjects)
    ours.sort(key=lambda pair: (pair[0].rung, order.index(_subject_of(pair[1]) or order[0])))
    items[:] = others + [item for _, item in ours]
    if config.option.collectonly:
        return  # nothing will run: no JAX, no verdict
    if ours:
        _start_jax(config, settings)
        from ..faults import cluster  # it imports JAX

        cluster.seed_machine()
    config.stash[SUMMARY].expect([item.stash[CHECK_ID] for _, item in ours])
    if config.pluginmanager.has_plugin("timeout"):
        for law, item in ours:
            item.add_marker(pytest.mark.timeout(law.deadline))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Report that a check begins; block it if a rung that it needs has failed."""
    law = _law_of(item)
    if law is None or CHECK_ID not in item.stash:
        return
    run = item.config.stash[SUMMARY]
    run.tell({"event": "start", "id": item.stash[CHECK_ID], "deadline": law.deadline, "time": time.time()})
    blocker = blocked_by(run.failed, law, _subject_of(item))
    if blocker is not None:
        raise Blocked(f"blocked by {blocker}")


@pytest.fixture
def check(request: pytest.FixtureRequest) -> Check:
    """The check that runs; laws compare values with its methods."""
    law = _law_of(request.node)
    assert law is not None, f"{request.node.nodeid} has no @pytest.mark.law"
    settings = request.config.stash[SETTINGS]
    request.node.stash[CHECK] = check = Check(law, settings.level, settings.seed)
    return check


@pytest.fixture
def rng(check: Check) -> Any:
    """A NumPy generator of the law's own random values, from the run's seed."""
    return law_call.generator(check)


@pytest.fixture(scope="session")
def settings(request: pytest.FixtureRequest) -> Settings:
    """The options of the run."""
    return request.config.stash[SETTINGS]


@pytest.fixture(scope="session")
def devices(settings: Settings) -> list[Any]:
    """The devices to verify, at most `--sftref-devices`."""
    return law_call.devices(settings)


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> TrainerUnderTest:
    """The trainer under test."""
    label, config = request.param, request.config
    trainer = law_call.trainer(config.stash[SETTINGS].subjects[label])
    claims, fixed = sorted(trainer.capabilities), dict(fixed_of(trainer))
    about = {"name": trainer.name, "capabilities": claims} | ({"fixed": fixed} if fixed else {})
    config.stash[SUMMARY].outcome.subjects[label] = about
    config.stash[SUMMARY].tell({"event": "subject", "label": label, **about})
    return trainer


@pytest.fixture
def adapter(request: pytest.FixtureRequest, settings: Settings) -> str:
    """`MODULE:FACTORY` of the trainer under test, for child processes."""
    return settings.subjects[str(_subject_of(request.node))]


@pytest.fixture(scope="session")
def against(settings: Settings) -> TrainerUnderTest:
    """Another trainer to compare with, in addition to the oracle."""
    return law_call.trainer(settings.against)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Run a check, with its programs compiled as its law says; a check that compares nothing ends with an error."""
    check = pyfuncitem.stash.get(CHECK, None)
    if check is None:
        return (yield)
    with compilation.apart_from_adapters(check), law_call.around(check):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the check's result to pytest's report."""
    report = yield
    law = _law_of(item)
    ended = call.when == "call" or (call.when == "setup" and not report.passed)
    if law is not None and CHECK_ID in item.stash and ended:
        error = call.excinfo.value if call.excinfo else None
        stderr = "".join(text for name, text in report.sections if "stderr" in name)
        subject = _subject_of(item)
        record = Result.of(law, subject, item.stash.get(CHECK, None), error, call.duration, stderr)
        record = dataclasses.replace(record, repro=item.config.stash[SETTINGS].repro(record.id, subject))
        if record.status == "fail" and report.outcome == "passed":
            report.outcome, report.longrepr = "failed", record.message
        report.user_properties.append((PROPERTY, record.to_json()))
    return report
