"""The kit in other people's repositories: a copy, a submodule, the installed package; and a plain pytest beside them.

Each repository has a test of its owner's; each environment has exactly the packages that `vendor.md` names.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from environments import clone, linked, variables
from ladders import KIT
from test_docs import environment, repository, requirements

pytestmark = pytest.mark.once

CHECKS = ["--only", "environment.devices", "--only", "training.decay", "--level", "quick", "--no-self-test"]
UNDER_PYTEST = ["--sftref-only=environment.devices", "--sftref-only=training.decay", "--sftref-level=quick"]
OWN = "tests/test_own.py::test_own\n\n1 test collected"


@pytest.fixture(scope="session")
def needs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with what the page names."""
    packages = requirements(environment("conformance/docs/vendor.md"))
    assert "sftref" not in "".join(packages)
    return linked(tmp_path_factory.mktemp("needs") / "venv", packages)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment in which a clone was installed."""
    return linked(tmp_path_factory.mktemp("installed") / "venv", [".[demo]"])


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clone(tmp_path_factory.mktemp("source") / "sftref")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return repository(tmp_path / "theirs")


def call(commands: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    found = variables(commands, JAX_PLATFORMS="cpu")
    return subprocess.run(
        [str(commands / words[0]), *words[1:]], cwd=folder, env=found, text=True, capture_output=True, timeout=300,
        check=False,
    )  # fmt: skip


def copy(folder: Path) -> None:
    """As `cp -r` from a clone."""
    shutil.copytree(KIT, folder / "conformance", ignore=shutil.ignore_patterns("__pycache__"))


def submodule(theirs: Path, source: Path) -> None:
    words = ["git", "submodule", "add", str(source), "third_party/sftref"]
    subprocess.run(words, cwd=theirs, env=variables(), check=True, capture_output=True)


def trainer(theirs: Path, package: str) -> str:
    """The template, as a stranger starts from it: outside of the kit, which it imports by its name there."""
    text = (KIT / "adapters" / "template.py").read_text()
    text = text.replace("from ..", f"from {package}.").replace("from .", f"from {package}.adapters.")
    (theirs / "kit.py").write_text(text)
    return "kit:Template"


def judge(folder: Path, ended: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """Assert that both checks passed; returns the report's section on the kit."""
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((folder / "sftref-report" / "report.json").read_text())
    assert {check["id"]: check["status"] for check in report["checks"]} == {
        "environment.devices": "pass", "training.decay[Template]": "pass",
    }  # fmt: skip
    kit: dict[str, object] = report["kit"]
    return kit


def test_a_copy(tmp_path: Path, needs: Path) -> None:
    """Under a path that pytest would take for the parameter of a test."""
    theirs = repository(tmp_path / "theirs [x]")
    copy(theirs)
    name = trainer(theirs, "conformance")
    words = ["python", "-m", "conformance", "verify", "--adapter", name, "--against", name, *CHECKS]
    assert "has no MANIFEST" in str(judge(theirs, call(needs, theirs, *words))["unknown"])
    assert call(needs, theirs, "python", "-m", "conformance", "doctor", "--write").returncode == 0
    doctor = call(needs, theirs, "python", "-m", "conformance", "doctor")
    assert (doctor.returncode, doctor.stdout.split(", ")[-1]) == (0, "as listed in MANIFEST\n")


def test_a_submodule(theirs: Path, needs: Path, source: Path) -> None:
    submodule(theirs, source)
    name = trainer(theirs, "third_party.sftref.conformance")
    words = ["python", "-m", "third_party.sftref.conformance", "verify", "--adapter", name, "--against", name]
    kit = judge(theirs, call(needs, theirs, *words, *CHECKS))
    assert kit["changed"] == kit["missing"] == kit["added"] == []
    doctor = call(needs, theirs, "python", "-m", "third_party.sftref.conformance", "doctor")
    assert (doctor.returncode, "as committed in " in doctor.stdout) == (0, True), doctor.stdout


