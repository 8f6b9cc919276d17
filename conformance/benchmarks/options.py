"""The pytest options of the benchmarks. Every pytest run with the kit loads this file, so it imports no JAX.

The command line loads it too, and `sftref env` runs where pytest is not installed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from ..core.settings import Settings

HOME = Path(__file__).parent
SIZES = ("small", "base")
MATTERS = 0.05
TIMED = "benchmarks to time: an id, with or without brackets, or a group"
# A benchmark is slower only if it is slower in each of so many processes, or pairs of processes.
PROCESSES = 3


def add_options(add: Any) -> None:
    """Add the benchmarks' options to pytest's."""
    add("--sftref-benchmark", action="store_true", help="time the trainers and this machine instead of testing")
    add("--sftref-size", choices=SIZES, help="size of the model (default: small on a CPU, else base)")
    add("--sftref-time", action="append", default=[], metavar="ID", help=f"{TIMED}; repeatable")
    add("--sftref-bench-out", type=Path, metavar="DIR", help="folder for bench.json and bench.html")
    add("--sftref-lines", action="store_true", help="print each benchmark when it ends")
    words = f"smallest slow-down that matters, as a share (default {MATTERS:g})"
    add("--sftref-matters", type=float, default=MATTERS, metavar="SHARE", help=words)


def check_share(option: str, share: float) -> None:
    """Raise a ValueError that names the option if a smallest slow-down is not a share of at most 1."""
    if not 0 < share <= 1:
        raise ValueError(f"{option} = {share:g}, must be above 0 and at most 1, as 0.05 is for 5 %")


def configure(config: pytest.Config, settings: Settings) -> None:
    """Set up a pytest session that runs the benchmarks.

    Raises:
        ValueError: an option is wrong, nothing would be timed, or pytest-benchmark is not installed.
    """
    option = config.option
    if not config.pluginmanager.hasplugin("benchmark"):
        raise ValueError("--sftref-benchmark needs pytest-benchmark; install it with: pip install pytest-benchmark")
    if os.environ.get("PYTEST_XDIST_WORKER"):
        raise ValueError("--sftref-benchmark under PYTEST_XDIST_WORKER: pytest-benchmark times nothing there; unset it")
    if option.benchmark_disable or option.benchmark_skip:
        raise ValueError("--sftref-benchmark with --benchmark-disable or --benchmark-skip: nothing would be timed")
    workers = getattr(option, "numprocesses", None)
    if workers:
        raise ValueError(f"-n {workers} with --sftref-benchmark: parallel processes slow each other down; omit -n")
    check_share("--sftref-matters", option.sftref_matters)
    if config.args_source is not config.ArgsSource.ARGS:
        config.args = [os.path.relpath(HOME)]  # not absolute: see `workers.plan.command`
    from .plugin import Speed

    config.pluginmanager.register(Speed(config, settings), "sftref-speed")
