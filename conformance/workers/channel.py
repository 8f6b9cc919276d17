"""The parent's half of a channel: it calls methods in child processes and waits for their answers.

A parent writes each call as a line, {"id": method, "value": arguments}, to the child's standard input. The child
answers with one event (`process.py`). JSON holds no arrays, so a `value` is a pickle in base64. The child's half of the
channel is `serve.py`.
"""

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ..core.kit import IMPORT_ROOT, PACKAGE
from . import endings
from .process import POLL, Process, wait
from .serve import packed, unpacked


@dataclass(frozen=True)
class NoAnswer:
    """Why a call has no answer."""

    how: str  # what happened: the error that the method raised, how the process ended, or how long the parent waited
    silent: bool = False  # whether the process was still running when the time was over
    code: int | None = None  # the exit code of a process that ended, negative for a signal
    frames: tuple[str, ...] = ()  # the last frames of an adapter that raised


class Worker(Process):
    """A child process that makes an object and executes calls of its methods, one at a time.

    As a context manager, it kills the process at the end of the block.

    Args:
        factory: MODULE:NAME of a function or class; the child calls it before the first method.
        arguments: the arguments of the factory; they must be picklable.
        python: the interpreter; an OSError says that it cannot be run.
        variables: the environment; by default this process's, so that the child can import what this process can.
        alone: whether the child gets a session of its own, so that processes which it starts end with it.
    """

    def __init__(
        self, factory: str, *arguments: Any, python: str = sys.executable, variables: Mapping[str, str] | None = None,
        alone: bool = False,
    ) -> None:  # fmt: skip
        # No `preexec_fn`, which is not safe beside JAX's threads: `serve` itself asks to end with its parent.
        words = [python, "-P", "-m", f"{PACKAGE}.workers.serve", factory, str(os.getpid())]
        variables = importable() if variables is None else variables
        super().__init__(words, variables, stdin=subprocess.PIPE, start_new_session=alone)
        assert self.process.stdin is not None
        self._calls = self.process.stdin
        self.send(factory, *arguments)

    def send(self, method: str, *arguments: Any, **keywords: Any) -> None:
        """Write a call; `answers` waits for its answer."""
        line = json.dumps({"id": method, "value": packed((arguments, keywords))})
        with contextlib.suppress(BrokenPipeError):  # the process has ended, which `answers` reports
            self._calls.write(line.encode() + b"\n")
            self._calls.flush()

    def ask(self, method: str, *arguments: Any, seconds: float, waiting: Callable[[], None] | None = None) -> Any:
        """Call a method and wait for its answer, or a `NoAnswer`; `answers` explains `seconds` and `waiting`."""
        self.send(method, *arguments)
        [answer] = answers([self], seconds, waiting=waiting)
        return answer

    def answered(self) -> list[Any]:
        """A list with the answer to the last call, or with a `NoAnswer`; empty while the call still runs."""
        over = self.ended()  # before events are read, so that the last ones are read too
        for event in list(self.events()):
            if event["event"] == "answer":
                return [unpacked(event["value"])]
            return [NoAnswer(event["message"], frames=tuple(event["frames"]))]
        if not over:
            return []
        code = self.process.wait()
        return [NoAnswer(endings.ended(code, self.output), code=code)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answers(
    workers: Sequence[Worker], seconds: float, *, grace: float = math.inf, waiting: Callable[[], None] | None = None
) -> list[Any]:
    """The answer to the last call of each worker, in order; a `NoAnswer` for a worker that gave none.

    The workers have `seconds` to answer. When one has failed, the others have `grace` more seconds, since they may wait
    for the failed one for ever. `waiting` is called several times a second.
    """
    began = time.monotonic()
    end = began + seconds
    results: dict[Worker, Any] = {}
    while len(results) < len(workers) and (left := end - time.monotonic()) > 0:
        busy = [worker for worker in workers if worker not in results]
        wait([pipe for worker in busy for pipe in worker.pipes()], min(POLL, left))
        for worker in busy:
            stopped = [NoAnswer(endings.STOPPED, silent=True)] if worker.stopped() else []
            for answer in worker.answered() or stopped:
                results[worker] = answer
                if isinstance(answer, NoAnswer):
                    end = min(end, time.monotonic() + grace)
        if waiting is not None:
            waiting()
    for worker in workers:
        if worker not in results:
            how = f"no answer within {min(seconds, round(end - began)):g} s{endings.position(worker.stacks())}"
            results[worker] = NoAnswer(how, silent=True)
    return [results[worker] for worker in workers]


class WorkerError(Exception):
    """Workers gave no answer; the message says which, and why. `hung`: one was silent, or killed by a signal."""

    def __init__(self, failures: Mapping[str, NoAnswer]) -> None:
        super().__init__("; ".join(f"{name}: {failure.how}" for name, failure in failures.items()))
        self.hung = any(failure.silent or (failure.code or 0) < 0 for failure in failures.values())
        self.lost = self.hung or any(failure.code is not None for failure in failures.values())


def call(
    workers: Mapping[str, Worker], method: str, *arguments: Any, seconds: float, grace: float = math.inf
) -> list[Any]:
    """Call a method in all workers at once; returns their `answers`; a `WorkerError` if a worker gave none."""
    for worker in workers.values():
        worker.send(method, *arguments)
    results = answers(list(workers.values()), seconds, grace=grace)
    failures = {name: answer for name, answer in zip(workers, results, strict=True) if isinstance(answer, NoAnswer)}
    if failures:
        raise WorkerError(failures)
    return results


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def importable() -> dict[str, str]:
    """This process's environment, with a PYTHONPATH by which a child imports what this process can, this kit first."""
    # PYTHONPATH alone may differ from `sys.path`: pytest puts the folder of a checkout before the installed packages.
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(IMPORT_ROOT), *filter(None, sys.path)])}
