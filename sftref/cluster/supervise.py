"""One process of a run -> a worker, which does the work, and a supervisor, which reports how the worker ended.

When a process is lost, JAX ends the others by SIGABRT; when memory runs out, the kernel ends a process by SIGKILL.
Python code in the process sees neither, so the worker is a child process. The supervisor keeps its output in
OUT/logs/process-I.log, prints that of process 0, and says in one line how a worker failed and which process was lost.
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from sftref.cluster.distributed import HEARTBEAT, LOST, launcher_variables, lost
from sftref.cluster.endings import how_it_ended, last_words, tie

# A variable that is set in the worker's environment.
WORKER = "SFTREF_WORKER"
# The worker prints this, followed by its number, when it has joined the others.
JOINED = "sftref: joined as process "
LOGS = "logs"
# The beginning of lines that gloo prints on stdout for each group of processes that it connects.
CHATTER = "[Gloo] "
# The call in which JAX waits for all processes to join.
JOINING = "RegisterTask"
# The beginning of the text that faulthandler writes when a deadline has passed.
TIMEOUT = "Timeout ("


class Output:
    """Keeps the worker's output in a log, and prints it if the worker is process 0."""

    def __init__(self, out: Path | None) -> None:
        self.process: int | None = None
        self.last: deque[str] = deque(maxlen=400)
        self._out, self._early = out, list[tuple[str, IO[str]]]()
        self._log: IO[str] | None = None
        self._lock = threading.Lock()

    def copy(self, pipe: IO[str], to: IO[str]) -> None:
        """Log each line of `pipe` until the pipe is closed; if the worker is process 0, also print the line to `to`."""
        for line in pipe:
            with self._lock:
                if self.process is None and line.startswith(JOINED):
                    self._joined(int(line.removeprefix(JOINED).split()[0]))
                else:
                    self._take(line, to)

    def _joined(self, process: int) -> None:
        self.process = process
        if self._out is not None:
            with self._or_no_log(sys.stderr):
                folder = self._out / LOGS
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"process-{process}.log"
                self._log = path.open("a", buffering=1, encoding="utf-8", errors="replace")
        early, self._early = self._early, []
        for line, to in early:
            self._take(line, to)

    @contextlib.contextmanager
    def _or_no_log(self, to: IO[str]) -> Iterator[None]:
        """Go on without a log that cannot be written, since the worker waits until its output is read."""
        try:
            yield
        except OSError as error:
            log, self._log = self._log, None
            with contextlib.suppress(OSError):
                if log is not None:
                    log.close()
            to.write(f"sftref: {self._out}/{LOGS}: {error.strerror}; the run goes on without this log\n")

    def _take(self, line: str, to: IO[str]) -> None:
        chatter = line.startswith(CHATTER)
        if not chatter:
            self.last.append(line.rstrip("\n"))
        if self.process is None:
            self._early.append((line, to))
            return
        if self._log is not None:
            with self._or_no_log(to):
                self._log.write(line)
        if self.process == 0 and not chatter:
            to.write(line)
            to.flush()

    def close(self) -> None:
        """Print the lines of a worker that never joined, and close the log."""
        for line, to in self._early:
            to.write(line)
        if self._log is not None:
            with self._or_no_log(sys.stderr):
                self._log.close()


def run(argv: Sequence[str], out: Path | None, *, auto: bool = False) -> int:
    """Run `sftref ARGV` in a worker. Returns its exit code, or `LOST` if the worker or another process was lost.

    If SIGHUP is ignored here, the worker ignores it too: the run goes on when its terminal is closed. `auto` says that
    the processes are those that a launcher's variables describe.
    """
    output = Output(out)
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "sftref.cli", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=os.environ | {WORKER: "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        preexec_fn=functools.partial(tie, os.getpid()),  # noqa: PLW1509 - no thread runs yet
    )

    def end(number: int, frame: FrameType | None) -> None:
        worker.send_signal(number)

    # Ctrl-C is ignored here: it also reaches the worker, which is in the same process group.
    for number, handler in ((signal.SIGINT, lambda *_: None), (signal.SIGTERM, end)):
        signal.signal(number, handler)
    assert worker.stdout is not None
    assert worker.stderr is not None
    pairs = ((worker.stdout, sys.stdout), (worker.stderr, sys.stderr))
    threads = [threading.Thread(target=output.copy, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    code = worker.wait()
    for thread in threads:
        thread.join()
    output.close()
    message, code = explain(output, code, auto=auto)
    if message:
        print(f"sftref: {message}", file=sys.stderr, flush=True)
    return code


def leave(code: int, error: BaseException) -> NoReturn:
    """End a failed worker at once, because Python's own exit would wait for the other processes.

    If JAX failed, perhaps because another process is gone, JAX's heartbeats first get the time to find out which
    process was lost; JAX then ends this worker.
    """
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError):
        sys.stderr.flush()
        time.sleep(2 * HEARTBEAT + 5)
        code = LOST
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def explain(output: Output, code: int, *, auto: bool = False) -> tuple[str, int]:
    """A message on how a worker ended (empty if there is nothing to report), and the supervisor's exit code."""
    who = "a process that did not join the others" if output.process is None else f"process {output.process}"
    words = "\n".join(output.last)
    others = [str(number) for number in lost(words) if number != output.process]
    where = "see the logs of all processes in OUT/logs; --resume continues from the newest checkpoint"
    if output.process is None and code < 0 and JOINING in words:
        launcher = ", ".join(launcher_variables(os.environ)) if auto else ""
        left = f"; if this is the only process, {launcher} are left over from another job: unset them"
        return (
            "not all processes joined within --wait, or the coordinator cannot be reached; start all of them, with an "
            f"address of process 0 that each can reach{left if launcher else ''}",
            LOST,
        )
    if any(line.startswith(TIMEOUT) for line in output.last):
        return f"{who} got no answer from the others, all of which are running; {where}", LOST
    if code < 0 or code == LOST:
        if others:
            return f"{who} lost process {', '.join(others)}, which sent no heartbeat for {HEARTBEAT} s; {where}", LOST
        if code == LOST:
            return f"{who} lost the connection to another process; {where}", LOST
        if code in (-signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT):
            return f"{who} was ended by {how_it_ended(code)}", 128 - code
        return f"{who} ended by {how_it_ended(code)}; last output: {last_words(output.last)}", LOST
    # The error of process 0 is printed already.
    silent = code in (0, 130) or output.process in (None, 0)
    return ("" if silent else f"{who}: {last_words(output.last, 1).removeprefix('sftref: ')}"), code
