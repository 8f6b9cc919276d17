"""A process of the kit, as the scheduler sees it: each of its events is read once, whatever happens meanwhile."""

import os
import signal
import sys
import time
from collections.abc import Callable

import pytest
from sftref.conformance.workers import signals
from sftref.conformance.workers.process import Child


# The scheduler's process does not import JAX; this one does, and Python warns of a fork beside JAX's threads.
@pytest.mark.filterwarnings("ignore:os.fork")
@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, signals.Stopped), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_in_the_middle_of_a_read_loses_no_result(
    number: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, sigint: None
) -> None:
    program = (
        """import sys; print('{"event":"result","id":"a"}\\n{"event":"trouble"}', file=open(sys.argv[1][16:], "w"))"""
    )
    child = Child([sys.executable, "-c", program], os.environ, 1)
    while not child.ended():
        time.sleep(0.01)

    def interrupted(pipe: int, size: int, reads: Callable[[int, int], bytes] = os.read) -> bytes:
        data = reads(pipe, size)
        if data:
            signal.raise_signal(number)
        return data

    def listen() -> None:
        with signals.raised():
            list(child.events())

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", interrupted)
        with pytest.raises(error):
            listen()
    assert next(child.events())["id"] == "a"
    assert [event["event"] for event in child.events()] == ["result", "trouble"], "an event that was not taken stays"
    assert list(child.events()) == []
    assert child.close() == 0
