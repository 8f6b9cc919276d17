"""Scores of Hugging Face's evaluate beside ours: equal ones pass, different ones fail, a missing metric is named."""

import importlib.util
import logging
import math
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sftref.config import ConfigError, ScoreError
from sftref.data import glue_metric
from sftref.data.glue_metric import SecondScores
from sftref.data.tasks import get_task
from sftref.train.metrics import task_metrics

SCRIPT = """
import datasets
import evaluate
import numpy
import scipy.stats
import sklearn.metrics


class Glue(evaluate.Metric):
    def _info(self):
        kind = "float32" if self.config_name == "stsb" else "int64"
        features = datasets.Features({"predictions": datasets.Value(kind), "references": datasets.Value(kind)})
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=features, format="numpy"
        )

    def _compute(self, predictions, references):
        assert predictions.dtype == references.dtype == self._info().features["predictions"].dtype
        return scores(self.config_name, predictions, references)


def scores(task, predictions, references):
    if task == "stsb":
        pearson = scipy.stats.pearsonr(predictions, references)[0]
        return {"pearson": pearson, "spearmanr": scipy.stats.spearmanr(predictions, references)[0]}
    if task == "cola":
        return {"matthews_correlation": sklearn.metrics.matthews_corrcoef(references, predictions)}
    f1 = sklearn.metrics.f1_score(references, predictions) if task in ("mrpc", "qqp") else None
    return {"accuracy": numpy.mean(predictions == references), "f1": f1}
"""


def load(path: str, task: str, **_: Any) -> types.SimpleNamespace:
    """Stands for `evaluate.load`, whose import takes seconds: runs the same script without the package's storage."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"Couldn't find a module script at {path}.")
    space: dict[str, Any] = {}
    exec(Path(path).read_text(), space)
    kind = np.float32 if task == "stsb" else np.int64
    compute = lambda predictions, references: space["scores"](  # noqa: E731
        task, np.asarray(predictions, kind), np.asarray(references, kind)
    )
    return types.SimpleNamespace(compute=compute)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The metric's script, and a small package `evaluate` that runs it."""
    fake: Any = types.ModuleType("evaluate")
    fake.load, fake.Metric, fake.__version__ = load, object, "0"
    monkeypatch.setitem(sys.modules, "evaluate", fake)
    path = tmp_path / "glue" / "glue.py"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    glue_metric.load_metric.cache_clear()
    yield path
    glue_metric.load_metric.cache_clear()


def evaluation(name: str, n: int = 200, seed: int = 0) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Our scores, logits [n, C] and labels [n]."""
    rng, task = np.random.default_rng(seed), get_task(name)
    if task.regression:
        labels = rng.uniform(0, 5, n).astype(np.float32)
        logits = (labels + rng.normal(size=n)).astype(np.float32)[:, None]
        return task_metrics(task, predictions=logits[:, 0], labels=labels), logits.astype(np.float64), labels
    labels = rng.integers(0, task.num_labels, n).astype(np.int32)
    logits = rng.normal(size=(n, task.num_labels)) + 0.5 * np.eye(task.num_labels)[labels]
    confusion = np.zeros((task.num_labels, task.num_labels), np.int64)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    return task_metrics(task, confusion=confusion), logits, labels


@pytest.mark.parametrize("name", ["cola", "mrpc", "mnli", "stsb"])
def test_equal_scores(script: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    second = SecondScores(get_task(name), script.parent)
    ours, logits, labels = evaluation(name)
    assert second.check("dev", ours, logits, labels) == pytest.approx(ours, abs=1e-6)
    second.finish()
    shown = ", ".join(f"{key} {value:.4f}" for key, value in ours.items())
    assert capsys.readouterr().out == f"dev by evaluate 0: {shown}, equal\n"


@pytest.mark.parametrize(("name", "key"), [("cola", "matthews_correlation"), ("mrpc", "f1"), ("stsb", "pearson")])
def test_one_other_prediction_of_200_is_a_difference(script: Path, name: str, key: str) -> None:
    second = SecondScores(get_task(name), script)
    ours, logits, labels = evaluation(name)
    wrong = logits.copy()
    wrong[3] = -wrong[3]
    second.check("dev", ours, wrong, labels)
    with pytest.raises(ScoreError, match=r"^dev \w+ = 0\.\d+, must be 0\.\d+ as evaluate 0 computes it, within") as e:
        second.finish()
    assert any(f" {key} = " in line for line in second.differences)
    assert "\n" not in str(e.value)


def test_float64_predictions_that_are_equal_in_float32(script: Path) -> None:
    """Their ranks are not compared: they are other ranks."""
    labels = np.arange(4, dtype=np.float32)
    logits = np.array([1, 1 + 1e-12, 2, 3])[:, None]
    ours = task_metrics(get_task("stsb"), predictions=logits[:, 0], labels=labels)
    second = SecondScores(get_task("stsb"), script)
    assert list(second.check("dev", ours, logits, labels)) == ["pearson"]
    second.finish()


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_two_undefined_scores_are_equal(script: Path) -> None:
    labels, logits = np.arange(4, dtype=np.float32), np.ones((4, 1))
    second = SecondScores(get_task("stsb"), script)
    scores = second.check("dev", {"pearson": math.nan, "spearmanr": math.nan}, logits, labels)
    assert all(math.isnan(score) for score in scores.values())
    second.finish()


def test_no_metric_is_one_plain_line(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, logits, labels = evaluation("mrpc")
    beginning = "scores are not compared with those of Hugging Face's evaluate: "
    second = SecondScores(get_task("mrpc"))
    assert second.check("dev", ours, logits, labels) == {}
    second.finish()
    script.write_text("def scores(*_):\n    raise RuntimeError('two\\nlines')")
    assert SecondScores(get_task("mrpc"), script).check("dev", ours, logits, labels) == {}
    monkeypatch.setitem(sys.modules, "evaluate", None)
    glue_metric.load_metric.cache_clear()
    third = SecondScores(get_task("mrpc"))
    assert capsys.readouterr().err.splitlines() == [
        f"{beginning}glue is not in its cache, and the hub was not reached; --glue-metric DIR takes a copy",
        f"{beginning}evaluate 0 cannot compute those of dev (two lines)",
    ], "nothing is loaded before there are scores"
    third.check("dev", ours, logits, labels)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"{beginning}the package evaluate is not installed; pip install 'sftref[train]' has it\n"


def test_a_script_that_was_asked_for_must_load(script: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--glue-metric .*nowhere: evaluate 0 cannot load .*; give the folder of a"):
        SecondScores(get_task("mrpc"), script.parent / "nowhere")


@pytest.mark.once
def test_the_package_itself(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real `evaluate` runs the script above, with the types that GLUE's metric has."""
    monkeypatch.delitem(sys.modules, "evaluate")
    assert importlib.util.find_spec("evaluate"), "pip install '.[train]' has it"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    logging.disable(logging.CRITICAL)  # transformers says that there is no PyTorch
    try:
        for name in ("cola", "mrpc", "stsb"):
            second = SecondScores(get_task(name), script.parent)
            ours, logits, labels = evaluation(name, 400)
            assert second.check("dev", ours, logits, labels) == pytest.approx(ours, abs=1e-6)
            second.finish()
            second.check("dev", ours, np.roll(logits, 1, axis=0), labels)
            assert len(second.differences) == len(ours)
    finally:
        logging.disable(logging.NOTSET)
    assert capsys.readouterr().out.count(", equal\n") == 3
