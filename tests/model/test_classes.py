"""The classes of a checkpoint's classifier: matched by name with a task's, refused, or assumed with a warning."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from checkpoints import assert_same, refusal, tiny_model, write

from sftref.data.tasks import Task, get_task
from sftref.model.classes import NEW_HEAD, Classes, match_classes
from sftref.model.names import to_hf
from sftref.model.pretrained import load_pretrained, save_pretrained
from sftref.model.weights import CONFIG

MNLI, RTE, SST2, STSB, WNLI = map(get_task, ("mnli", "rte", "sst2", "stsb", "wnli"))


def ids(*names: str) -> dict[str, str]:
    return {str(i): name for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("config", "task", "rows"),
    [
        ({"id2label": ids("entailment", "neutral", "contradiction")}, MNLI, (0, 1, 2)),
        # https://github.com/QData/TextAttack/issues/684
        ({"id2label": ids("contradiction", "entailment", "neutral")}, MNLI, (1, 2, 0)),
        # roberta-large-mnli's names, https://github.com/huggingface/optimum/pull/197
        ({"id2label": ids("CONTRADICTION", "NEUTRAL", "ENTAILMENT")}, MNLI, (2, 1, 0)),
        ({"label2id": {"contradiction": 0, "entailment": 1, "neutral": 2}}, MNLI, (1, 2, 0)),
        ({"label2id": {"positive": "0", "negative": "1"}, "id2label": ids("LABEL_0", "LABEL_1")}, SST2, (1, 0)),
        ({"id2label": ids("Not Entailment", " entailment")}, RTE, (1, 0)),
        ({"id2label": ids("non-entailment", "entailment")}, RTE, (1, 0)),
        ({"id2label": ids("entailment", "not_entailment")}, WNLI, (1, 0)),
        ({"id2label": {0: "NEGATIVE", 1: "POSITIVE"}, "label2id": {"NEGATIVE": 0, "POSITIVE": 1}}, SST2, (0, 1)),
        ({"id2label": ids("positive", "negative"), "problem_type": "single_label_classification"}, SST2, (1, 0)),
        ({"id2label": ids("similarity")}, STSB, (0,)),
    ],
)  # fmt: skip
def test_names_give_the_order(
    config: dict[str, Any], task: Task, rows: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    assert match_classes(config, task, source="m").rows == rows
    assert not caplog.records


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        ({}, (0, 1)),
        ({"id2label": ids("LABEL_0", "LABEL_1"), "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, (0, 1)),
        ({"id2label": ids("1", "0")}, (1, 0)),  # numbers of a data set's labels
        ({"id2label": ids("LABEL_0", "LABEL_1", "LABEL_2")}, (0, 1)),  # a default that was not updated
        ({"id2label": ids("class 1", "class 2")}, (0, 1)),
        ({"finetuning_task": "sst-2"}, (0, 1)),
        ({"finetuning_task": "glue:sst2"}, (0, 1)),
        ({"finetuning_task": "imdb"}, (0, 1)),
    ],
)
def test_without_names_the_order_is_assumed_and_this_is_said(
    config: dict[str, Any], rows: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    assert match_classes(config, SST2, source="m").rows == rows
    (record,) = caplog.records
    assert record.getMessage() == (
        "m: config.json does not name the classes of its classifier; they are assumed to be negative, positive, in "
        "this order. If they are others, write their names into id2label"
    )


@pytest.mark.parametrize(
    ("config", "task", "want"),
    [
        (
            {"id2label": ids("entailment", "not_entailment")}, SST2,
            "the classes of its classifier are entailment, not_entailment, must be negative, positive for --task sst2; "
            f"choose their task, correct id2label in config.json, or {NEW_HEAD}",
        ),
        (  # XNLI's spelling, https://github.com/facebookresearch/XNLI/issues/11
            {"id2label": ids("entailment", "neutral", "contradictory")}, MNLI,
            "the classes of its classifier are entailment, neutral, contradictory, must be entailment, neutral, "
            f"contradiction for --task mnli; choose their task, correct id2label in config.json, or {NEW_HEAD}",
        ),
        (
            {"id2label": ids("positive", "LABEL_1")}, SST2,
            "the classes of its classifier are positive, LABEL_1, must be negative, positive for --task sst2; "
            f"choose their task, correct id2label in config.json, or {NEW_HEAD}",
        ),
        (
            {"id2label": ids("negative", "positive"), "label2id": {"negative": 1, "positive": 0}}, SST2,
            "id2label in config.json has the classes negative, positive, label2id has positive, negative, must be the "
            "same; correct one of them",
        ),
        (
            {"id2label": ids("negative", "neutral", "positive")}, SST2,
            "config.json names the classes negative, neutral, positive, must have 2 different names for 0, 1, ..., the "
            "rows of the classifier; correct id2label and label2id",
        ),
        (
            {"id2label": ids("positive", "Positive")}, SST2,
            "config.json names the classes positive, Positive, must have 2 different names for 0, 1, ..., the rows of "
            "the classifier; correct id2label and label2id",
        ),
        (
            {"id2label": {"negative": 0, "positive": 1}}, SST2,
            "id2label in config.json has keys ['negative', 'positive'], must be 0, 1, …",
        ),
        ({"id2label": ["negative", "positive"]}, SST2, "id2label in config.json is a list, must be an object"),
        (
            {"label2id": {"negative": "no", "positive": 1}}, SST2,
            "label2id in config.json maps 'negative' to 'no', must be 0, 1, …; fix it",
        ),
        (
            {"problem_type": "multi_label_classification"}, SST2,
            "problem_type in config.json = 'multi_label_classification', must be 'single_label_classification' for "
            f"--task sst2; choose another checkpoint, or {NEW_HEAD}",
        ),
        (
            {"finetuning_task": "rte"}, SST2,
            "finetuning_task in config.json = 'rte', must be 'sst2', because its classes have no names; choose that "
            f"task, write the names into id2label, or {NEW_HEAD}",
        ),
    ],
)  # fmt: skip
def test_other_classes_are_refused(config: dict[str, Any], task: Task, want: str) -> None:
    assert refusal(lambda: match_classes(config, task, source="m")) == f"m: {want}"


class TestClassifier:
    """Logits are in the task's order; a saved classifier keeps its own names and order."""

    def test_its_rows_are_put_into_the_order_of_the_task_and_back(self, tmp_path: Path) -> None:
        tiny = load_pretrained("tiny", num_labels=3, seed=3)
        flat = to_hf(tiny.params)
        flat["classifier.bias"] = np.array([1, 2, 3], "f4")
        names = ids("contradiction", "Entailment", "neutral")
        write(tmp_path / "theirs", flat, id2label=names, finetuning_task="mnli", auto_map={"AutoModel": "own.Model"})
        model = load_pretrained(str(tmp_path / "theirs"), num_labels=3, task=MNLI)
        assert model.classes == Classes(tuple(names.values()), (1, 2, 0))
        assert model.params["classifier"]["bias"].tolist() == [2, 3, 1]
        np.testing.assert_array_equal(model.params["classifier"]["kernel"].T, flat["classifier.weight"][[1, 2, 0]])
        rest = {"label_names": MNLI.label_names, "classes": model.classes}
        save_pretrained(tmp_path / "ours", model.params, model.config, tiny.tokenizer(), model.hf_config, **rest)
        saved = json.loads((tmp_path / "ours" / CONFIG).read_text())
        assert saved["id2label"] == names
        assert saved["label2id"] == {name: int(i) for i, name in names.items()}
        assert not {"finetuning_task", "auto_map"} & saved.keys()
        raw = load_pretrained(str(tmp_path / "ours"), num_labels=3)
        assert raw.classes is None
        assert_same(raw.params, load_pretrained(str(tmp_path / "theirs"), num_labels=3).params)
        assert_same(load_pretrained(str(tmp_path / "ours"), num_labels=3, task=MNLI).params, model.params)

    def test_a_classifier_without_names_stays_without(self, tmp_path: Path) -> None:
        tiny = tiny_model()
        write(tmp_path / "theirs", to_hf(tiny.params))
        model = load_pretrained(str(tmp_path / "theirs"), num_labels=2, task=SST2)
        rest = {"label_names": SST2.label_names, "classes": model.classes}
        save_pretrained(tmp_path / "ours", model.params, model.config, tiny.tokenizer(), model.hf_config, **rest)
        assert json.loads((tmp_path / "ours" / CONFIG).read_text())["id2label"] == ids("LABEL_0", "LABEL_1")

    def test_a_fresh_one_has_the_classes_of_the_task(self, tmp_path: Path) -> None:
        flat = to_hf(load_pretrained("tiny", num_labels=3, seed=3).params) | {"qa_outputs.bias": np.zeros(2, "f4")}
        write(tmp_path / "theirs", flat, id2label=ids("a", "b", "c"), architectures=["BertForQuestionAnswering"])
        model = load_pretrained(str(tmp_path / "theirs"), num_labels=2, task=SST2, fresh_head=True, seed=9)
        assert model.classes is None
        assert set(model.fresh) == {"classifier.weight", "classifier.bias"}
        bare = load_pretrained("tiny", num_labels=2, seed=9).params["classifier"]
        assert_same(model.params["classifier"], jax.tree.map(np.asarray, bare))
