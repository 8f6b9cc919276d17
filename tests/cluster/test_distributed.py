"""Several processes: how they find each other, what each reads, and what is said when one is lost."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from helpers import ragged

from sftref.cli import main, make_cluster
from sftref.cluster import supervise
from sftref.cluster.distributed import LOST, Cluster, digest, lost
from sftref.config import ConfigError
from sftref.data.batches import Layout, Part, fill, pad

THREE = {"coordinator": "host0:7777", "num_processes": 2, "process_id": 1}
# What JAX 0.10.2 said when process 1 of 2 had been killed, and when process 0 had.
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
    ("given", "says"),
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
def test_a_cluster_that_cannot_be(given: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        Cluster(**given)  # type: ignore[arg-type]


def test_options_go_before_variables() -> None:
    variables = {"SFTREF_COORDINATOR": "a:1", "SFTREF_NUM_PROCESSES": "4", "SFTREF_PROCESS_ID": "3"}
    found = make_cluster({"process_id": 2}, variables)
    assert (found.coordinator, found.num_processes, found.process_id) == ("a:1", 4, 2)
    assert make_cluster({}, {"SFTREF_DISTRIBUTED": "auto"}).auto
    assert not make_cluster({}, {}).several
    with pytest.raises(ConfigError, match="SFTREF_PROCESS_ID = 'two', must be a whole number"):
        make_cluster({}, variables | {"SFTREF_PROCESS_ID": "two"})


def test_several_processes_need_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--coordinator", "a:1", "--num-processes", "2", "--process-id", "0"]) == 2
    assert "--out: must be given with several processes" in capsys.readouterr().err


def test_a_run_that_came_to_its_end_is_not_begun_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without checkpoints there is nothing to resume, and its records are kept."""
    for name in ("config.json", "metrics.jsonl", "summary.json"):
        (tmp_path / name).write_text("{}")
    words = ["train", "--model", "tiny", "--trainer", "single", "--max-steps", "1", "--out", str(tmp_path)]
    assert main([*words, "--resume", "auto"]) == 2
    assert "holds the config.json, metrics.jsonl, summary.json of an earlier run" in capsys.readouterr().err
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
    # Whoever reads another process's tokens would meet the end of the array.
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
    ("words", "who"),
    [
        (UNHEALTHY, [1]),
        (UNHEALTHY.replace("\n1\n", "\n1\n12\n"), [1, 12]),
        (UNHEALTHY.replace("\n1\n", "\n/job:jax_worker/replica:0/task:3\n"), [3]),  # JAX 0.5
        (SOCKET, [0]),
        ("step 20/200 | loss 0.7", []),
        # Behind a partition of the network that lasts nobody refuses: nothing comes.
        ("DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /xla.coordination.CoordinationService/Heartbeat", [0]),
    ],
)
def test_the_lost_are_named(words: str, who: list[int]) -> None:
    assert lost(words) == who


@pytest.mark.parametrize(
    ("said", "code", "exit_code", "message"),
    [
        (UNHEALTHY, -6, LOST, "process 0 lost process 1, of which no sign came for 10 s"),
        ("step 3", -9, LOST, "process 0 ended by SIGKILL, which the kernel also sends when memory runs out"),
        ("step 3", -15, 143, "process 0 was ended by SIGTERM"),
        ("Timeout (0:05:00)!", 1, LOST, "process 0 waited in vain for the others, all of which are alive"),
        ("Connection closed by peer", LOST, LOST, "process 0 lost the connection to another process"),
        ("sftref: --out a: is a file", 2, 2, ""),  # process 0 has said it itself
        ("done", 0, 0, ""),
    ],
)
def test_how_a_worker_ended(said: str, code: int, exit_code: int, message: str) -> None:
    voice = supervise._Voice(None)
    voice.listen(io.StringIO(f"{supervise.JOINED}0 of 2\n{said}\n"), io.StringIO())
    found, found_code = supervise._explain(voice, code)
    assert found_code == exit_code
    assert found.startswith(message)
    assert bool(found) == bool(message)


def test_one_that_waited_for_the_others_in_vain() -> None:
    voice = supervise._Voice(None)
    said = "DEADLINE_EXCEEDED: Deadline Exceeded\nRPC: /xla.coordination.CoordinationService/RegisterTask\n"
    voice.listen(io.StringIO(said), io.StringIO())
    found, code = supervise._explain(voice, -6)
    assert (found[:44], code) == ("not all processes came within --wait, or the", LOST)


def test_what_a_process_says_is_kept_and_that_of_the_first_is_passed_on(tmp_path: Path) -> None:
    for process in (0, 1):
        voice, heard = supervise._Voice(tmp_path), io.StringIO()
        voice.listen(io.StringIO(f"early\n{supervise.JOINED}{process} of 2\nstep 1\n[Gloo] Rank 0\n"), heard)
        voice.close()
        log = (tmp_path / "logs" / f"process-{process}.log").read_text()
        assert log == "early\nstep 1\n[Gloo] Rank 0\n"
        assert heard.getvalue() == ("early\nstep 1\n" if process == 0 else "")
    voice, heard = supervise._Voice(tmp_path), io.StringIO()
    voice.listen(io.StringIO("sftref: --coordinator a:1: process 1 did not join\n"), heard)
    voice.close()
    assert "did not join" in heard.getvalue()


def test_digests_tell_values_apart() -> None:
    one = np.arange(4, dtype=np.int32)
    assert digest(one) == digest(one.copy())
    assert len({digest(one), digest(one.astype(np.int64)), digest(one.reshape(2, 2)), digest([0, 1, 2, 3])}) == 4
