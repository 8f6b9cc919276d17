"""`sftref doctor` says which files of a copy are not the release's, and every report says of which kit it is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ladders import KIT, Copy
from sftref.conformance.core.release import KIT as OWN
from sftref.conformance.core.release import MANIFEST, VERSION, examine, hashes
from sftref.conformance.report.document import SCHEMA

import sftref
from sftref import cli

TAKE = "conformance/MANIFEST is old"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KIT, tmp_path / "conformance", ignore=shutil.ignore_patterns("__pycache__", ".*")))


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli.main(["doctor", *words])
    found = capsys.readouterr()
    return code, found.out + found.err


def test_the_manifest_is_that_of_the_tree() -> None:
    lines = (KIT / MANIFEST).read_text().splitlines()
    assert {name: digest for digest, _, name in (line.partition("  ") for line in lines)} == hashes(KIT), TAKE


def test_the_version_is_that_of_the_package() -> None:
    version = tomllib.loads((KIT / VERSION).read_text())
    assert version["kit"] == sftref.__version__
    assert version["contract"] == int(SCHEMA.rpartition("/")[2]), "a report of another schema is another contract"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="coreutils are not here")
def test_sha256sum_reads_the_manifest(copy: Path) -> None:
    words = ["sha256sum", "--check", "--quiet", MANIFEST]
    assert subprocess.run(words, cwd=copy, check=False).returncode == 0
    (copy / "check.py").write_text("")
    assert subprocess.run(words, cwd=copy, check=False, capture_output=True).returncode == 1


def test_a_whole_copy_is_as_released(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "check.pyc").touch()
    code, text = said(capsys, str(copy))
    assert code == 0
    assert text == f"{copy}: kit {sftref.__version__}, contract 1, as released\n"


def test_what_differs_is_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "tolerances.py").write_text("BOUND = 1e9\n")
    (copy / "laws" / "test_6_step.py").unlink()
    (copy / "laws" / "test_6_mine.py").touch()
    code, text = said(capsys, str(copy))
    assert code == 1
    lines = text.splitlines()
    assert lines[0].endswith("not as released")
    assert lines[1:4] == [
        "  changed: tolerances.py", "  missing: laws/test_6_step.py", "  added: laws/test_6_mine.py",
    ]  # fmt: skip
    assert lines[4].startswith("next step: put the files back")


def test_a_manifest_that_was_made_anew_hides_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "tolerances.py").write_text("BOUND = 1e9\n")
    lines = [f"{digest}  {name}\n" for name, digest in hashes(copy).items()]
    (copy / MANIFEST).write_text("".join(lines))
    code, text = said(capsys, str(copy))
    assert code == 1
    assert "  changed: tolerances.py\n" in text


def test_a_long_list_is_cut(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(25):
        (copy / f"more_{number:02}.py").touch()
    _, text = said(capsys, str(copy))
    assert text.count("  added: more_") == 20
    assert "  added: 5 more" in text


def test_another_contract_is_said(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / VERSION
    path.write_text(re.sub("contract = 1", "contract = 7", path.read_text()))
    _, text = said(capsys, str(copy))
    assert "contract 7, not as released" in text
    assert f"this command is of kit {sftref.__version__}, contract 1" in text
    assert "read sftref's CHANGELOG" in text


def test_the_folder_here_is_looked_at_first(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy.parent)
    assert said(capsys)[1].startswith("conformance: kit")
    monkeypatch.chdir(copy / "laws")
    assert said(capsys)[1].startswith(f"{OWN}: kit")


@pytest.mark.parametrize("spoiled", ["nothing", "no manifest", "no version", "no TOML"])
def test_what_is_no_kit_is_one_line(copy: Path, capsys: pytest.CaptureFixture[str], spoiled: str) -> None:
    folder = copy / "laws" if spoiled == "nothing" else copy
    if spoiled == "no manifest":
        (copy / MANIFEST).unlink()
    elif spoiled == "no version":
        (copy / VERSION).unlink()
    elif spoiled == "no TOML":
        (copy / VERSION).write_text("kit = ")
    code, text = said(capsys, str(folder))
    assert code == 2
    assert text.count("\n") == 1
    assert text.startswith(f"sftref: doctor {folder}: must be a folder with the kit")


def test_a_copy_looks_at_itself(copy: Path) -> None:
    words = [sys.executable, "-m", "conformance", "doctor"]
    found = subprocess.run(words, cwd=copy.parent, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, f"conformance: kit {sftref.__version__}, contract 1, as released\n")


def test_a_report_of_a_kit_that_somebody_edited_says_so(tmp_path: Path) -> None:
    made = Copy(tmp_path / "copy", [(1, "passes")])
    ended = made.verify("--no-self-test")
    assert ended.report["kit"]["kit"] == sftref.__version__
    assert "laws/test_1_fates.py" in ended.report["kit"]["added"]
    assert "laws.toml" in ended.report["kit"]["changed"]
    assert "| kit | kit 0.1.0, contract 1, changed" in (made.folder / "sftref-report" / "report.md").read_text()
    (made.kit / MANIFEST).unlink()
    ended = made.verify("--no-self-test")
    assert ended.code == 0
    assert "must be a folder with the kit" in ended.report["kit"]["unknown"]


def test_the_manifest_is_written_by_one_command(copy: Path) -> None:
    def call(*words: str) -> int:
        command = [sys.executable, "-m", *words]
        return subprocess.run(command, cwd=copy.parent, capture_output=True, check=False).returncode

    (copy / "check.py").write_text("")
    assert call("conformance.doctor") == 2
    assert call("conformance", "doctor") == 1
    assert call("conformance.doctor", "--write") == 0
    assert call("conformance", "doctor") == 0
    assert json.dumps(examine(copy).to_json())
    assert not examine(copy).whole, "the installed kit of that release goes by its own"
