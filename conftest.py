"""pytest in this repository: adds the option `--benchmark`, short for the kit's `--sftref-benchmark`.

In a project that has this repository as a submodule, a plain `pytest` collects that project's tests only.
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add `--benchmark` here, not in the kit's plugin: pytest fails if two installed plugins have this option."""
    add = parser.getgroup("sftref", "conformance of distributed training").addoption
    add("--benchmark", action="store_true", dest="sftref_benchmark", help="time the trainers and this machine")
    if not pluginmanager.hasplugin("timeout"):
        # `pip install '.[demo]'` does not install pytest-timeout; pytest must still accept `timeout` in pyproject.toml.
        parser.addini("timeout", "deadline of a test, used by pytest-timeout (extra `test`)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore this folder if pytest's root is another project. pytest does not call this for paths that a user names."""
    if config.rootpath == HERE or collection_path.parent != HERE:
        return None
    # To import this file, pytest put this folder first in sys.path: `conformance` here would hide the project's own.
    while str(HERE) in sys.path:
        sys.path.remove(str(HERE))
    return True
