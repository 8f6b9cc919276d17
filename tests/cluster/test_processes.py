"""`sftref train` in several processes of this machine: undisturbed, interrupted, or with a process that is lost."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from ranks import Ended, ends, losses, records, started, until, worker

from sftref.cluster.distributed import HEARTBEAT, LOST

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("light_children")]

# Two layers of width 32 on the bundled pairs; 30 examples divide by no number of devices but 2.
RUN = ["train", "--model", "tiny", "--devices", "4", "--batch-size", "30", "--max-length", "64"]
STEPS = ["--max-steps", "6", "--eval-fraction", "0.3"]
LONG = ["--max-steps", "400", "--save-every", "10", "--eval-fraction", "0.3"]
# A run that lost a process must end within this time: JAX misses a heartbeat within `HEARTBEAT` seconds, and looks for
# them every few seconds.
SOON = 3 * HEARTBEAT + 15


def run_sftref(*words: str, code: int = 0) -> str:
    """Run the command line in one process, which must end with this exit code; its stderr."""
    command = [sys.executable, "-P", "-m", "sftref.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr


def alone(out: Path, *words: str) -> None:
    """The same run in one process."""
    run_sftref(*RUN, "--out", str(out), *words)


def refused(ended: Mapping[int, Ended], message: str) -> None:
    """Each process ended before its first step, with exit code 2 and this message."""
    for process in ended.values():
        assert process.returncode == 2, ended
        assert message in process.stderr


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """The same losses to rounding and metrics exactly: each process has half of every batch and reads every logit."""
    alone(tmp_path / "one", *STEPS)
    with started(2, [*RUN, *STEPS, "--out", str(tmp_path / "two")]) as running:
        ended = ends(running, 300)
    assert {number: process.returncode for number, process in ended.items()} == {0: 0, 1: 0}, ended
    assert ended[1].stdout + ended[1].stderr == ""
    assert "[Gloo]" not in ended[0].stdout
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    # Another order of a sum of n terms: u sqrt(log2 n), which grows over six tiny steps by less than ten.
    np.testing.assert_allclose(two, one, rtol=10 * 2.0**-24 * 4)
    metrics = [[{k: v for k, v in line.items() if k in ("accuracy", "f1", "examples")}
                for line in records(tmp_path / run) if line["kind"] == "eval"] for run in ("one", "two")]  # fmt: skip
    assert metrics[0] == metrics[1]
    assert metrics[0]
    assert (tmp_path / "two" / "logs" / "process-1.log").read_text().count("records in") == 1


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["pmap", "mesh", "shard_map"])
def test_two_and_four_processes_are_equal_bit_for_bit(tmp_path: Path, trainer: str) -> None:
    """One sum goes over all four devices, whichever processes have them."""
    for processes in (2, 4):
        words = [*RUN, *STEPS, "--trainer", trainer, "--out", str(tmp_path / str(processes))]
        with started(processes, words) as running:
            assert {process.returncode for process in ends(running, 400).values()} == {0}
    assert losses(tmp_path / "2") == losses(tmp_path / "4")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "number", "codes", "says"),
    [
        (1, signal.SIGKILL, {0: LOST, 1: LOST}, "process 0 lost process 1"),
        (0, signal.SIGKILL, {0: LOST, 1: LOST}, "process 1 lost process 0"),
        (1, signal.SIGINT, {0: LOST, 1: 130}, "process 0 lost process 1"),
        (1, signal.SIGSTOP, {0: LOST}, "process 0 lost process 1"),
    ],
)
def test_a_lost_process_is_named_and_the_run_can_be_resumed(
    tmp_path: Path, victim: int, number: signal.Signals, codes: dict[int, int], says: str
) -> None:
    """The others end by themselves, in time; resumed on three devices, the run is that of an undisturbed one."""
    out = tmp_path / "lost"
    with started(2, [*RUN, *LONG, "--out", str(out)]) as running:
        until(out / "checkpoints" / "20")
        os.kill(worker(running[victim]), number)
        began = time.monotonic()
        stopped = number == signal.SIGSTOP
        ended = ends({k: process for k, process in running.items() if not (stopped and k == victim)}, SOON)
        print(f"{number.name} of {victim}: {time.monotonic() - began:.1f} s")
        assert {k: process.returncode for k, process in ended.items()} == codes, ended
        assert says in "".join(process.stderr for process in ended.values())
    if victim == 1 and number == signal.SIGKILL:
        run_sftref("train", "--out", str(out), "--resume", "auto", "--devices", "3")
        alone(tmp_path / "whole", *LONG)
        # Roundings of 400 updates, u sqrt(400), times ten as above; 200 of them were measured to give 1.2e-7.
        np.testing.assert_allclose(losses(out), losses(tmp_path / "whole"), rtol=10 * 2.0**-24 * 20)
        resumed, whole = (records(run)[-1]["accuracy"] for run in (out, tmp_path / "whole"))
        assert resumed == pytest.approx(whole, abs=0.01)


@pytest.mark.slow
def test_a_process_that_never_joins_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with started(2, [*RUN, *STEPS, "--out", str(tmp_path / "a"), "--wait", "5"], absent=[1]) as running:
        ended = ends(running, 60)
    assert ended[0].returncode == LOST, ended
    assert "sftref: not all processes joined within --wait" in ended[0].stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--seed", "1"], "the configuration (an option or a preset)"),
        (["--batch-size", "28"], "the configuration (an option or a preset)"),
        ([], "the training data (their lengths, labels or order)"),
    ],
)
def test_processes_that_differ_do_not_start(tmp_path: Path, extra: list[str], says: str) -> None:
    """Named on every process, before the first step."""
    rows = "".join(f"a {k},b {k % 5},{k % 2}\n" for k in range(200))
    folders = {0: tmp_path / "host0", 1: tmp_path / "host1"}
    for number, folder in folders.items():
        (folder / "data").mkdir(parents=True)
        # Where only the data should differ: one path on two hosts, one of which has an old copy.
        mine = rows if number == 0 or extra else rows.replace("b 3", "b 3 c")
        for name in ("train", "validation"):
            (folder / "data" / f"{name}.csv").write_text("question1,question2,label\n" + mine)
    words = [*RUN, *STEPS, "--data", "data", "--out", str(tmp_path / "out")]
    with started(2, words, extra={1: extra}, folders=folders) as running:
        ended = ends(running, 120)
    refused(ended, says)
    for process in ended.values():
        assert re.search(r"of process [01] differs", process.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "file", "text", "says"),
    [
        ({"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}, "none", "", "XLA_FLAGS of process 1 differs"),
        # On its host a file of ours was changed, which no version number shows.
        ({}, "sitecustomize.py", "import sftref.model.layers\nsftref.model.layers.MASKED = -1e29\n",
         "the program of a step of process 1 differs"),
        # An old copy, found before the installed one. Versions are compared first: more may differ because of them.
        ({}, "optax-0.0.1.dist-info/METADATA", "Name: optax\nVersion: 0.0.1\n",
         "the version of Python or a package of process 1 differs"),
    ],
)  # fmt: skip
def test_another_program_is_named(tmp_path: Path, variables: dict[str, str], file: str, text: str, says: str) -> None:
    path = tmp_path / "host1" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    odd = {1: {"PYTHONPATH": str(tmp_path / "host1")} | variables}
    with started(2, [*RUN, *STEPS, "--out", str(tmp_path / "out")], variables=odd) as running:
        refused(ends(running, 120), says)


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_save_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    """Two processes are killed while Orbax writes: one process resumes from the save before, and no step is missing."""
    out = tmp_path / "killed"
    words = [*RUN, "--max-steps", "400", "--save-every", "1", "--eval-fraction", "0.3", "--out", str(out)]
    with started(2, words) as run:
        until(out / "checkpoints" / "3")
        end = time.monotonic() + 60
        while not (writing := list((out / "checkpoints").glob("*.orbax-checkpoint-tmp*"))):
            assert time.monotonic() < end, "no save was seen"
        for process in run.values():
            os.kill(worker(process), signal.SIGKILL)
        ends(run, SOON)
    assert any(path.exists() for path in writing), "the save ended before the kill"
    saved = max(int(path.name) for path in (out / "checkpoints").iterdir() if path.name.isdecimal())
    assert f"steps {saved + 1} to 400" in run_sftref("train", "--resume", str(out), "--save-every", "200")
    assert [line["step"] for line in records(out) if line["kind"] == "step"] == list(range(1, 401))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    """With one byte changed, or without one file: exit code 2, and the folder's name."""
    out = tmp_path / "run"
    alone(out, "--max-steps", "4", "--save-every", "2", "--eval-fraction", "0.3")
    newest = out / "checkpoints" / "4"
    (out / "summary.json").unlink()
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    middle = len(content) // 2
    for damage in (content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], content[:middle], None):
        if damage is None:
            largest.unlink()
        else:
            largest.write_bytes(damage)
        assert f"checkpoint {newest}: cannot be read" in run_sftref("train", "--resume", str(out), code=2)
