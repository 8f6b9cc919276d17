"""The commands and the models that people bring: their scores, and what a resumed run refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write
from tokenizers_brought import CASED
from tokenizers_brought import write as write_tokenizer

from sftref import cli
from sftref.model.names import to_hf
from sftref.model.pretrained import load_pretrained

pytestmark = pytest.mark.once

ONE = ["--trainer", "single", "--max-length", "16"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFTREF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def data(labels: list[Any]) -> None:
    for split, n in (("train", 8), ("validation", 4)):
        rows = [{"sentence": f"Paris is old {'old ' * i}", "label": labels[i % len(labels)]} for i in range(n)]
        Path("texts").mkdir(exist_ok=True)
        Path("texts", f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def model(bias: list[float], width: int = 32, **config: Any) -> None:
    """A BERT of one layer whose classifier always gives the class of the largest bias."""
    tiny = load_pretrained("tiny", num_labels=len(bias), num_layers=1)
    flat = to_hf(tiny.params)
    flat = {k: np.resize(v, [width if n == 32 else n for n in v.shape]) for k, v in flat.items()}
    flat |= {"classifier.bias": np.array(bias, "f4"), "classifier.weight": np.zeros((len(bias), width), "f4")}
    write_tokenizer(Path("bert"), CASED, config={"do_lower_case": False})
    write(Path("bert"), flat, num_hidden_layers=1, hidden_size=width, **config)


def evaluate(*arguments: str) -> int:
    return cli.main(["evaluate", "--task", "sst2", "--data", "texts", "--model", "bert", *ONE, *arguments])


def test_classes_count_by_name_and_not_by_number(capsys: pytest.CaptureFixture[str]) -> None:
    data(["positive"])
    model([9.0, 0.0], id2label={"0": "POSITIVE", "1": "NEGATIVE"})
    assert evaluate() == 0
    assert "accuracy 1.0000" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The logits are finite, but their difference is not."""
    data(["negative", "positive"])
    model([3e38, -3e38], id2label={"0": "negative", "1": "positive"})
    assert evaluate() == 1
    printed = capsys.readouterr()
    assert "loss of validation = inf, must be finite; its logits are as large as 3e+38" in printed.err
    assert not printed.out


def test_a_resumed_run_needs_its_data_and_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    data(["negative", "positive"])
    model([0.0, 0.0, 0.0])
    run = ["train", "--task", "sst2", "--data", "texts", "--model", "bert", *ONE, "--batch-size", "8", "--out", "run"]
    assert cli.main([*run, "--max-steps", "1", "--save-every", "1"]) == 2
    assert "has num_labels = 3, must have 2 for this task" in capsys.readouterr().err
    assert cli.main([*run, "--max-steps", "1", "--save-every", "1", "--fresh-head", "--save", "ours"]) == 0
    assert json.loads(Path("ours/config.json").read_text())["id2label"] == {"0": "negative", "1": "positive"}
    resume = ["train", "--resume", "run"]
    data(["positive", "negative"])
    assert cli.main(resume) == 2
    assert "--resume run: the training data and the validation data changed after" in capsys.readouterr().err
    data(["negative", "positive"])
    model([0.0, 0.0, 0.0], width=64)
    assert cli.main(resume) == 2
    assert "is float32 [32, 2], must be float32 [64, 2] as in the model that --model" in capsys.readouterr().err
