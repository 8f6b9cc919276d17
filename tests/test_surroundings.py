"""What surrounds a run: SFTREF_EXPECT, files in the current folder (which must have no effect), missing libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ladders import Copy


def test_no_conftest_of_the_current_folder_runs(tmp_path: Path) -> None:
    # pytest takes the value of an option that it does not know yet for a path, and "" for the current folder. So
    # `tests/conftest.py` of this repository, which selects the CPU, ran in every process of `verify`.
    made = Copy(tmp_path / "copy", [(0, "passes"), (1, "measures")])
    for folder in ("", "tests", "quick", "cpu", "known"):
        (made.folder / folder).mkdir(exist_ok=True)
        (made.folder / folder / "conftest.py").write_text(f"open('run', 'a').write({folder!r} + ' ')\n")
    (made.folder / "known" / "known.toml").touch()
    deviations = ["--deviations", "known/known.toml"]
    assert made.verify("--no-self-test", "--level", "quick", "--platform", "cpu", *deviations).code == 0
    assert not (made.folder / "run").exists()


@pytest.mark.parametrize(
    ("expect", "code", "message"),
    [
        ("cpu:8", 0, "CONFORMANT: 1 of 1 checks passed"),
        ("cpu:8:CPU", 0, "CONFORMANT: 1 of 1 checks passed"),
        ("cpu:9", 2, "number of devices, --expect cpu:9"),
        ("cpu:8:gfx942", 2, "devices of another kind, --expect cpu:8:gfx942"),
        ("rocm:8", 2, "--platform rocm"),
    ],
)
def test_expected_devices_must_be_present(expect: str, code: int, message: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "sftref.cli", "verify", "--only", "environment.platform", "--no-self-test"]
    variables = os.environ | {"SFTREF_EXPECT": expect}
    completed = subprocess.run(
        words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert completed.returncode == code, completed.stdout
    assert message in completed.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("library", ["safetensors", "transformers", "pyarrow"])
def test_a_missing_library_is_one_line(library: str) -> None:
    """As after `pip install sftref` without [train]."""
    start = f"import sys; sys.modules[{library!r}] = None; from sftref.cli import main; sys.exit(main(['train']))"
    process = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.splitlines()) == 1, process.stderr
    assert library in process.stderr
    assert "pip install 'sftref[demo]'" in process.stderr
