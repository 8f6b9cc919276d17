"""The entry point that pytest loads: the conformance kit's plugin, under a name of its own."""

from sftref.conformance.pytest_plugin.plugin import *  # noqa: F403
