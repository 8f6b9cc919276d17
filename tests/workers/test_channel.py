"""A worker and its parent: calls and answers, and how an error, an end, a hang and the parent's death are handled."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sftref.conformance.workers import process
from sftref.conformance.workers.channel import NoAnswer, Worker, WorkerError, answers, call, importable

MODULE = """
import os, subprocess, sys, time

class Target:
    def __init__(self, start):
        self.total = start
    def add(self, value):
        self.total = self.total + value
        return {"total": self.total, 3: (1, None)}
    def name(self):
        print("a line on stdout", flush=True)
        return os.getpid()
    def end(self, code):
        os.write(2, b"last line\\n")
        os._exit(code)
    def sleep(self):
        time.sleep(600)
    def stop(self):
        os.kill(os.getpid(), 19)
    def child(self):
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
"""
LIMIT = 60.0


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "target.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker("target:Target", np.zeros(1 << 18)) as worker:
        yield worker


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds; a zombie has ended."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_arrays_and_other_values_travel_unchanged(worker: Worker) -> None:
    value = np.random.default_rng(0).standard_normal(1 << 18)
    answer = worker.ask("add", value, seconds=LIMIT)
    np.testing.assert_array_equal(answer["total"], value)
    assert answer[3] == (1, None)
    assert worker.ask("name", seconds=LIMIT) == worker.process.pid


def test_a_worker_goes_on_after_an_error(worker: Worker) -> None:
    answer = worker.ask("add", "text", seconds=LIMIT)
    assert isinstance(answer, NoAnswer)
    assert (answer.silent, answer.code) == (False, None)
    assert answer.how.startswith(("UFuncNoLoopError: ", "UFuncTypeError: ", "_UFuncNoLoopError: "))
    assert worker.ask("add", 1.0, seconds=LIMIT)["total"][0] == 1.0


def test_an_end_is_named_with_the_last_output(worker: Worker) -> None:
    assert worker.ask("name", seconds=LIMIT)
    assert worker.ask("end", 7, seconds=LIMIT) == NoAnswer(
        "exit code 7; last output: a line on stdout | last line", code=7
    )
    again = worker.ask("name", seconds=LIMIT)
    assert again.code == 7, "a call of a process that has ended"


def test_a_hang_is_named_with_its_stack_and_the_others_are_not_waited_for_longer(worker: Worker) -> None:
    with Worker("target:Target", 0) as other:
        worker.send("sleep")
        other.send("end", 1)
        began = time.monotonic()
        silent, ended = answers([worker, other], LIMIT, grace=1.0)
        assert time.monotonic() - began < LIMIT / 2
    assert ended.code == 1
    assert silent.silent
    assert "s; it was in sleep (" in silent.how
    assert "target.py:" in silent.how


def test_a_worker_alone_ends_with_what_it_started() -> None:
    with Worker("target:Target", 0, alone=True) as worker:
        child = worker.ask("child", seconds=LIMIT)
    assert worker.process.returncode == -signal.SIGKILL
    assert gone(child)


def test_an_error_names_each_worker_that_gave_no_answer(worker: Worker) -> None:
    """And all answers are read, so that the next call gets its own."""
    with Worker("target:Target", 0) as other, Worker("target:Nothing") as broken:
        for workers in ({"a": worker, "c": broken}, {"c": broken, "b": other, "a": worker}):
            with pytest.raises(WorkerError, match="c: AttributeError: module 'target' has no attr") as error:
                call(workers, "add", 1, seconds=LIMIT)
            assert not error.value.lost
        assert call({"b": other}, "add", 1, seconds=LIMIT) == [{"total": 2, 3: (1, None)}]
        other.process.kill()
        with pytest.raises(WorkerError, match="b: SIGKILL") as error:
            call({"a": worker, "b": other}, "add", 1, seconds=LIMIT)
        assert error.value.hung


def test_a_worker_ends_with_its_parent() -> None:
    parent = "import sys; from sftref.conformance.workers.channel import Worker; w = Worker('target:Target', 0)\n"
    parent += "print(w.ask('name', seconds=60), flush=True); w.send('sleep'); sys.stdin.read()"
    for kill in (True, False):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=importable()
        )
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        if kill:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT)
        assert gone(pid), f"killed: {kill}"


def test_a_worker_that_is_stopped_is_named_before_its_time_is_over(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOPPED", 0.5)
    began = time.monotonic()
    answer = worker.ask("stop", seconds=LIMIT)
    assert (answer.how, answer.silent) == ("was stopped by a signal, as by SIGSTOP, and did not continue", True)
    assert time.monotonic() - began < LIMIT / 2


def test_a_worker_that_continues_is_not_stopped(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOPPED", 30.0)
    worker.send("stop")
    until = time.monotonic() + LIMIT
    while not worker._halted and time.monotonic() < until:
        worker.stopped()
    worker.process.send_signal(signal.SIGCONT)
    [answer] = answers([worker], LIMIT)
    assert answer is None
    assert not worker._halted
