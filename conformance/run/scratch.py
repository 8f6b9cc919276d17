"""The folder for a run's temporary files: a run clears its own at its end, and those of runs that were killed.

A run holds a lock on the file `owner` in its folder, which the kernel releases when the run's process ends. So a folder
whose lock is free belongs to a dead run. Child processes have the folder in their environment; by that, a process that
an adapter started, and that outlives the run, is found.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from ..workers.plan import SCRATCH

PREFIX, OWNER = "sftref-", "owner"
# Seconds in which processes end by themselves after their parent has ended.
GRACE = 1.0


class Scratch:
    """A new folder `path`, which belongs to this process until `clear`."""

    def __init__(self) -> None:
        clear_dead()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        # The lock is taken before the file has the name by which others find it.
        self._lock = (self.path / f".{OWNER}").open("w")
        with contextlib.suppress(OSError):  # a file system without locks: no other run will clear the folder
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (self.path / f".{OWNER}").rename(self.path / OWNER)

    def clear(self) -> list[str]:
        """Delete the folder; end the processes that outlive the run, and return their commands."""
        ended = end_processes(self.path)
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()
        return ended


def clear_dead() -> None:
    """Delete the folders of dead runs of this user, and end the processes that they left."""
    for owner in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{OWNER}"):
        with contextlib.suppress(OSError):  # it belongs to another user, or to a run that is alive
            if owner.parent.stat().st_uid == os.getuid() and not owner.parent.is_symlink():
                with owner.open("r+") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    end_processes(owner.parent)
                    shutil.rmtree(owner.parent, ignore_errors=True)


def end_processes(folder: Path) -> list[str]:
    """Kill the processes whose environment has the folder, unless they end by themselves; returns their commands."""
    until = time.monotonic() + GRACE
    while (found := processes(folder)) and time.monotonic() < until:
        time.sleep(0.05)
    for number in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    return list(found.values())


def processes(folder: Path) -> dict[int, str]:
    """Number of each process whose environment has the folder -> its command; empty where there is no /proc."""
    mark, found = f"\0{SCRATCH}={folder}\0".encode(), {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(path.name) != os.getpid() and mark in b"\0" + (path / "environ").read_bytes():
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found[int(path.name)] = command[:200]
    return found
