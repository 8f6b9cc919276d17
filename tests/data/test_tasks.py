"""The nine tasks against the tables of the GLUE paper and of the hub's data set card."""

import dataclasses

import pytest

from sftref.config import ConfigError
from sftref.data.tasks import HUB_ID, TASKS, Task, get_task

# Column names, C and metrics, from the data set card of nyu-mll/glue and evaluate's metrics/glue.
TABLE = {
    "cola": (("sentence",), 2, ("matthews_correlation",)),
    "sst2": (("sentence",), 2, ("accuracy",)),
    "mrpc": (("sentence1", "sentence2"), 2, ("accuracy", "f1")),
    "qqp": (("question1", "question2"), 2, ("accuracy", "f1")),
    "stsb": (("sentence1", "sentence2"), 1, ("pearson", "spearmanr")),
    "mnli": (("premise", "hypothesis"), 3, ("accuracy",)),
    "qnli": (("question", "sentence"), 2, ("accuracy",)),
    "rte": (("sentence1", "sentence2"), 2, ("accuracy",)),
    "wnli": (("sentence1", "sentence2"), 2, ("accuracy",)),
}


def test_the_nine_tasks() -> None:
    assert {name: (task.fields, task.num_labels, task.metrics) for name, task in TASKS.items()} == TABLE


def test_only_stsb_is_a_regression_from_0_to_5() -> None:
    assert {name: task.label_range for name, task in TASKS.items() if task.regression} == {"stsb": (0.0, 5.0)}


def test_only_mnli_has_two_validation_splits() -> None:
    splits = {name: task.validation_splits for name, task in TASKS.items()}
    assert splits.pop("mnli") == ("validation_matched", "validation_mismatched")
    assert set(splits.values()) == {("validation",)}


@pytest.mark.parametrize("name", TABLE)
def test_hub_name_and_aliases(name: str) -> None:
    task = get_task(name)
    assert (task.name, HUB_ID) == (name, "nyu-mll/glue")
    assert set(task.aliases.values()) <= {*task.fields, "label"}


def test_the_order_of_the_classes() -> None:
    assert {name: " ".join(task.label_names) for name, task in TASKS.items()} == {
        "cola": "unacceptable acceptable",
        "sst2": "negative positive",
        "mrpc": "not_equivalent equivalent",
        "qqp": "not_duplicate duplicate",
        "stsb": "",
        "mnli": "entailment neutral contradiction",
        "qnli": "entailment not_entailment",
        "rte": "entailment not_entailment",
        "wnli": "not_entailment entailment",  # the card: the other way round here
    }


def test_the_columns_of_the_original_files() -> None:
    assert {name: dict(task.aliases) for name, task in TASKS.items() if task.aliases} == {
        "mrpc": {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"},
        "qqp": {"is_duplicate": "label"},
        "stsb": {"score": "label"},
        "mnli": {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"},
    }


def test_an_unknown_task_lists_the_choices() -> None:
    with pytest.raises(ConfigError) as error:
        get_task("QQP")
    assert str(error.value) == "--task = 'QQP', must be one of cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli"


def test_a_task_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_task("qqp").name = "mrpc"  # type: ignore[misc]
    assert isinstance(get_task("qqp"), Task)
    with pytest.raises(TypeError):
        get_task("qqp").aliases["a"] = "b"  # type: ignore[index]
