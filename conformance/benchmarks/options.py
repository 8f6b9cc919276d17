"""`--sftref-benchmark` and its options, which every pytest run of the environment loads; does not import JAX."""

import os
from pathlib import Path
from typing import Any

import pytest

from ..core.settings import Settings

HOME = Path(__file__).parent
SIZES = ("small", "base")
MATTERS = 0.05
# Processes, or pairs of them, that must all find a benchmark slower.
PROCESSES = 3


def add_options(add: Any) -> None:
    """The options of the benchmarks."""
    add("--sftref-benchmark", action="store_true", help="time the trainers and this machine instead of testing")
    add("--sftref-size", choices=SIZES, help="of the timed model (default: small on a CPU, else base)")
    add(
        "--sftref-time",
        action="append",
        default=[],
        metavar="ID",
        help="a benchmark, its id without brackets, or a group; repeatable",
    )
    add("--sftref-bench-out", type=Path, metavar="DIR", help="folder for bench.json and bench.html")
    add("--sftref-lines", action="store_true", help="print each benchmark when it ends")
    add(
        "--sftref-matters",
        type=float,
        default=MATTERS,
        metavar="SHARE",
        help="the smallest slow-down that matters (0.05)",
    )


def check(option: Any) -> None:
    """Check the options.

    Raises:
        ValueError: nothing would be timed, or an option is out of range.
    """
    if os.environ.get("PYTEST_XDIST_WORKER"):
        raise ValueError("--sftref-benchmark under PYTEST_XDIST_WORKER: pytest-benchmark times nothing there; unset it")
    if option.benchmark_disable or option.benchmark_skip:
        raise ValueError("--sftref-benchmark with --benchmark-disable or --benchmark-skip: nothing would be timed")
    if getattr(option, "numprocesses", None):
        raise ValueError(
            f"-n {option.numprocesses} with --sftref-benchmark: parallel processes slow each other down; omit -n"
        )
    if not 0 < option.sftref_matters <= 1:
        raise ValueError(
            f"--sftref-matters = {option.sftref_matters:g}, must be above 0 and at most 1, as 0.05 is for 5 %"
        )


def configure(config: pytest.Config, settings: Settings) -> None:
    """Set up a session that times.

    Raises:
        ValueError: an option is wrong, or pytest-benchmark is not installed.
    """
    if not config.pluginmanager.hasplugin("benchmark"):
        raise ValueError("--sftref-benchmark needs pytest-benchmark; install it with: pip install pytest-benchmark")
    check(config.option)
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = [os.path.relpath(HOME)]  # not absolute: see `workers.plan.command`
    from .plugin import Speed

    config.pluginmanager.register(Speed(config, settings), "sftref-speed")
