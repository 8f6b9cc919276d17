"""The child's half of a channel: it writes events, and executes calls.

    python -m sftref.conformance.workers.serve FACTORY PARENT --sftref-stream=FILE

makes the object that FACTORY (MODULE:NAME) returns and calls its methods, as `channel.py` describes, until the process
PARENT closes this one's standard input or ends. This file imports the standard library only.
"""

import base64
import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

# Written to stderr before the id of a check that ended: the lines before this mark belong to that check.
END_OF_CHECK = b"\x1esftref "
# An option of prctl, from Linux's <sys/prctl.h>: it sets the signal that a process gets when its parent dies.
PR_SET_PDEATHSIG = 1
STREAM = "--sftref-stream="


class Stream:
    """Where a process writes its events: a pipe to its parent, or a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def tell(self, event: dict[str, Any]) -> None:
        """Append one event and close the file, so that a later crash does not lose the event."""
        # If the stream is a file, no process reads the mark.
        if event["event"] == "result" and self.path.is_fifo():
            os.write(2, END_OF_CHECK + event["id"].encode() + b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


def packed(value: Any) -> str:
    """A value as text, for `unpacked`."""
    return base64.b64encode(pickle.dumps(value)).decode()


def unpacked(text: str) -> Any:
    """The inverse of `packed`."""
    return pickle.loads(base64.b64decode(text))


def tie(parent: int) -> None:
    """Have the kernel end this process when its parent ends, which only Linux can do."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def serve(factory: str, calls: IO[str], stream: Stream) -> None:
    """Execute calls; the first line has the arguments of the factory, which runs before the first method."""
    module, _, name = factory.partition(":")
    first, target = json.loads(next(calls)), None
    for call in map(json.loads, calls):
        event = {"event": "answer", "id": call["id"]}
        try:
            if target is None:
                target = _called(getattr(importlib.import_module(module), name), first)
            event["value"] = packed(_called(getattr(target, call["id"]), call))
        except Exception as error:  # the parent reports it, whatever it is
            message = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            frames = getattr(error, "facts", {}).get("adapter_frames", [])
            event |= {"event": "failed", "message": message, "frames": frames}
        stream.tell(event)


def _called(function: Callable[..., Any], call: dict[str, Any]) -> Any:
    arguments, keywords = unpacked(call["value"])
    return function(*arguments, **keywords)


def main() -> None:
    """Serve the process PARENT."""
    factory, parent, stream = sys.argv[1:]
    tie(int(parent))
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    # What libraries print to stdout goes to stderr, which the parent reads.
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt, StopIteration):
        serve(factory, sys.stdin, Stream(Path(stream.removeprefix(STREAM))))


if __name__ == "__main__":
    main()
