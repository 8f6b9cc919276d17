"""How a child process ended or where it hangs, in words."""

import errno
import os
import re
import signal
from collections.abc import Iterable

from ..core.result import NO_MEMORY

# Frames of these packages call the check; `faulthandler` prints the check's own frames above them.
MACHINERY = ("/_pytest/", "/pluggy/")
# The operating system's message for a full disk, which is searched for in the output of a process that ended.
NO_SPACE = os.strerror(errno.ENOSPC)

STOPPED = "was stopped by a signal, as by SIGSTOP, and did not continue"


def how_it_ended(code: int | None) -> str:
    """An exit code in words; negative for a signal, None for a process that cannot be ended."""
    if code is None:
        return "cannot be ended, not even by SIGKILL"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name}, which the kernel also sends when memory runs out" if name == "SIGKILL" else name


def ended(code: int | None, output: Iterable[str]) -> str:
    """How a process ended, and the last lines of its output."""
    words = last_words(output)
    return f"{how_it_ended(code)}; last output: {words}" if words else how_it_ended(code)


def without_memory(output: Iterable[str]) -> str:
    """The line in which XLA or C++ says that memory ran out, before they end the process; empty if there is none."""
    return next((line for line in output if NO_MEMORY in line or "std::bad_alloc" in line), "")


def position(stack: Iterable[str]) -> str:
    """Where a process hangs, to be added to a message; empty if `faulthandler` wrote no stack."""
    where = frames(stack)
    return f"; it was in {where}" if where else ""


def frames(stack: Iterable[str], *, current: bool = False, most: int = 3) -> str:
    """Lines of `faulthandler` -> the innermost frames of the main thread (printed last), or of the current thread."""
    threads: list[tuple[str, list[str]]] = []
    over = False
    for line in stack:
        if "(most recent call first)" in line:
            threads.append((line, []))
            over = False
        elif threads and line.lstrip().startswith("File "):
            calls = threads[-1][1]
            over |= bool(calls) and any(name in line for name in MACHINERY)
            if not over:
                calls.append(re.sub(r'File ".*?([^/"]+/[^/"]+)", line (\d+) in (\S+)', r"\3 (\1:\2)", line.strip()))
        elif threads and line.strip():
            break
    chosen = [calls for title, calls in threads if title.startswith("Current") or not current]
    return ", called from ".join(chosen[-1][:most]) if chosen else ""


def last_words(output: Iterable[str], most: int = 4) -> str:
    """The last lines of a process's output as one line; after a fatal Python error, that error and its frames."""
    lines = [line.strip() for line in output if line.strip()]
    fatal = next((i for i, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    if fatal is None:
        return " | ".join(lines[-most:])
    where = frames(lines[fatal + 1 :], current=True)
    return " | ".join([*lines[max(fatal - 2, 0) : fatal + 1], *([f"in {where}"] if where else [])])


def usage(output: Iterable[str]) -> str:
    """The text of pytest's usage error, as one line."""
    lines = list(output)
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return errors[0] if errors else last_words(lines) or "pytest refused its arguments"
