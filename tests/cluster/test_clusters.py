"""The files for clusters that are not at hand: valid, their commands understood, and what JAX looks up allowed."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sftref.cli import parser

pytestmark = pytest.mark.once

CLUSTERS = Path(__file__).parents[2] / "sftref" / "cluster"


def documents() -> dict[str, dict[str, Any]]:
    """What jobset.yaml holds, by kind."""
    found = yaml.safe_load_all((CLUSTERS / "jobset.yaml").read_text())
    return {document["kind"]: document for document in found}


def test_the_batch_script_is_one_and_its_command_is_understood() -> None:
    text = (CLUSTERS / "slurm.sbatch").read_text()
    assert subprocess.run(["bash", "-n", str(CLUSTERS / "slurm.sbatch")], check=False).returncode == 0
    [command] = re.findall(r"^  sftref (.*)$", text, re.M)
    given = vars(parser().parse_args([word for word in shlex.split(command) if word != "$@"]))
    assert (given["distributed"], given["resume"], given["save_every"]) == ("auto", Path("auto"), 50)
    options = re.findall(r"^#SBATCH --([a-z-]+)", text, re.M)
    assert {"nodes", "ntasks-per-node", "requeue", "open-mode"} <= set(options)


def test_the_batch_script_runs_what_srun_would(tmp_path: Path) -> None:
    """With an `srun` that prints its arguments: the folder is the job's own, and options are passed on."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": "/home/me", "SLURM_JOB_ID": "17"}
    words = ["bash", str(CLUSTERS / "slurm.sbatch"), "--epochs", "1"]
    said = subprocess.run(words, env=variables, capture_output=True, text=True, check=True).stdout.split("\n")
    assert said[:3] == ["--kill-on-bad-exit=1", "sftref", "train"]
    assert said[said.index("--out") + 1] == "/home/me/runs/17"
    assert said[-3:-1] == ["--epochs", "1"]


def test_the_job_set_starts_a_pod_each_and_lets_jax_look_itself_up() -> None:
    found = documents()
    assert found["JobSet"]["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    [job] = found["JobSet"]["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"] == 2
    pod = spec["template"]["spec"]
    assert pod["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    [container] = pod["containers"]
    given = vars(parser().parse_args([*container["command"][1:], *container["args"]]))
    assert (given["distributed"], given["out"]) == ("auto", Path("/runs/sftref"))
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(given["out"]).startswith(mounts["runs"])
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)


def test_jax_asks_kubernetes_for_nothing_that_the_role_does_not_allow() -> None:
    """Each call of JAX's own cluster detection, by its name, and the verb that it needs."""
    import jax._src.clusters.k8s_cluster as jax_side

    calls = set(re.findall(r"_api\.(\w+)\(", Path(jax_side.__file__).read_text()))
    allowed = {
        f"{'read' if verb == 'get' else 'list'}_namespaced_{name.removesuffix('s')}"
        for rule in documents()["Role"]["rules"]
        for name in rule["resources"]
        for verb in rule["verbs"]
    }
    assert calls
    assert calls <= allowed
    port = re.findall(r"_coordinator_port = '(\d+)'", Path(jax_side.__file__).read_text())
    job = documents()["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    if port:  # of some releases it follows from the job's id
        assert [str(p["containerPort"]) for p in container["ports"]] == port
