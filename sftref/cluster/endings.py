"""Ties a child process to its parent, and describes in text how it ended and what it printed last."""

import ctypes
import os
import re
import signal
import sys
from collections.abc import Iterable

# prctl's option, from Linux's <sys/prctl.h>: the signal that a process gets when its parent dies.
PR_SET_PDEATHSIG = 1
# The number of last lines, and of frames of a fatal error, in a message.
LINES, FRAMES = 4, 3


def tie(parent: int) -> None:
    """Have the kernel end this process when its parent ends; does nothing except on Linux."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def how_it_ended(code: int) -> str:
    """The exit code of a child process in words; `code` is negative where a signal ended it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name}, which the kernel also sends when memory runs out" if name == "SIGKILL" else name


def last_words(lines: Iterable[str], most: int = LINES) -> str:
    """The last lines of a process's output, as one line; after a fatal Python error, its innermost frames too."""
    kept = [line.strip() for line in lines if line.strip()]
    fatal = next((i for i, line in enumerate(kept) if line.startswith("Fatal Python error")), None)
    if fatal is None:
        return " | ".join(kept[-most:])
    current = next((i for i, line in enumerate(kept) if line.startswith("Current thread")), fatal)
    frames = re.findall(r'File ".*?([^/"]+/[^/"]+)", line (\d+) in (\S+)', "\n".join(kept[current:]))
    where = [f"{name} ({file}:{line})" for file, line, name in frames[:FRAMES]]
    return " | ".join([*kept[max(fatal - 2, 0) : fatal + 1], *([f"in {', '.join(where)}"] if where else [])])
