"""`evaluate` reads only what it needs, and a score that differs from Hugging Face's is an error after the work."""

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sftref import cli
from sftref.data import glue_metric

SMALL = ["--trainer", "single", "--max-length", "16"]
TINY = [*SMALL, "--model", "tiny", "--num-layers", "1", "--batch-size", "8", "--max-steps", "1"]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SFTREF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield
    glue_metric.load_metric.cache_clear()


def write(name: str, n: int) -> None:
    Path("data").mkdir(exist_ok=True)
    body = [f"how do i cook rice\twhat is the best way\t{i % 2}\n" for i in range(n)]
    Path("data", name).write_text("question1\tquestion2\tlabel\n" + "".join(body))


def evaluate_package(monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    """Put a package `evaluate` in place whose accuracy is wrong by `error`."""

    def compute(predictions: list[int], references: list[int]) -> dict[str, float]:
        equal = [p == r for p, r in zip(predictions, references, strict=True)]
        both = sum(p and r for p, r in zip(predictions, references, strict=True))
        f1 = 2 * both / (sum(predictions) + sum(references))
        return {"accuracy": sum(equal) / len(equal) + error, "f1": f1}

    package: Any = types.ModuleType("evaluate")
    package.__version__, package.load = "0", lambda *_, **__: types.SimpleNamespace(compute=compute)
    monkeypatch.setitem(sys.modules, "evaluate", package)
    glue_metric.load_metric.cache_clear()


@pytest.mark.once
def test_a_difference_is_an_error_after_everything_is_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("train.tsv", 8)
    write("val.tsv", 10)
    evaluate_package(monkeypatch, 1e-9)
    assert cli.main(["train", *TINY, "--data", "data", "--out", "run", "--save", "model"]) == 1
    captured = capsys.readouterr()
    assert ", DIFFERENT\n" in captured.out
    message = captured.err.splitlines()[-1]
    assert message.startswith(
        "sftref: validation accuracy = 0.5, must be 0.500000001 as evaluate 0 computes it, within"
    )
    assert Path("run/summary.json").exists()

    # The training split is not read, and one file is evaluated as a whole.
    Path("data/train.tsv").write_bytes(b"\xff")
    evaluate_package(monkeypatch, 0.0)
    for data, name in (("data", "validation"), ("data/val.tsv", "val")):
        out = Path("scores", name)
        assert cli.main(["evaluate", *SMALL, "--model", "model", "--data", data, "--out", str(out)]) == 0
        captured = capsys.readouterr()
        assert f"{name} by evaluate 0: accuracy 0.5000, " in captured.out
        (result,) = json.loads((out / "evaluation.json").read_text())["results"].values()
        assert result["evaluate"] == {"accuracy": result["accuracy"], "f1": result["f1"]}
        assert (out / f"predictions-{name}.jsonl").read_text().count("\n") == 10
    evaluate_package(monkeypatch, -1e-9)
    assert cli.main(["evaluate", *SMALL, "--model", "model", "--data", "data/val.tsv", "--out", "other"]) == 1
    assert Path("other/evaluation.json").exists()
