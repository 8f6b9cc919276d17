"""--resume compares the data, the tokenizer and the model with those with which the run began."""

import dataclasses
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from checkpoints import refusal, tiny_model
from wordpieces import FEW, pairs, wordpiece

from sftref.data.tasks import get_task
from sftref.data.tokens import tokenize
from sftref.model.classes import Classes
from sftref.train import inputs

QQP = get_task("qqp")


def run(texts: Any = FEW, labels: list[int] | None = None, **changes: Any) -> Any:
    """The parts of a `Run` that are digested."""
    tokenizer = wordpiece()
    train = tokenize(pairs(texts, labels), QQP, tokenizer, 16)
    parts = {"model": tiny_model(), "tokenizer": tokenizer, "train": train, "validation": {"validation": train}}
    return types.SimpleNamespace(**parts | changes)


def model(config: dict[str, Any] | None = None, **changes: Any) -> Any:
    tiny = tiny_model()
    return dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, **config or {}), **changes)


ROTATED = [(b, a) for a, b in FEW]
CHANGES: dict[str, tuple[Callable[[], Any], str]] = {
    "labels flipped": (lambda: run(labels=[1, 0, 1, 0]), "the training data and the validation data"),
    "a row less": (lambda: run(FEW[:3]), "the training data and the validation data"),
    "other texts of the same lengths": (
        lambda: run([("are old How you?", "what age"), *FEW[1:]]), "the training data and the validation data",
    ),
    "the validation data only": (lambda: run(validation={"validation": run(ROTATED).train}), "the validation data"),
    "tokenizer and tokens": (
        lambda: run(FEW[:3], tokenizer=wordpiece(truncation_side="left")),
        "the tokenizer and the training data and the validation data",
    ),
    "heads": (lambda: run(model=model({"num_attention_heads": 2})), "the model's num_attention_heads (4, now 2)"),
    "dropout": (
        lambda: run(model=model({"hidden_dropout_prob": 0.2})), "the model's hidden_dropout_prob (0.1, now 0.2)",
    ),
    "classes": (lambda: run(model=model(classes=Classes(("b", "a"), (1, 0)))), "the order of the model's classes"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_is_named(case: str, tmp_path: Path) -> None:
    make, what = CHANGES[case]
    inputs.record(tmp_path, inputs.digests(run()))
    inputs.compare(tmp_path, inputs.digests(run()))
    assert refusal(lambda: inputs.compare(tmp_path, inputs.digests(make()))) == (
        f"--resume {tmp_path}: {what} changed after the run began, must stay the same; put the earlier files back, or "
        "start a new run"
    )


def test_a_tokenizer_that_gives_the_same_tokens_is_the_same(tmp_path: Path) -> None:
    inputs.record(tmp_path, inputs.digests(run()))
    inputs.compare(tmp_path, inputs.digests(run(tokenizer=wordpiece(truncation_side="left"))))


def test_a_setting_that_an_earlier_version_did_not_know_is_no_change(tmp_path: Path) -> None:
    before = inputs.digests(run())
    del before[inputs.SETTINGS]["layer_norm_eps"]
    inputs.record(tmp_path, before)
    inputs.compare(tmp_path, inputs.digests(run()))


def test_other_parameters_are_said_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inputs.record(tmp_path, inputs.digests(run()))
    other = model(params=jax.tree.map(lambda a: a + 1, tiny_model().params))
    inputs.compare(tmp_path, inputs.digests(run(model=other)))
    (line,) = caplog.records
    assert line.getMessage() == (
        f"--resume {tmp_path}: the model's parameters in --model have changed; the run continues from its checkpoint"
    )


@pytest.mark.parametrize("content", ["{", "[]", '"x"'])
def test_a_damaged_file_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / inputs.FILE).write_text(content)
    message = refusal(lambda: inputs.compare(tmp_path, {"a": "b"}))
    assert message.startswith(f"--resume {tmp_path}: inputs.json cannot be read (")
    assert message.endswith("); delete it to resume without the comparison")


def test_runs_of_earlier_versions_have_no_digests(tmp_path: Path) -> None:
    inputs.compare(tmp_path, {"a": "b"})
    (tmp_path / inputs.FILE).write_text(json.dumps({}))
    inputs.compare(tmp_path, {"a": "b"})
