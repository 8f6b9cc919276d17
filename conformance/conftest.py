"""Registers the kit's plugin where the folder is run as a copy, without the installed package that would bring it."""

from __future__ import annotations

import pytest

from .pytest_plugin import plugin

INSTALLED = "sftref.pytest_plugin"


def _absent(manager: pytest.PytestPluginManager) -> bool:
    return not any(manager.has_plugin(name) for name in (INSTALLED, plugin.__name__, "sftref-conformance"))


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """The options, if nobody else has them."""
    if _absent(pluginmanager):
        pluginmanager.register(plugin, "sftref-conformance")
