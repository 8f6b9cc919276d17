"""`sftref doctor` names the files of a copy that differ from its release; every report has the same lists."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ladders import KIT, Copy
from sftref.conformance.core import release
from sftref.conformance.core.release import MANIFEST, VERSION, examine, hashes, write
from sftref.conformance.report.document import SCHEMA

import sftref
from sftref import cli

LAW = "laws/trainer/test_6_step.py"
BOUNDS = "oracle/bounds_derived.py"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the kit as a release has it, below a name that a shell must quote; no release is installed."""
    monkeypatch.setattr(release, "KIT", tmp_path / "not installed")
    folder = tmp_path / "the copy [1]" / "conformance"
    shutil.copytree(KIT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    write(folder)
    return folder


@pytest.fixture
def clone(copy: Path) -> Path:
    """The kit's folder in a repository of sftref, one commit old."""
    (copy / MANIFEST).unlink()
    (copy.parent / "sftref").mkdir()
    (copy.parent / "sftref" / "__init__.py").write_text("# A file of sftref's own.\n")
    for words in (["init"], ["add", "."], ["commit", "-m", "release"]):
        git(copy.parent, *words)
    return copy


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and output."""
    code = cli.main(["doctor", *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def spoil(folder: Path) -> None:
    """Change, remove and add a file."""
    (folder / BOUNDS).write_text("BOUND = 1e9\n")
    (folder / LAW).unlink()
    (folder / "laws" / "trainer" / "test_6_mine.py").touch()


DIFFERENCES = [f"  changed: {BOUNDS}", f"  missing: {LAW}", "  added: laws/trainer/test_6_mine.py"]


def test_the_version_is_that_of_the_package() -> None:
    version = tomllib.loads((KIT / VERSION).read_text())
    assert version["kit"] == sftref.__version__
    assert version["contract"] == int(SCHEMA.rpartition("/")[2]), "a report of another schema is another contract"


def test_what_each_contract_changed_is_in_the_version() -> None:
    text = (KIT / VERSION).read_text()
    listed = [int(number) for number in re.findall(r"^#   (\d+)  \S", text, re.M)]
    assert listed == list(range(1, tomllib.loads(text)["contract"] + 1))


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="coreutils are not here")
def test_sha256sum_reads_the_manifest(copy: Path) -> None:
    words = ["sha256sum", "--check", "--quiet", MANIFEST]
    assert subprocess.run(words, cwd=copy, check=False).returncode == 0
    (copy / "adapter.py").write_text("")
    assert subprocess.run(words, cwd=copy, check=False, capture_output=True).returncode == 1


def test_a_whole_copy(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "check.pyc").touch()
    code, text = doctor(capsys, str(copy))
    assert code == 0
    assert text == f"{copy}: kit {sftref.__version__}, contract 1, as listed in MANIFEST\n"


def test_differences_are_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(copy)
    code, text = doctor(capsys, str(copy))
    assert code == 1
    lines = text.splitlines()
    assert lines[0].endswith("not as listed in MANIFEST")
    assert lines[1:4] == DIFFERENCES
    assert lines[4].startswith("next step: put the files back")


def test_an_installed_release_judges_by_its_own_manifest(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed"
    shutil.copytree(copy, installed)
    monkeypatch.setattr(release, "KIT", installed)
    (copy / BOUNDS).write_text("BOUND = 1e9\n")
    write(copy)
    code, text = doctor(capsys, str(copy))
    assert code == 1, "a manifest written after the change hides nothing"
    assert "not as in the installed release\n" in text
    assert f"  changed: {BOUNDS}\n" in text
    (copy / MANIFEST).unlink()
    assert doctor(capsys, str(copy)) == (code, text)
    shutil.copy(installed / BOUNDS, copy / BOUNDS)
    assert doctor(capsys, str(copy))[0] == 0


def test_a_clone_is_compared_with_its_commit(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit = git(clone, "rev-parse", "--short", "HEAD")
    (clone / "core" / "__pycache__").mkdir()
    (clone / "core" / "__pycache__" / "check.pyc").touch()
    code, text = doctor(capsys, str(clone))
    assert (code, text) == (0, f"{clone}: kit {sftref.__version__}, contract 1, as committed in {commit}\n")
    spoil(clone)
    code, text = doctor(capsys, str(clone))
    assert code == 1
    assert f"not as committed in {commit}\n" in text
    assert sorted(text.splitlines()[1:4]) == sorted(DIFFERENCES)


def test_a_clone_sees_what_its_git_ignores(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clone.parent / ".git" / "info" / "exclude").write_text("test_6_mine.py\n")
    (clone / "laws" / "trainer" / "test_6_mine.py").touch()
    git(clone, "rm", "--quiet", str(clone / LAW))
    _, text = doctor(capsys, str(clone))
    assert sorted(text.splitlines()[1:3]) == sorted(DIFFERENCES[1:])


def test_a_hook_of_another_repository_changes_nothing(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert doctor(capsys, str(clone))[0] == 0


def test_a_copy_in_another_repository_has_nothing_to_compare_with(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / MANIFEST).unlink()
    for words in (["init"], ["add", "."], ["commit", "-m", "theirs"]):
        git(copy.parent, *words)
    code, text = doctor(capsys, str(copy))
    assert code == 2
    assert text.startswith(f"sftref: doctor {copy}: has no MANIFEST")
    assert text.count("\n") == 1


def test_carriage_returns_are_named_as_the_cause(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [copy / name for name in hashes(copy) if not name.endswith(".png")]
    for path in texts:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    code, text = doctor(capsys, str(copy))
    assert code == 1
    assert f"  changed in line endings only: {len(texts)} files have CRLF in place of LF\n" in text
    assert "put the files back" not in text
    (copy / BOUNDS).write_text("BOUND = 1e9\n")
    assert f"  changed: {BOUNDS}\n" in doctor(capsys, str(copy))[1]


def test_a_checkout_keeps_the_kits_line_endings(clone: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    git(tmp_path, "-c", "core.autocrlf=true", "clone", "--quiet", str(clone.parent), str(there))
    assert b"\r\n" in (there / "sftref" / "__init__.py").read_bytes(), "git changed no line ending at all"
    assert hashes(there / "conformance") == hashes(clone)


def test_a_long_list_is_cut(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(25):
        (copy / f"more_{number:02}.py").touch()
    _, text = doctor(capsys, str(copy))
    assert text.count("  added: more_") == 20
    assert "  added: 5 more" in text


def test_another_contract(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / VERSION
    path.write_text(re.sub("contract = 1", "contract = 7", path.read_text()))
    _, text = doctor(capsys, str(copy))
    assert "contract 7, not as listed" in text
    assert f"this command is of kit {sftref.__version__}, contract 1" in text
    assert "next step: read what each contract changed, in the newer kit's VERSION" in text


def test_the_folder_here_comes_first(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy.parent)
    assert doctor(capsys)[1].startswith("conformance: kit")
    monkeypatch.setattr("sftref.conformance.core.kit.KIT", copy)
    monkeypatch.chdir(copy / "laws")
    assert doctor(capsys)[1].startswith(f"{copy}: kit")


@pytest.mark.parametrize("spoiled", ["another folder", "no version", "no TOML"])
def test_a_folder_that_is_no_kit_is_one_line(copy: Path, capsys: pytest.CaptureFixture[str], spoiled: str) -> None:
    folder = copy / "laws" if spoiled == "another folder" else copy
    if spoiled == "no version":
        (copy / VERSION).unlink()
    elif spoiled == "no TOML":
        (copy / VERSION).write_text("kit = ")
    code, text = doctor(capsys, str(folder))
    assert code == 2
    assert text.count("\n") == 1
    assert text.startswith(f"sftref: doctor {folder}: must be a folder with the kit")


def test_a_copy_writes_its_manifest_and_compares_itself(copy: Path) -> None:
    def call(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "conformance", "doctor", *words]
        ended = subprocess.run(command, cwd=copy.parent, capture_output=True, text=True, check=False)
        return ended.returncode, ended.stdout

    (copy / BOUNDS).write_text("")
    assert call()[0] == 1
    assert call("--write") == (0, f"conformance/{MANIFEST}\n")
    assert call() == (0, f"conformance: kit {sftref.__version__}, contract 1, as listed in MANIFEST\n")


def test_a_report_says_which_files_differ(tmp_path: Path) -> None:
    made = Copy(tmp_path / "copy", [(1, "passes")])
    write(made.kit)
    (made.kit / "laws" / "mine.py").touch()
    ended = made.verify("--no-self-test")
    assert ended.report["kit"] == {
        "kit": sftref.__version__, "contract": 1, "changed": [], "missing": [], "added": ["laws/mine.py"],
    }  # fmt: skip
    assert "| added | laws/mine.py |" in (made.folder / "sftref-report" / "report.md").read_text()
    (made.kit / MANIFEST).unlink()
    ended = made.verify("--no-self-test")
    assert ended.code == 0
    assert "has no MANIFEST" in ended.report["kit"]["unknown"]


def test_the_kit_that_runs_these_tests_is_known() -> None:
    """A clone by its commit, an installed wheel by its manifest."""
    assert examine().reference.startswith(("committed in ", "listed in MANIFEST"))
