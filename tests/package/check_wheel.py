"""Run by `tox -e package`, away from the source tree: is the wheel whole, and does its command work?

Exits with the first thing that is not so.
"""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

FILES = (
    "sftref/CHANGELOG.md",
    "sftref/cluster/jobset.yaml",
    "sftref/cluster/slurm.sbatch",
    "sftref/conformance/MANIFEST",
    "sftref/conformance/VERSION",
    "sftref/conformance/__init__.py",
    "sftref/conformance/adapters/sftref.py",
    "sftref/conformance/docs/glossary.md",
    "sftref/conformance/laws/machine/test_1_copies.py",
    "sftref/conformance/laws/machine/test_1_copies.toml",
    "sftref/conformance/pytest.ini",
    "sftref/conformance/report/report.schema.json",
    "sftref/data/bundled/README.md",
    "sftref/data/bundled/stats.json",
    "sftref/data/bundled/train.parquet",
    "sftref/data/bundled/validation.parquet",
    "sftref/py.typed",
    "sftref/trainers/mesh.py",
)


def main() -> None:
    """Check where the package is, what is in it, and one run of the tiny model on the bundled pairs."""
    spec = importlib.util.find_spec("sftref")
    assert spec is not None, "sftref is not importable"
    assert spec.origin is not None, "sftref is a namespace package: its __init__.py is missing"
    root = Path(spec.origin).parent
    assert "site-packages" in root.parts, f"sftref is imported from {root}, must be the installed wheel"
    assert importlib.util.find_spec("conformance") is None, "a top-level package called conformance was installed"
    installed = {str(path) for path in importlib.metadata.files("sftref") or ()}
    missing = [name for name in FILES if name not in installed]
    assert not missing, f"the wheel lacks {', '.join(missing)}"
    licences = [name for name in installed if name.endswith(("/LICENSE", "/NOTICE"))]
    assert len(licences) == 2, f"licence files in the wheel = {licences}, must be LICENSE and NOTICE"

    sftref = [str(Path(sys.executable).with_name("sftref"))]
    subprocess.run([*sftref, "--version"], check=True)
    # Every file of the kit is as its MANIFEST has it, and there is no other.
    doctor = subprocess.run([*sftref, "doctor"], check=True, capture_output=True, text=True)
    assert doctor.stdout.endswith(", as listed in MANIFEST\n"), doctor.stdout
    common = ["--model", "tiny", "--train-fraction", "0.02", "--eval-fraction", "0.2", "--max-length", "64"]
    train = [*sftref, "train", *common, "--epochs", "1", "--out", "run", "--save", "model", "--overwrite"]
    subprocess.run(train, check=True)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    # 2 % of 8,078 pairs are 161: three updates, of 64, 64 and 33.
    assert [line["examples"] for line in steps] == [64, 64, 33], f"steps = {steps}"
    assert Path("run/curves.png").stat().st_size > 10_000, "curves.png is empty"
    subprocess.run(
        [*sftref, "evaluate", "--model", "model", "--max-length", "64", "--eval-fraction", "0.2", "--out", "scores",
         "--overwrite"],
        check=True,
    )  # fmt: skip
    again = json.loads(Path("scores/evaluation.json").read_text())["results"]["validation"]
    trained = json.loads(Path("run/summary.json").read_text())["final"]["validation"]
    assert again["accuracy"] == trained["accuracy"], f"saved and loaded again: {again}, must be {trained}"
    print("the wheel is whole, and the model it saved scores as it did in training")


if __name__ == "__main__":
    main()
