"""Ctrl-C -> KeyboardInterrupt, even where the first one is lost.

Python raises KeyboardInterrupt in whatever the main thread happens to run. In a callback of the garbage collector (JAX
has one) the exception is printed as "ignored" and the program goes on. So the signal is also remembered, and the
loop asks after every step.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_seen = threading.Event()


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Remember SIGINT for `check`, and raise KeyboardInterrupt as Python does.

    Nothing changes in another thread, nor where SIGINT is ignored, as in a shell's background job or under `nohup`.
    """
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        _seen.set()
        raise KeyboardInterrupt

    _seen.clear()
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def seen() -> bool:
    """Whether a Ctrl-C has come since `remembered` began, and was not forgotten."""
    return _seen.is_set()


def forget() -> None:
    """What has come is dealt with: a later run in this process has nothing to do with it."""
    _seen.clear()


def check() -> None:
    """Raise KeyboardInterrupt if a Ctrl-C has come since `remembered` began."""
    if seen():
        raise KeyboardInterrupt
