"""The signals that end a program -> an exception, so that the program ends its child processes too."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(BaseException):
    """A signal that ends the run."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Delivery:
    """Whether signals are deferred, and the last signal that was."""

    deferred = False
    late: int | None = None


def _raise(number: int) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Defer signals until the block finishes: an exception in the middle of it would lose data.

    `pthread_sigmask` would not do: another thread, such as one of OpenBLAS, would receive the signal.
    """
    _Delivery.deferred = True
    try:
        yield
    finally:
        _Delivery.deferred = False
        late, _Delivery.late = _Delivery.late, None
        if late is not None:
            _raise(late)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """In the block, raise `Stopped` on SIGTERM and SIGHUP, unless they are ignored, as SIGHUP is under `nohup`.

    Ctrl-C still raises KeyboardInterrupt, and `held` can defer all three signals. Python handles signals in the main
    thread only: in another thread, this changes nothing.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if _Delivery.deferred:
            _Delivery.late = number
        else:
            _raise(number)

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {}
    for number in numbers if threading.current_thread() is threading.main_thread() else ():
        handler = signal.getsignal(number)
        if handler != signal.SIG_IGN and (number != signal.SIGINT or handler is signal.default_int_handler):
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
