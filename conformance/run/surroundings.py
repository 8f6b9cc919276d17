"""What surrounds a command: a reader or a terminal that leaves, a full disk, errors of the system, XLA_FLAGS."""

import contextlib
import errno
import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

# A reader has closed its end of a pipe; a terminal was closed.
GONE = (errno.EPIPE, errno.EIO)
# errno -> what helps. Other errors are printed without advice, because their cause is not known.
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or choose another folder"),
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or choose another folder",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "change its permissions, or choose another"),
    errno.EROFS: "choose a folder on a file system that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
}
# The only flag that needs no test: this package counts devices by it.
DEVICES = re.compile(r"--xla_force_host_platform_device_count=\d+")
# Parses XLA_FLAGS as JAX does when it starts, but in a third of a second.
PARSE = "from jaxlib import xla_client; xla_client.CompileOptions()"


class _Stream(io.FileIO):
    """Standard output or error; after the first error, it drops what is written to it."""

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes; returns their number."""
        try:
            return super().write(data)
        except OSError as error:
            self.lost = error
            # The descriptor is replaced, so that native libraries and child processes can go on too.
            with open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), self.fileno())
            return memoryview(data).nbytes


def keep_streams() -> None:
    """Let this process go on when its standard output or error cannot be written; `unwritten` then has the error.

    Streams that are closed are opened on /dev/null, because a file that gets their number would receive their output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until Python ends
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            raw = _Stream(stream.fileno(), "w", closefd=False)
            # As Python's own start does with PYTHONUNBUFFERED; a raw file has all that TextIOWrapper uses.
            buffer = raw if stream.write_through else io.BufferedWriter(raw)
            # A path can have characters that the encoding of the locale lacks, or bytes that are no characters.
            text = io.TextIOWrapper(
                buffer,
                encoding=stream.encoding, errors="backslashreplace",
                line_buffering=stream.line_buffering or name == "stderr", write_through=stream.write_through,
            )  # fmt: skip
            setattr(sys, name, text)


def unwritten() -> str:
    """The error of a standard output that cannot be written, as one line; empty if its reader has just left."""
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.flush()
        raw = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
        lost = raw.lost if isinstance(raw, _Stream) else None
        if lost is not None and lost.errno not in GONE:
            return f"standard output: {lost.strerror}; what the command printed is lost, its files are complete"
    return ""


@contextlib.contextmanager
def without_terminal() -> Iterator[None]:
    """In the block, this process and its children ignore the signal that a terminal sends when it is closed."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGHUP) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def reason(error: OSError) -> str:
    """An error of the operating system as one line: the file, what is wrong, and what helps if that is known."""
    if error.filename is None:
        try:
            os.getcwd()
        except OSError:
            return "the current folder no longer exists; change to another one"
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    text = f"{' -> '.join(names)}: " if names else ""
    advice = ADVICE.get(error.errno or 0)
    return one_line(f"{text}{error.strerror or error}{f'; {advice}' if advice else ''}")


def one_line(text: str) -> str:
    """A text in which a path can have line breaks -> one line."""
    return " ".join(text.splitlines())


def check_flags(variables: Mapping[str, str]) -> None:
    """Raise a ValueError that names the flags in XLA_FLAGS which this jaxlib refuses; it would end the process."""
    flags = variables.get("XLA_FLAGS", "").split()
    if all(DEVICES.fullmatch(flag) for flag in flags):
        return
    ended = subprocess.run(
        [sys.executable, "-P", "-c", PARSE], env=dict(variables), capture_output=True, text=True, errors="replace",
        check=False,
    )  # fmt: skip
    # As in `F1129 18:10:25.928048   27635 parse_flags_from_env.cc:234] Unknown flags in XLA_FLAGS: --xla_foo`.
    logged = re.findall(r"^[EF]\d{4} \S+ +\d+ \S*flags\S*\] (.+)$", ended.stderr, re.MULTILINE)
    if ended.returncode and logged:
        raise ValueError(
            f"XLA_FLAGS={variables['XLA_FLAGS']}: this jaxlib refuses it ({logged[0].strip().rstrip('.')}); correct or "
            "unset XLA_FLAGS"
        )
