"""Ctrl-C -> KeyboardInterrupt, even if Python loses the exception.

Python raises KeyboardInterrupt wherever the main thread is. In a callback of the garbage collector (JAX has one) Python
prints the exception as "ignored" and continues. So the signal is also remembered, and the loop checks after every step.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# Set if SIGINT came since `remembered` began. The command line clears it when a run ends, for a later run in this
# process.
SEEN = threading.Event()


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Remember SIGINT for `check`, and raise KeyboardInterrupt as Python does.

    Does nothing outside the main thread, or if SIGINT is ignored, as in a shell's background job or under `nohup`.
    """
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        SEEN.set()
        raise KeyboardInterrupt

    SEEN.clear()
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def check() -> None:
    """Raise KeyboardInterrupt if SIGINT was seen."""
    if SEEN.is_set():
        raise KeyboardInterrupt
