"""Each benchmark as a test; `plugin.py` says which there are."""

from collections.abc import Callable


def test_speed(speed: Callable[[], None]) -> None:
    """Computes what it should, compiles to what it did, and takes no longer."""
    speed()
