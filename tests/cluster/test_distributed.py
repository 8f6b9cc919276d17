"""Several processes: how they find each other, what each reads, and the message when one is lost."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import ragged

from sftref.cli import main, make_cluster
from sftref.cluster import supervise
from sftref.cluster.devices import by_default, start
from sftref.cluster.distributed import LOST, Cluster, digest, lost
from sftref.config import ConfigError, TrainConfig
from sftref.data.batches import Layout, Part, fill, pad

THREE = {"coordinator": "host0:7777", "num_processes": 2, "process_id": 1}
# What JAX 0.10.2 wrote when process 1 of 2 had been killed, and when process 0 had.
UNHEALTHY = """E1127 coordination_service.cc:1549] propagate: UNAVAILABLE: The following tasks are unhealthy \
(stopped sending heartbeats):
1
The tasks have crashed. Check the task logs for an earlier error
"""
SOCKET = """F1127 client.h:80] Terminating process because the JAX distributed service detected fatal errors.
Additional GRPC error information from remote target coordination_service while calling /xla.coordination.\
CoordinationService/PollForError:
:UNKNOWN:Error received from peer  {grpc_message:"Socket closed", grpc_status:14}
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "host0:7777"}, "--coordinator without --num-processes and --process-id"),
        ({"process_id": 0, "num_processes": 2}, "--num-processes, --process-id without --coordinator"),
        (THREE | {"auto": True}, "--distributed auto with --coordinator"),
        (THREE | {"coordinator": "host0"}, "--coordinator = 'host0', must be HOST:PORT"),
        (THREE | {"process_id": 2}, "--process-id = 2, must be at least 0 and at most 1"),
        (THREE | {"num_processes": 0, "process_id": 0}, "--num-processes = 0, must be at least 1"),
        (THREE | {"wait": 0}, "--wait = 0, must be at least 1"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cluster(**options)  # type: ignore[arg-type]


def test_options_override_variables() -> None:
    variables = {"SFTREF_COORDINATOR": "a:1", "SFTREF_NUM_PROCESSES": "4", "SFTREF_PROCESS_ID": "3"}
    cluster = make_cluster({"process_id": 2}, variables)
    assert (cluster.coordinator, cluster.num_processes, cluster.process_id) == ("a:1", 4, 2)
    assert make_cluster({}, {"SFTREF_DISTRIBUTED": "auto"}).auto
    assert not make_cluster({}, {}).several
    with pytest.raises(ConfigError, match="SFTREF_PROCESS_ID = 'two', must be a whole number"):
        make_cluster({}, variables | {"SFTREF_PROCESS_ID": "two"})


def test_several_processes_need_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--coordinator", "a:1", "--num-processes", "2", "--process-id", "0"]) == 2
    assert "--out: is required with several processes" in capsys.readouterr().err


def test_a_finished_run_is_not_started_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without checkpoints there is nothing to resume, and its records are kept."""
    for name in ("config.json", "metrics.jsonl", "summary.json"):
        (tmp_path / name).write_text("{}")
    words = ["train", "--model", "tiny", "--trainer", "single", "--max-steps", "1", "--out", str(tmp_path)]
    assert main([*words, "--resume", "auto"]) == 2
    assert "has config.json, metrics.jsonl, summary.json of an earlier run" in capsys.readouterr().err
    assert (tmp_path / "summary.json").read_text() == "{}"


def test_parts_of_a_batch_make_up_the_whole() -> None:
    tokens = ragged(23)
    layout = Layout(micro=2, rows=12, length=int(tokens.lengths.max()), slots=1)
    index = np.random.default_rng(1).permutation(23)
    whole = pad(tokens, index, layout)
    parts = [pad(tokens, index, layout, Part(first, first + 2, 6)) for first in (0, 2, 4)]
    for name, leaf in whole._asdict().items():
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts], axis=1), leaf)


def test_a_part_reads_the_tokens_of_its_own_rows_only() -> None:
    tokens = ragged(8)
    beyond = int(tokens.offsets[4])
    # Another process's tokens are beyond the end of this array.
    short = type(tokens)(
        tokens.input_ids[:beyond], tokens.token_type_ids[:beyond], tokens.offsets, tokens.labels, tokens.example_ids
    )
    layout, rows = Layout(1, 8, int(tokens.lengths.max()), 1), np.arange(8)
    zeros = np.zeros_like(rows)
    got = fill(short, rows, rows, zeros, zeros, layout, Part(0, 1, 2))
    np.testing.assert_array_equal(got.example_ids[0, :, 0], tokens.example_ids[:4])
    with pytest.raises(IndexError):
        fill(short, rows, rows, zeros, zeros, layout, Part(1, 2, 2))


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (UNHEALTHY, [1]),
        (UNHEALTHY.replace("\n1\n", "\n1\n12\n"), [1, 12]),
        (UNHEALTHY.replace("\n1\n", "\n/job:jax_worker/replica:0/task:3\n"), [3]),  # JAX 0.5
        (SOCKET, [0]),
        ("step 20/200 | loss 0.7", []),
        # With the network cut, no connection is refused: no answer comes.
        ("DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /xla.coordination.CoordinationService/Heartbeat", [0]),
    ],
)
def test_lost_processes_are_named(words: str, numbers: list[int]) -> None:
    assert lost(words) == numbers


@pytest.mark.parametrize(
    ("text", "code", "exit_code", "message"),
    [
        (UNHEALTHY, -6, LOST, "process 0 lost process 1, which sent no heartbeat for 10 s"),
        ("step 3", -9, LOST, "process 0 ended by SIGKILL, which the kernel also sends when memory runs out"),
        ("step 3", -15, 143, "process 0 was ended by SIGTERM"),
        ("Timeout (0:05:00)!", 1, LOST, "process 0 got no answer from the others, all of which are running"),
        ("Connection closed by peer", LOST, LOST, "process 0 lost the connection to another process"),
        ("sftref: --out a: is a file", 2, 2, ""),  # process 0 has printed it itself
        ("done", 0, 0, ""),
    ],
)
def test_how_a_worker_ended(text: str, code: int, exit_code: int, message: str) -> None:
    output = supervise.Output(None)
    output.copy(io.StringIO(f"{supervise.JOINED}0 of 2\n{text}\n"), io.StringIO())
    line, supervisors_code = supervise.explain(output, code)
    assert supervisors_code == exit_code
    assert line.startswith(message)
    assert bool(line) == bool(message)


def test_the_others_never_joined() -> None:
    output = supervise.Output(None)
    text = "DEADLINE_EXCEEDED: Deadline Exceeded\nRPC: /xla.coordination.CoordinationService/RegisterTask\n"
    output.copy(io.StringIO(text), io.StringIO())
    line, code = supervise.explain(output, -6)
    assert line.startswith("not all processes joined within --wait, or the coordinator")
    assert code == LOST


def test_output_is_kept_and_that_of_process_0_is_printed(tmp_path: Path) -> None:
    for process in (0, 1):
        output, printed = supervise.Output(tmp_path), io.StringIO()
        output.copy(io.StringIO(f"early\n{supervise.JOINED}{process} of 2\nstep 1\n[Gloo] Rank 0\n"), printed)
        output.close()
        log = (tmp_path / "logs" / f"process-{process}.log").read_text()
        assert log == "early\nstep 1\n[Gloo] Rank 0\n"
        assert printed.getvalue() == ("early\nstep 1\n" if process == 0 else "")
    output, printed = supervise.Output(tmp_path), io.StringIO()
    output.copy(io.StringIO("sftref: --coordinator a:1: process 1 did not join\n"), printed)
    output.close()
    assert "did not join" in printed.getvalue()


def test_digests_differ_for_other_values_dtypes_and_shapes() -> None:
    a = np.arange(4, dtype=np.int32)
    assert digest(a) == digest(a.copy())
    assert len({digest(a), digest(a.astype(np.int64)), digest(a.reshape(2, 2)), digest([0, 1, 2, 3])}) == 4


@pytest.mark.parametrize(("cores", "devices"), [(1, 2), (2, 2), (6, 6), (64, 8)])
def test_as_many_simulated_devices_as_cores(cores: int, devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least two, so that training is distributed; more than eight would only take memory."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert by_default() == devices
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    assert len(start(TrainConfig())) == devices