@pytest.mark.parametrize("how", ["a copy", "a copy beside an installed kit", "a submodule"])
def test_a_plain_pytest_collects_none_of_the_kit(
    how: str, theirs: Path, needs: Path, installed: Path, source: Path
) -> None:
    commands = installed if "installed" in how else needs
    if how == "a submodule":
        submodule(theirs, source)
        # Not hidden by the submodule's package of that name.
        (theirs / "conformance").mkdir()
        (theirs / "conformance" / "__init__.py").write_text("OURS = True\n")
        (theirs / "tests" / "test_own.py").write_text("def test_own():\n    from conformance import OURS\n")
    else:
        copy(theirs)
    for words in (["pytest", "--co"], ["python", "-m", "pytest", "--co", "--doctest-modules"]):
        collected = call(commands, theirs, *words, "-q")
        assert collected.stdout.startswith(OWN), collected.stdout + collected.stderr
        assert collected.returncode == 0
    ended = call(commands, theirs, "python", "-m", "pytest", "-q")
    assert (ended.returncode, ended.stdout.split(" in ")[0].split("\n")[-1]) == (0, "1 passed"), ended.stdout


@pytest.mark.parametrize("commands", ["needs", "installed"])
def test_laws_are_collected_where_the_folder_is_named_and_not_judged(
    commands: str, theirs: Path, request: pytest.FixtureRequest
) -> None:
    copy(theirs)
    for path in ("conformance", "conformance/laws/machine/test_0_environment.py"):
        ended = call(request.getfixturevalue(commands), theirs, "pytest", "--co", "-q", path, *UNDER_PYTEST)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "test_0_environment.py::test_devices" in ended.stdout
        assert "UNTRUSTED" not in ended.stdout


def test_a_copy_beside_a_package_of_the_same_name(theirs: Path, needs: Path) -> None:
    """As the page says: with an `__init__.py` beside the copy."""
    (theirs / "third_party").mkdir()
    (theirs / "third_party" / "__init__.py").touch()
    copy(theirs / "third_party")
    (theirs / "conformance").mkdir()
    (theirs / "conformance" / "__init__.py").write_text("OURS = True\n")
    (theirs / "tests" / "test_own.py").write_text("def test_own():\n    from conformance import OURS\n")
    ended = call(needs, theirs, "python", "-m", "pytest", "-q")
    assert (ended.returncode, "1 passed" in ended.stdout) == (0, True), ended.stdout
    name = trainer(theirs, "third_party.conformance")
    words = ["python", "-m", "third_party.conformance", "verify", "--adapter", name, "--against", name]
    judge(theirs, call(needs, theirs, *words, *CHECKS))


@pytest.mark.parametrize("twice", [[], ["-p", "sftref.pytest_plugin"]], ids=["by itself", "and named"])
def test_the_installed_package(theirs: Path, installed: Path, twice: list[str]) -> None:
    name = trainer(theirs, "sftref.conformance")
    words = ["pytest", "-q", *twice, "--pyargs", "sftref.conformance", *UNDER_PYTEST, f"--sftref-adapter={name}"]
    ended = call(installed, theirs, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout


def test_a_wrong_trainer_fails_there(theirs: Path, installed: Path) -> None:
    """What can only pass proves nothing: the decay of biases, in the installed kit."""
    name = "sftref.conformance.faults.trainers:decay_everywhere"
    words = ["pytest", "-q", "--pyargs", "sftref.conformance", *UNDER_PYTEST, f"--sftref-adapter={name}"]
    ended = call(installed, theirs, *words)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "training.decay" in ended.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["sftref", "--version"],
        ["python", "-m", "sftref", "--version"],
        ["python", "-m", "sftref.conformance", "explain", "copies"],
        ["python", "-m", "pytest", "--co", "-q", "tests/core"],
        ["pytest", "--co", "-q", "tests/core"],
        ["pytest", "--co", "-q", "--benchmark", "--sftref-level=quick", "--sftref-time=dispatch", "--sftref-devices=1"],
    ],
    ids=" ".join,
)
def test_a_clone_that_was_installed(words: list[str], installed: Path, source: Path) -> None:
    ended = call(installed, source, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
