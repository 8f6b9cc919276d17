"""`pytest --benchmark`: in this repository, the short name of the kit's `--sftref-benchmark`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Installed plugins may not take so general a name: two of them would break every run."""
    add = parser.getgroup("sftref", "conformance of distributed training").addoption
    add("--benchmark", action="store_true", dest="sftref_benchmark", help="time the trainers and this machine")
