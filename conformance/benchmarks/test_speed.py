"""One test for each benchmark; `plugin.py` has the list of benchmarks."""

from collections.abc import Callable


def test_speed(speed: Callable[[], None]) -> None:
    """A benchmark computes right results, compiles to the same program as before, and is not slower."""
    speed()
