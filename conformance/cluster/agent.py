"""One process of a run: takes jobs from process 0, runs each in a fresh child with a deadline, and reports.

The agent never touches a device. Its children do, each in a session of its own: that a child hangs, crashes or raises
is a result. The kernel ends the children when the agent ends.
"""

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..core.kit import PACKAGE
from ..core.settings import Settings
from ..faults import cluster as faults
from ..machine import snapshot, startup
from ..workers.channel import NoAnswer, Worker, free_port
from ..workers.plan import variables
from .link import Link, Stop
from .options import Cluster
from .store import HOLD, Client, Gone

# Deadlines are for a host with a free core. A busy one gets as much more time as SPIN seconds of work take, up to
# SLOWEST times as much.
SPIN, SLOWEST = 0.1, 10.0
# The most frames of a stack in the report.
FRAMES = 6


class Agent:
    """The agent of one process; `run` returns its exit code."""

    def __init__(self, cluster: Cluster, out: Path | None, reported: Mapping[str, str] | None = None) -> None:
        # The variables that the user set; process 0's agent is a child, whose own have more.
        self.reported = reported
        self.cluster, self.me = cluster, cluster.process
        self.client = Client(cluster.host, cluster.port, self.me)
        self.log = Log(out, self.me)
        self.link, self.address = Link(self.client), ""

    def run(self) -> dict[str, Any]:
        """Take jobs until process 0 ends the run; returns its last words.

        Raises:
            Gone: process 0 never came, or is lost.
            ValueError: process 0 has another number of processes, or another process has this number.
        """
        self._greet()
        for self.link.job in itertools.count():
            while (job := self.link.ask(get=f"job/{self.link.job}", hold=HOLD)) is None:
                pass
            if job["do"] == "end":
                self.leave("the run has ended")
                return dict(job)
            self.log.write(f"job {self.link.job}: {job['do']}")
            began = time.monotonic()
            try:
                result = getattr(self, f"_{job['do']}")(job)
            except Stop:
                # The tasks that ended are already there.
                result = {"state": "stopped", "message": "ended by process 0, because another member failed"}
            except Exception as error:  # a fault of this host's system, such as a full disk, is its result
                result = {"state": "error", "message": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            result |= {"done": True, "seconds": round(time.monotonic() - began, 3)}
            self.log.write(f"job {self.link.job}: {result['state']} {result.get('message', '')}")
            self.link.ask({f"result/{self.link.job}/{self.me}": result})
        raise AssertionError

    def _greet(self) -> None:
        """Wait for process 0, and tell it about this host."""
        until = time.monotonic() + self.cluster.wait
        while True:
            try:
                self.client.request()
                break
            except Gone as error:
                if time.monotonic() > until:
                    raise Gone(
                        f"it was not there within --wait {self.cluster.wait} s ({error})", refused=False
                    ) from error
                time.sleep(0.2)
        self.link.beat()
        about, known = self.link.ask(get="run", hold=HOLD), self.link.ask(get=f"hello/{self.me}")
        if about["processes"] != self.cluster.processes:
            words = f"--num-processes = {self.cluster.processes}, must be {about['processes']}, as in process 0"
            raise ValueError(words)
        if known is not None:
            words = f"another process has this number ({known['host']}, pid {known['pid']})"
            raise ValueError(f"--process-id = {self.me}: {words}; give each process its own")
        # Process 0 finds itself at an address that may lead others to themselves, as 127.0.1.1 does.
        self.address = self.cluster.host if self.me == 0 else self.client.own_address()
        static = faults.reported(snapshot.static(self.reported), self.me)
        boot = Path("/proc/sys/kernel/random/boot_id")
        hello = {
            "host": socket.gethostname(), "pid": os.getpid(), "time": faults.clock(time.time(), self.me),
            "boot": boot.read_text().strip() if boot.is_file() else socket.gethostname(), **static,
        }  # fmt: skip
        self.link.ask({f"hello/{self.me}": hello})

    def leave(self, why: str) -> None:
        """Tell process 0 that this agent ends."""
        with contextlib.suppress(Gone):
            self.client.request({f"left/{self.me}": why})

    def _environment(self) -> dict[str, str]:
        """The environment of a child."""
        kept = {
            name: value for name, value in variables(os.environ, None).items() if not name.lower().endswith("_proxy")
        }
        if self.cluster.local_devices:
            numbers = ",".join(map(str, self.cluster.local_devices))
            kept |= {"JAX_CUDA_VISIBLE_DEVICES": numbers, "JAX_ROCM_VISIBLE_DEVICES": numbers}
        return kept | {faults.PROCESS: str(self.me), faults.JOB: str(self.link.job)}

    @contextlib.contextmanager
    def _child(self, factory: str, *arguments: Any) -> Iterator[Worker]:
        with Worker(f"{PACKAGE}.cluster.{factory}", *arguments, variables=self._environment(), alone=True) as worker:
            try:
                yield worker
            finally:
                for line in worker.output:
                    self.log.write(f"  {line}")

    def _start(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Start JAX on this host's devices, phase by phase."""
        started = startup.start(settings_of(job), self.link.check, self._environment())
        if started.how == startup.READY:
            return {"state": "pass", "live": started.live, "phases": started.seconds}
        states = {startup.HANG: "hang", startup.CRASH: "crash"}
        return {"state": states.get(started.how, "error"), "message": started.line[:400]} | stack_of(started.message)

    def _alone(self, job: Mapping[str, Any]) -> dict[str, Any]:
        with self._child("children.alone:Alone") as child:
            answer = child.ask("run", settings_of(job), seconds=job["deadline"] * slowness(), waiting=self.link.check)
        return failed(answer) if isinstance(answer, NoAnswer) else {"state": "pass", **answer}

    def _measure(self, job: Mapping[str, Any]) -> dict[str, Any]:
        if self.me not in job["only"]:
            return {"state": "not_run"}
        with self._child("speed.timed:Timed", settings_of(job), self.me) as child:
            answer = child.ask("run", job["duration"], seconds=job["deadline"] * slowness(), waiting=self.link.check)
        return failed(answer) if isinstance(answer, NoAnswer) else {"state": "pass", "times": answer}

    def _group(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Join the other members of this process's group, and do the tasks with them, one after the other."""
        group: Sequence[int] = next((group for group in job["groups"] if self.me in group), ())
        if not group:
            return {"state": "not_run", "tasks": []}
        number, key = group.index(self.me), f"address/{self.link.job}/{group[0]}"
        tasks: list[dict[str, Any]] = []
        with self._child(f"children.{job['factory']}", group, number, settings_of(job)) as child:
            if number == 0:
                host = f"[{self.address}]" if ":" in self.address else self.address
                self.link.ask({key: f"{host}:{free_port()}"})
            busy = slowness()
            join = round(job["join"] * busy)
            address = self._address(key, join)
            first = {"name": "join", "method": "join", "arguments": [address, join], "seconds": job["join"] + 30}
            for task in [first, *job["tasks"]]:
                began = time.monotonic()
                seconds = round(task["seconds"] * busy)
                answer = child.ask(task["method"], *task["arguments"], seconds=seconds, waiting=self.link.check)
                ended = failed(answer) if isinstance(answer, NoAnswer) else {"state": "pass", "value": answer}
                tasks.append({"name": task["name"], "seconds": round(time.monotonic() - began, 3), **ended})
                self.link.ask({f"result/{self.link.job}/{self.me}": {"state": ended["state"], "tasks": tasks}})
                if ended["state"] != "pass":
                    break
            else:
                # How a member leaves is no result: JAX aborts it if the first one, which serves the store, is faster.
                left = child.ask("leave", seconds=round(job["join"] * busy), waiting=self.link.check)
                if isinstance(left, NoAnswer):
                    self.log.write(f"  all tasks ended; then: {left.how[:400]}")
        return {"state": tasks[-1]["state"], "message": tasks[-1].get("message", ""), "tasks": tasks}

    def _address(self, key: str, seconds: float) -> str:
        until = time.monotonic() + seconds
        while (address := self.link.ask(get=key, hold=1.0)) is None:
            if time.monotonic() > until:
                raise TimeoutError(f"the first process of the group gave no address within {seconds:g} s")
            self.link.check()
        return str(address)


class Log:
    """OUT/logs/process-I.log; a folder that cannot be written is left out."""

    def __init__(self, out: Path | None, process: int) -> None:
        self.file: IO[str] | None = None
        with contextlib.suppress(OSError):
            if out is not None:
                (out / "logs").mkdir(parents=True, exist_ok=True)
                path = out / "logs" / f"process-{process}.log"
                self.file = path.open("w", buffering=1, encoding="utf-8", errors="replace")

    def write(self, line: str) -> None:
        """Append a line with the time."""
        with contextlib.suppress(OSError, ValueError):
            if self.file is not None:
                self.file.write(f"{time.strftime('%H:%M:%S')} {line}\n")


def slowness() -> float:
    """How many times as long as on a free core work takes here now, at most `SLOWEST`."""
    began, work = time.monotonic(), time.process_time() + SPIN
    while time.process_time() < work:
        pass
    return min(max(1.0, (time.monotonic() - began) / SPIN), SLOWEST)


def settings_of(job: Mapping[str, Any]) -> Settings:
    """The settings that process 0 sent with a job."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in job["settings"].items()}
    return Settings(**values)


def failed(answer: NoAnswer) -> dict[str, Any]:
    """The result of a call without an answer: what happened, and where a silent child was."""
    state = "hang" if answer.silent else "crash" if answer.code is not None else "error"
    return {"state": state, "message": answer.how[:400]} | stack_of(answer.how)


def stack_of(message: str) -> dict[str, Any]:
    """The frames in a message, as `endings.position` writes them, innermost first."""
    frames = message.partition("; it was in ")[2]
    return {"stack": frames.split(", called from ")[:FRAMES]} if frames else {}
