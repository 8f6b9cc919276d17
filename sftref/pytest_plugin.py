"""The kit's pytest plugin, in the module that pytest's entry point names."""

from sftref.conformance.pytest_plugin.options import *  # noqa: F403
