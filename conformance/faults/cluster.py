"""Seeded faults of clusters: what goes wrong on one host, or between two, of a run of several processes.

The variable SFTREF_CLUSTER_FAULT names them, in each process of the run: `ID@PROCESS`, or `ID@SENDER>RECEIVER`, several
with commas between. Only this file reads it, in the children that agents start.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

VARIABLE = "SFTREF_CLUSTER_FAULT"
# A variable of each child: the number of its process in the run.
PROCESS = "SFTREF_CLUSTER_PROCESS"
# Another one: the number of its job. The first pairs are job 3, after `start`, `alone` and `measure`.
JOB, FIRST_PAIRS = "SFTREF_CLUSTER_JOB", 3
FOR_EVER = 3600.0
# How much longer each repetition takes on a slow host.
SLOWER = 0.1
# Versions, variables and clocks that no host has.
OTHER_VERSION, OTHER_VARIABLE, OTHER_CLOCK = "0.0.1", "--xla_gpu_deterministic_ops=true", 3600.0
MIB = 1 << 20
_SEEDED = contextlib.ExitStack()


def seeded(process: int) -> dict[str, str]:
    """The faults of a process: id -> the processes after its `@`. A fault between two is one of the receiver."""
    found = {}
    for text in filter(None, os.environ.get(VARIABLE, "").split(",")):
        fault, _, where = text.partition("@")
        if int(where.rpartition(">")[2]) == process:
            found[fault] = where
    return found


def received(got: dict[int, Any], member: Any, operation: str, size: int) -> dict[int, Any]:
    """The results of a collective as the faults of this process change them: row -> values."""
    faults = seeded(member.members[member.number])
    if "hang-in-the-tournament" in faults and len(member.members) == 2 and operation == "all_gather":
        time.sleep(FOR_EVER)
    if "partition-that-heals" in faults and int(os.environ[JOB]) <= FIRST_PAIRS and operation == "all_gather":
        time.sleep(FOR_EVER)
    where = faults.get("messages-corrupted-above-1-MiB")
    if where and size > MIB and int(where.partition(">")[0]) in member.members:
        sender = member.members.index(int(where.partition(">")[0]))
        return {row: _corrupted(values, operation, sender, len(member.members)) for row, values in got.items()}
    return got


def _corrupted(values: Any, operation: str, sender: int, processes: int) -> Any:
    """The values with one element changed that came from the process `sender`."""
    changed = values.copy()
    part = len(changed) // processes if operation in ("all_gather", "all_to_all") else 0
    changed[sender * part + 1] += 2
    return changed


def reported(static: dict[str, Any], process: int) -> dict[str, Any]:
    """What `snapshot.static` returned, with the version and the variable that the faults of this process report."""
    faults = seeded(process)
    if "another-jaxlib" in faults:
        static = static | {"versions": static["versions"] | {"jaxlib": OTHER_VERSION}}
    if "another-variable" in faults:
        static = static | {"variables": static["variables"] | {"XLA_FLAGS": OTHER_VARIABLE}}
    return static


def clock(now: float, process: int) -> float:
    """The time that this process reports, in seconds since 1970."""
    return now + OTHER_CLOCK if "another-clock" in seeded(process) else now


def seed_machine() -> None:
    """Seed the fault of this process's host, if it has one, until the process ends."""
    faults = seeded(int(os.environ.get(PROCESS, "-1")))
    if "wrong-matrix-product" in faults:
        from .backend import primitives  # it imports JAX, which agents do without

        _SEEDED.enter_context(primitives.FAULTS.seed("last-term-lost"))


@contextlib.contextmanager
def slower(workload: Any, process: int) -> Iterator[None]:
    """In the block, each repetition of the `workload` takes 10 % longer, if that is a fault of this process."""
    if "slower-by-10-percent" not in seeded(process):
        yield
        return
    from .backend.seeding import patch

    right = workload.repeat

    def longer(program: Any) -> float:
        took = float(right(program))
        # Work of the same kind, not sleep: on a CPU, the clock is processor time.
        end = time.process_time() + SLOWER * took
        while time.process_time() < end:
            pass
        return (1 + SLOWER) * took

    with patch(workload, "repeat", longer):
        yield
