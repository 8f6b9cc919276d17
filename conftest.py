"""pytest in this repository: `--benchmark`, the short name of the kit's `--sftref-benchmark`.

In a project that has this repository as a submodule, a plain `pytest` collects that project's tests only.
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Installed plugins may not take so general a name: two of them would break every run."""
    add = parser.getgroup("sftref", "conformance of distributed training").addoption
    add("--benchmark", action="store_true", dest="sftref_benchmark", help="time the trainers and this machine")
    if not pluginmanager.hasplugin("timeout"):
        # `pip install '.[demo]'` does not bring pytest-timeout, and pyproject.toml must stay readable to pytest.
        parser.addini("timeout", "the deadline of a test, for pytest-timeout of the extra `test`")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore this folder where pytest's root is another project; pytest calls this for no path that it is given."""
    if config.rootpath == HERE or collection_path.parent != HERE:
        return None
    # pytest put this folder first, to import this file: our `conformance` would hide the project's own.
    while str(HERE) in sys.path:
        sys.path.remove(str(HERE))
    return True
