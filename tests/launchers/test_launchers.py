"""`sftref verify` and `sftref train` under real launchers: Slurm and Open MPI, on hosts with names and addresses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hosts import Hosts
from ranks import losses

pytestmark = [pytest.mark.slow, pytest.mark.once, pytest.mark.timeout(1800), pytest.mark.usefixtures("light_children")]

CLUSTER = Path(__file__).parents[2] / "sftref" / "cluster"
SFTREF = [sys.executable, "-P", "-m", "sftref.cli"]
JOINED = (
    "import jax, socket; jax.distributed.initialize();"
    "print(jax.process_index(), jax.process_count(), socket.gethostname())"
)
TRAIN = ["train", "--distributed", "auto", "--model", "tiny", "--devices", "4", "--batch-size", "30",
         "--max-length", "64", "--max-steps", "3"]  # fmt: skip
# One law alone, all pairs, the collectives of all: what depends on the launcher.
VERIFY = ["verify", "--distributed", "auto", "--level", "quick", "--only", "copies.round_trip", "--devices", "1"]
SRUN = ["srun", "-N4", "-n4", "--no-kill", "--kill-on-bad-exit=0", "--wait=0"]
EVERY = "h0,h1,h2,h3"


def mpi(hosts: Hosts, mpirun: list[str], where: str = EVERY) -> list[str]:
    """The command that runs a program on each of four hosts by Open MPI."""
    return [*mpirun, "--mca", "plm_rsh_agent", str(hosts.folder / "agent"), "--host", where, "-n", "4"]


def members(output: str) -> list[tuple[str, ...]]:
    """(number, number of processes, host) that `JOINED` prints, in order; gloo prints lines, too."""
    return sorted(re.findall(r"^(\d) (\d) (\S+)$", output, re.MULTILINE))


def reported(out: Path) -> dict[str, Any]:
    """The object `cluster` of a report."""
    found: dict[str, Any] = json.loads((out / "report.json").read_text())["cluster"]
    return found


ALL = [(str(i), "4", f"h{i}") for i in range(4)]


def test_hosts_have_names_and_addresses_of_their_own(four_hosts: Hosts) -> None:
    for i, host in enumerate(four_hosts.names):
        shown = four_hosts.run(host, "sh", "-c", "hostname; ip -4 -o addr show eth0; cat /etc/hosts").stdout
        assert shown.startswith(f"{host}\n")
        assert f"inet 10.77.0.{i + 1}/24" in shown
    ping = "import socket; socket.create_connection(('h3', 9), timeout=2)"
    refused = four_hosts.run("h0", sys.executable, "-c", ping).stderr
    assert "ConnectionRefusedError" in refused, "h3 answers that nothing listens there"
    four_hosts.link("h3", "down")
    try:
        assert "ConnectionRefusedError" not in four_hosts.run("h0", sys.executable, "-c", ping).stderr
    finally:
        four_hosts.link("h3", "up")


def test_jax_joins_the_tasks_of_slurm(four_hosts: Hosts, slurm: dict[str, str]) -> None:
    for words in (["-N4", "-n4"], ["-N2", "-n4", "--ntasks-per-node=2"]):
        ended = four_hosts.run("h0", "srun", *words, sys.executable, "-c", JOINED, timeout=300, **slurm)
        want = ALL if "-N4" in words else [(str(i), "4", f"h{i // 2}") for i in range(4)]
        assert members(ended.stdout) == want, ended.stderr


def test_a_dead_task_of_slurm_ends_no_other(four_hosts: Hosts, slurm: dict[str, str]) -> None:
    """With the options of verify.sbatch."""
    script = '[ "$SLURM_PROCID" = 2 ] && kill -9 $$; sleep 2; echo "alive $SLURM_PROCID"'
    ended = four_hosts.run("h0", *SRUN, "sh", "-c", script, **slurm)
    assert sorted(ended.stdout.split("\n")) == ["", "alive 0", "alive 1", "alive 3"]
    text = (CLUSTER / "verify.sbatch").read_text()
    assert all(option in text for option in SRUN[3:])


def test_jax_joins_the_processes_of_open_mpi(four_hosts: Hosts, mpirun: list[str]) -> None:
    """On four hosts, and four on one machine."""
    ended = four_hosts.run("h0", *mpi(four_hosts, mpirun), sys.executable, "-c", JOINED, timeout=300)
    assert members(ended.stdout) == ALL, ended.stderr
    here = [*mpirun, "-n", "4", sys.executable, "-c", JOINED]
    alone = subprocess.run(here, capture_output=True, text=True, timeout=300, check=False)
    assert [row[:2] for row in members(alone.stdout)] == [row[:2] for row in ALL], alone.stderr


def test_training_is_the_same_under_both(
    four_hosts: Hosts, slurm: dict[str, str], mpirun: list[str], tmp_path: Path
) -> None:
    for name, words in (("slurm", ["srun", "-N4", "-n4"]), ("mpi", mpi(four_hosts, mpirun))):
        command = [*words, *SFTREF, *TRAIN, "--out", str(tmp_path / name)]
        ended = four_hosts.run("h0", *command, timeout=900, **slurm)
        assert ended.returncode == 0, ended.stderr
    assert losses(tmp_path / "slurm") == losses(tmp_path / "mpi")


def test_the_verdict_under_slurm(four_hosts: Hosts, slurm: dict[str, str], tmp_path: Path) -> None:
    ended = four_hosts.run("h0", *SRUN, *SFTREF, *VERIFY, "--out", str(tmp_path), timeout=900, **slurm)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = reported(tmp_path)
    assert (found["launcher"], [host["host"] for host in found["hosts"]]) == ("slurm", four_hosts.names)
    assert [pair[:3] for pair in found["pairs"]] == [[a, b, "pass"] for a in range(4) for b in range(a + 1, 4)]
    assert found["exclude"] == ""


def test_the_verdict_under_open_mpi(four_hosts: Hosts, mpirun: list[str], tmp_path: Path) -> None:
    words = [*mpi(four_hosts, mpirun), *SFTREF, *VERIFY, "--out", str(tmp_path)]
    ended = four_hosts.run("h0", *words, timeout=900)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert reported(tmp_path)["launcher"] == "openmpi"


def test_a_bad_host_of_slurm_is_named_with_the_command_that_leaves_it_out(
    four_hosts: Hosts, slurm: dict[str, str], tmp_path: Path
) -> None:
    """That command then gives a clean verdict on the other three."""
    fault = {"SFTREF_CLUSTER_FAULT": "hang-in-the-tournament@2"}
    command = [*SFTREF, *VERIFY, "--out"]
    ended = four_hosts.run("h0", *SRUN, *command, str(tmp_path / "four"), timeout=1200, **slurm, **fault)
    assert ended.returncode != 0
    found = reported(tmp_path / "four")
    assert found["bad_hosts"] == [2]
    assert found["exclude"].startswith("srun --exclude=h2 ")
    words = ["srun", "--exclude=h2", "-N3", "-n3", *command, str(tmp_path / "three")]
    ended = four_hosts.run("h0", *words, timeout=900, **slurm)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [host["host"] for host in reported(tmp_path / "three")["hosts"]] == ["h0", "h1", "h3"]


def test_the_batch_script(four_hosts: Hosts, slurm: dict[str, str], tmp_path: Path) -> None:
    """The command is `sbatch verify.sbatch`, with the numbers of this machine instead of the script's."""
    sftref = tmp_path / "sftref"
    sftref.write_text(f'#!/bin/sh\nexec {" ".join(SFTREF)} "$@"\n')
    sftref.chmod(0o755)
    words = ["sbatch", "--wait", "--nodes=4", "--cpus-per-task=1", "--gpus-per-node=0", f"--output={tmp_path}/log"]
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SFTREF_OUT": str(tmp_path / "out")}
    options = [word for word in VERIFY[1:] if word not in ("--distributed", "auto")]
    command = [*words, str(CLUSTER / "verify.sbatch"), *options]
    ended = four_hosts.run("h0", *command, timeout=900, **slurm, **variables)
    assert ended.returncode == 0, ended.stderr + (tmp_path / "log").read_text()
    assert reported(tmp_path / "out")["launcher"] == "slurm"
