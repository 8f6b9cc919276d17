"""The three ways to have the kit in a repository of one's own: a copy, a submodule, the installed package.

Each repository is a stranger's: empty but for a trainer, called as the kit's README says, and judged by real laws.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ladders import KIT

pytestmark = pytest.mark.once

ASKED = ["--only", "environment.devices", "--only", "training.decay", "--level", "quick"]
UNDER_PYTEST = ["--sftref-only=environment.devices", "--sftref-only=training.decay", "--sftref-level=quick"]


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """In a folder, with nothing of this repository in sight."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHONPATH"))}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=variables | {"JAX_PLATFORMS": "cpu"}, text=True, capture_output=True,
        timeout=300, check=False,
    )  # fmt: skip


def git(folder: Path, *words: str) -> None:
    named = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", *named, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A repository with a trainer in it."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    git(folder, "init")
    return folder


def trainer(theirs: Path, package: str) -> str:
    """The template, as a stranger starts from it: outside of the kit, which it imports by its name there."""
    text = (KIT / "adapters" / "template.py").read_text().replace("from ..", f"from {package}.")
    (theirs / "kit.py").write_text(text)
    return "kit:Template"


def judged(folder: Path, ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((folder / "sftref-report" / "report.json").read_text())
    assert {check["id"]: check["status"] for check in report["checks"]} == {
        "environment.devices": "pass", "training.decay[Template]": "pass",
    }  # fmt: skip
    assert report["kit"]["changed"] == report["kit"]["missing"] == report["kit"]["added"] == []


def test_a_copy(theirs: Path) -> None:
    shutil.copytree(KIT, theirs / "conformance", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    name = trainer(theirs, "conformance")
    words = ["-m", "conformance", "verify", "--adapter", name, "--against", name, "--no-self-test", *ASKED]
    judged(theirs, call(theirs, *words))


def test_a_submodule(theirs: Path, tmp_path: Path) -> None:
    ours = tmp_path / "sftref"
    shutil.copytree(KIT, ours / "conformance", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for words in (["init"], ["add", "."], ["commit", "-m", "release"]):
        git(ours, *words)
    git(theirs, "submodule", "add", str(ours), "third_party/sftref")
    name = trainer(theirs, "third_party.sftref.conformance")
    words = ["-m", "third_party.sftref.conformance", "verify", "--adapter", name, "--against", name, "--no-self-test"]
    judged(theirs, call(theirs, *words, *ASKED))
    # The same by pytest, whose plugin comes with the folder.
    asked = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:sftref.pytest_plugin",
        "third_party/sftref/conformance",
    ]
    ended = call(theirs, *asked, *UNDER_PYTEST, f"--sftref-adapter={name}", f"--sftref-against={name}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout


@pytest.mark.parametrize("twice", [[], ["-p", "sftref.pytest_plugin"]], ids=["by itself", "and named"])
def test_the_installed_package(theirs: Path, twice: list[str]) -> None:
    name = trainer(theirs, "sftref.conformance")
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *twice, "--pyargs", "sftref.conformance"]
    ended = call(theirs, *words, *UNDER_PYTEST, f"--sftref-adapter={name}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout


def test_a_trainer_that_breaks_is_said_by_each(theirs: Path) -> None:
    """What can only pass proves nothing: the decay of biases, in the installed kit."""
    name = "sftref.conformance.faults.trainers:decay_everywhere"
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "sftref.conformance"]
    ended = call(theirs, *words, *UNDER_PYTEST, f"--sftref-adapter={name}")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "training.decay" in ended.stdout
