"""The signals that end a program -> an exception, so that what it started ends too."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


class Stopped(BaseException):
    """A signal that ends the run."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raise `Stopped` for SIGTERM and SIGHUP, unless they are ignored, as SIGHUP is under `nohup`.

    Nothing changes in another thread than the main one, which has no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
