"""Lets `pytest conformance` run the laws: it registers the kit's plugin, unless an installed package has done so.

A plain `pytest` in a project that contains a copy of the kit collects the tests of that project only.
"""

import contextlib
import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
INSTALLED = "sftref.pytest_plugin"


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the plugin if the arguments name this folder; else pytest calls this too late, when its session runs."""
    if pluginmanager.has_plugin("session"):
        return
    from .pytest_plugin import options

    if not any(pluginmanager.has_plugin(name) for name in (INSTALLED, options.__name__, "sftref-conformance")):
        pluginmanager.register(options, "sftref-conformance")
    # Also a session without any of our options, and one that collects nothing itself (xdist), is one of the kit.
    pluginmanager.register(object(), options.NAMED)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore this folder unless an argument or `testpaths` names it; ignore benchmarks without `--sftref-benchmark`."""
    if not any(_target(config, argument).is_relative_to(HERE) for argument in config.args):
        return True
    return True if collection_path.resolve() == HERE / "benchmarks" and not config.option.sftref_benchmark else None


def _target(config: pytest.Config, argument: str) -> Path:
    name = argument.partition("::")[0]
    if config.option.pyargs:
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin is not None:
                return Path(spec.origin).resolve()
    return (config.invocation_params.dir / name).resolve()
