"""The options of the kit's pytest plugin; it loads the plugin itself, `plugin.py`, only in a session that uses the kit.

pytest loads an installed plugin in the runs of all projects, so this file imports little that pytest does not.
"""

from pathlib import Path

import pytest

from ..benchmarks import options as speed
from ..core.law import LEVELS

NAME = "sftref-checks"
# What the kit's conftest registers if an argument or `testpaths` names the kit's folder.
NAMED = "sftref-named"
# The one option that has a value if it is not given.
ALWAYS = "sftref_matters"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the kit's options; their common prefix keeps them apart from other plugins' options."""
    add = parser.getgroup("sftref", "conformance of distributed training").addoption
    add("--sftref-level", choices=LEVELS, help="how much to check (default: standard)")
    add("--sftref-adapter", action="append", default=[], metavar="MODULE:FACTORY", help="a trainer under test")
    add("--sftref-against", metavar="MODULE:FACTORY", help="another trainer to compare with")
    add("--sftref-platform", help="the platform to verify: cpu, gpu, rocm, cuda or tpu")
    add("--sftref-devices", type=int, metavar="N", help="at most N devices (CPU: simulate N)")
    add("--sftref-expect", metavar="PLATFORM[:COUNT[:KIND]]", help="the devices that must be present")
    add("--sftref-only", action="append", default=[], metavar="ID", help="only this id, start of an id, or rung")
    add("--sftref-seed", type=int, metavar="S", help="seed of all random values (default: 0)")
    add("--sftref-processes", type=int, metavar="N", help="at most N processes on rung 9")
    add("--sftref-stream", type=Path, metavar="FILE", help="append each check's result as JSON")
    add("--sftref-failed", help="rungs that have failed before, as `verify` passes them: 2,6:mesh")
    add("--sftref-out", type=Path, metavar="DIR", help="write report.json, .html, .md and junit.xml there")
    add("--sftref-deviations", type=Path, metavar="FILE", help="a TOML file of known failures to accept")
    speed.add_options(add)


def load(config: pytest.Config) -> None:
    """Register `plugin.py`, unless that is done; pytest then calls its `pytest_configure`."""
    if not config.pluginmanager.has_plugin(NAME):
        from . import plugin

        config.pluginmanager.register(plugin, NAME)


def pytest_configure(config: pytest.Config) -> None:
    """Load the plugin if one of the kit's options, or the kit's folder, is given."""
    config.addinivalue_line("markers", "law(id): the law that a test checks, as its TOML entry states it")
    given = (value for name, value in vars(config.option).items() if name.startswith("sftref_") and name != ALWAYS)
    if any(given) or config.pluginmanager.has_plugin(NAMED):
        load(config)


def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> None:
    """Load the plugin before the first test of a law is made, wherever its file is."""
    marks = getattr(obj, "pytestmark", ())
    if isinstance(marks, list) and any(getattr(mark, "name", "") == "law" for mark in marks):
        load(collector.config)
