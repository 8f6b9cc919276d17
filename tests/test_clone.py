"""`python -m sftref` in a clone that is not installed: all its processes use the clone's code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sftref.conformance.laws.support.process_group import free_port

pytestmark = pytest.mark.usefixtures("light_children")

ROOT = Path(__file__).parents[1]
# Each process that imports the clone's sftref writes its own path, and that of its kit, into the file LOG.
TRACE = """
import importlib.util, os
with open(os.environ["LOG"], "a") as log:
    print(__file__, importlib.util.find_spec("sftref.conformance").origin, file=log)
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "sftref"  # the name that `git clone` gives
    for name in ("sftref", "conformance"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "sftref" / "__init__.py").open("a") as file:
        file.write(TRACE)
    return folder


def run(clone: Path, log: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m sftref WORDS` in the clone; checks that each process imported the clone's files."""
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")} | {"LOG": str(log)}
    command = [sys.executable, "-m", "sftref", *words]
    done = subprocess.run(command, cwd=clone, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = set(log.read_text().splitlines())
    assert lines == {f"{clone}/sftref/__init__.py {clone}/conformance/__init__.py"}
    return done


def test_help_is_that_of_the_command(clone: Path, tmp_path: Path) -> None:
    assert run(clone, tmp_path / "log", "--help").stdout.startswith("usage: sftref [-h] [--version]")


def test_verify_and_its_processes(clone: Path, tmp_path: Path) -> None:
    words = ["--level", "quick", "--only", "0", "--out", str(tmp_path / "out")]
    assert "CONFORMANT" in run(clone, tmp_path / "log", "verify", *words).stdout
    assert len((tmp_path / "log").read_text().splitlines()) >= 2, "the checks run in another process"


def test_train_and_its_worker(clone: Path, tmp_path: Path) -> None:
    """A process of several runs in a worker of its own."""
    small = ["--model", "tiny", "--num-layers", "1", "--train-fraction", "0.02", "--eval-fraction", "0.1"]
    one = ["--coordinator", f"localhost:{free_port()}", "--num-processes", "1", "--process-id", "0", "--wait", "120"]
    run(clone, tmp_path / "log", "train", *small, *one, "--max-steps", "1", "--out", str(tmp_path / "run"))
    assert (tmp_path / "run" / "summary.json").exists()
    assert len((tmp_path / "log").read_text().splitlines()) == 2
