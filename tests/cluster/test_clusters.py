"""The files for clusters: they are valid, their commands parse, and JAX may look up what it needs."""

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


def documents(name: str = "jobset.yaml") -> dict[str, dict[str, Any]]:
    """The documents of a file, by kind."""
    return {document["kind"]: document for document in yaml.safe_load_all((CLUSTERS / name).read_text())}


def test_the_batch_script_is_valid_and_its_command_parses() -> None:
    text = (CLUSTERS / "slurm.sbatch").read_text()
    assert subprocess.run(["bash", "-n", str(CLUSTERS / "slurm.sbatch")], check=False).returncode == 0
    [command] = re.findall(r"^  sftref (.*)$", text, re.M)
    args = vars(parser().parse_args([word for word in shlex.split(command) if word != "$@"]))
    assert (args["distributed"], args["resume"], args["save_every"]) == ("auto", Path("auto"), 50)
    options = re.findall(r"^#SBATCH --([a-z-]+)", text, re.M)
    assert {"nodes", "ntasks-per-node", "requeue", "open-mode"} <= set(options)


def test_the_batch_script_runs_what_srun_would(tmp_path: Path) -> None:
    """With an `srun` that prints its arguments: the folder is the job's own, and options are passed on."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": "/home/me", "SLURM_JOB_ID": "17"}
    words = ["bash", str(CLUSTERS / "slurm.sbatch"), "--epochs", "1"]
    lines = subprocess.run(words, env=variables, capture_output=True, text=True, check=True).stdout.split("\n")
    assert lines[:3] == ["--kill-on-bad-exit=1", "sftref", "train"]
    assert lines[lines.index("--out") + 1] == "/home/me/runs/17"
    assert lines[-3:-1] == ["--epochs", "1"]


def test_the_batch_script_of_verify_is_valid_and_its_command_parses() -> None:
    """`test_launchers.py` runs it under Slurm."""
    assert subprocess.run(["bash", "-n", str(CLUSTERS / "verify.sbatch")], check=False).returncode == 0
    text = (CLUSTERS / "verify.sbatch").read_text()
    [command] = re.findall(r"^  sftref (.*)$", text, re.M)
    args = vars(parser().parse_args([word for word in shlex.split(command) if word != "$@"]))
    assert (args["command"], args["distributed"]) == ("verify", "auto")
    assert "#SBATCH --no-kill\n" in text, "a node that fails must not end the job"


def test_the_job_set_of_verify_keeps_the_others_when_a_pod_fails() -> None:
    train, kinds = documents(), documents("jobset-verify.yaml")
    assert {kind: kinds[kind] for kind in train if kind != "JobSet"} == {
        kind: train[kind] for kind in train if kind != "JobSet"
    }, "one role for both"
    spec = kinds["JobSet"]["spec"]
    assert spec["network"] == train["JobSet"]["spec"]["network"]
    assert spec["failurePolicy"] == {"maxRestarts": 0}
    [job] = spec["replicatedJobs"]
    spec = job["template"]["spec"]
    # Kubernetes accepts a limit for each index with these two only.
    assert (spec["completionMode"], spec["template"]["spec"]["restartPolicy"]) == ("Indexed", "Never")
    assert spec["backoffLimitPerIndex"] == 0
    assert "backoffLimit" not in spec
    assert spec["parallelism"] == spec["completions"] == 2
    pod = spec["template"]["spec"]
    assert pod["serviceAccountName"] == kinds["ServiceAccount"]["metadata"]["name"]
    [container] = pod["containers"]
    args = vars(parser().parse_args([*container["command"][1:], *container["args"]]))
    assert (args["command"], args["distributed"], args["level"]) == ("verify", "auto", "standard")
    assert {volume["name"] for volume in pod["volumes"]} == {mount["name"] for mount in container["volumeMounts"]}


def test_the_job_set_starts_two_pods_that_may_look_themselves_up() -> None:
    kinds = documents()
    assert kinds["JobSet"]["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    [job] = kinds["JobSet"]["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"] == 2
    pod = spec["template"]["spec"]
    assert pod["serviceAccountName"] == kinds["ServiceAccount"]["metadata"]["name"]
    [container] = pod["containers"]
    args = vars(parser().parse_args([*container["command"][1:], *container["args"]]))
    assert (args["distributed"], args["out"]) == ("auto", Path("/runs/sftref"))
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(args["out"]).startswith(mounts["runs"])
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)


def test_the_role_allows_each_call_that_jax_makes_to_kubernetes() -> None:
    """The calls of JAX's cluster detection by name, each with the verb that it needs."""
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
    if port:  # in some releases it depends on the job's id
        assert [str(p["containerPort"]) for p in container["ports"]] == port
