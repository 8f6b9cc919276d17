"""A wrong run is placed by its kind: rows, gradients, updates, evaluations and random numbers."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sftref.conformance.adapter import HostBatch
from sftref.conformance.faults.trainers.numpy_trainer import NumpyTrainer
from sftref.conformance.judge.explained import places
from sftref.conformance.laws.support import explaining
from sftref.conformance.laws.support.examine import experiments
from sftref.conformance.laws.support.examine.confirming import confirmed
from sftref.conformance.laws.support.examine.made import made, simple
from sftref.conformance.oracle.cases import start_params
from sftref.conformance.oracle.draws import batch_of, rows_of
from sftref.conformance.oracle.sharded import ShardedTrainer, Sums
from sftref.conformance.oracle.tape import Params, Tape
from sftref.conformance.oracle.updates import learning_rate
from sftref.conformance.oracle.variants.located import pairs
from sftref.conformance.oracle.variants.measure import measured
from sftref.conformance.oracle.variants.replay import Call, Log
from sftref.conformance.oracle.variants.table import WRONG, named
from wrong_oracles import CASE, LAST, FourMethods, Right, examined, wrong

pytestmark = pytest.mark.once
SMOOTHING = functools.partial(WRONG["label-smoothing"]["losses"], value=0.3)
POSITIONS = "bert.embeddings.position_embeddings.weight"


def filled_up(self: Any, batch: HostBatch) -> list[list[HostBatch]]:
    """Batches are filled up with their own first rows."""
    count, parts = len(batch.weights), self.n * self.case.accumulate
    rows = np.arange(-(-count // parts) * parts) % count
    return ShardedTrainer.micro_batches(self, rows_of(batch, rows))


def without_positions(self: Any, batch: HostBatch) -> Sums:
    sums = ShardedTrainer.sums(self, batch)
    return sums._replace(gradients=sums.gradients | {POSITIONS: sums.gradients[POSITIONS] * 0})


def once_each(self: Any, params: Params) -> Tape:
    """Two tokens of one word count as one and a half."""
    tape = ShardedTrainer.tape(self, params)
    look_up = tape.embedding

    def embedding(ids: Any, name: str) -> Any:
        value, back = look_up(ids, name)
        times = 0.5 + 0.5 / np.bincount(ids.ravel())[ids] if "word" in name else np.ones(ids.shape)
        return value, lambda dy: back(dy * times[..., None])

    tape.embedding = embedding  # type: ignore[method-assign]
    return tape


def clipped_by_part(self: Any, gradients: Params) -> Params:
    """The norm is that of the query weights."""
    norm = np.sqrt(sum(float((g**2).sum()) for name, g in gradients.items() if "query" in name))
    return {name: g * min(1.0, self.case.clip_norm / norm) for name, g in gradients.items()}


def without_rows(self: Any, batch: HostBatch) -> Sums:
    """A device or micro-batch whose rows all have weight 0 divides by 0."""
    sums = ShardedTrainer.sums(self, batch)
    return sums if sums.weight else sums.scaled(np.nan)._replace(weight=0.0)


def one_behind(self: Any, batch: HostBatch) -> Any:
    """Each update uses the batch of the update before."""
    now, self.kept = getattr(self, "kept", batch), batch
    return ShardedTrainer.step(self, now)


def started(self: Any, case: Any, params: Params, n_devices: int) -> None:
    ShardedTrainer.start(self, case, params, n_devices)
    vars(self).pop("kept", None)


def ever_slower(self: Any, gradients: Params, rate: float) -> None:
    """Each update is applied with a smaller share of its learning rate, which none of the variants has."""
    Right.update(self, gradients, rate * 0.7**self.t)


def by_part(self: Any) -> float:
    """The schedule is two updates ahead for each micro-batch but the first."""
    return learning_rate(self.case, self.t + 2 * (self.case.accumulate - 1))


def of_half(self: Any, batch: HostBatch) -> Any:
    """The loss that is reported is that of the first half of the rows."""
    half = self.mean(rows_of(batch, np.arange(len(batch.weights) // 2)))[0]
    return ShardedTrainer.step(self, batch)._replace(loss=half)


def per_call(self: Any, step: int) -> Any:
    """Masks by a count that no start sets again."""
    type(self).calls = getattr(type(self), "calls", 0) + 1
    return ShardedTrainer.masks(self, type(self).calls)


@pytest.mark.parametrize(
    ("methods", "changes", "place", "words"),
    [
        ({"micro_batches": filled_up}, {"accumulate": 2}, "uneven-rows", "right with rows that divide evenly among"),
        ({"sums": without_positions}, {}, "zero-gradient", f"is zero in {POSITIONS}"),
        ({"tape": once_each}, {}, "tables", "is wrong in bert.embeddings.word_embeddings.weight alone"),
        ({"step": one_behind, "start": started}, {}, "own-step", "the loss of update 1 is"),
        ({"update": ever_slower}, {}, "rate-applied", "in updates 0, 1 all leaves move 0.7, 0.49 times as far"),
        ({"rate": by_part}, {"accumulate": 3, "warmup_steps": 5}, "accumulation", "the reported learning rates are"),
        ({"step": of_half}, {}, "reported-loss", "the gradient beside it is right"),
        ({"sums": without_rows}, {}, "not-finite", "right on 1, 3"),
        ({"clip": clipped_by_part}, {"clip_norm": 0.1}, "scaled-update", "the gradient that the optimizer gets in"),
        ({"masks": per_call}, {"hidden_dropout": 0.2}, "random-dropout", "without dropout they are alike"),
    ],
)
def test_the_kind_of_a_wrong_update(methods: dict[str, Any], changes: dict[str, Any], place: str, words: str) -> None:
    found = examined(wrong(Right, **methods), n={"uneven-rows": 3, "not-finite": 16}.get(place, 1), **changes)
    assert found is not None
    assert (found.place, words in "; ".join(found.words)) == (place, True), found
    assert place in places()


def test_a_trainer_of_four_methods_that_gives_nan_is_placed() -> None:
    found = examined(wrong(FourMethods, sums=without_rows), n=16)
    assert found is not None
    assert found.place == "not-finite"


class Saves(NumpyTrainer):
    """Dropout has the masks of another step, which no variant has."""

    def masks(self, step: int) -> Any:
        return super().masks(step + 5)


def test_a_run_that_restarts_is_examined_without_its_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "DEEPEST", 1)
    trainer, rng = explaining.Recorder(Saves()), np.random.default_rng(3)
    case = dataclasses.replace(CASE, hidden_dropout=0.2)
    params, batch = start_params(case, rng), batch_of(case, rng)
    trainer.start(case, params, 1)
    trainer.step(batch)
    trainer.save(tmp_path)
    trainer.start(case, params, 1)
    trainer.restore(tmp_path)
    trainer.step(batch)
    explained = explaining.explained_by(trainer)
    assert explained is not None
    assert (explained["place"], explained["by"]) == ("dropout", [])


def to_the_fourth(self: Any, logits: Any, batch: HostBatch) -> Any:
    """A regression has the fourth power of the error."""
    losses, slopes = ShardedTrainer.losses(self, logits, batch)
    if not self.case.regression:
        return losses, slopes
    return losses**2, 2 * losses[:, None] * slopes


def halved(self: Any, logits: Any, batch: HostBatch) -> Any:
    losses, slopes = ShardedTrainer.losses(self, logits, batch)
    return (losses / 2, slopes / 2) if self.case.regression else (losses, slopes)


def test_a_wrong_regression_is_told_from_what_is_wrong_with_classes_too() -> None:
    found = examined(wrong(Right, losses=to_the_fourth), n=1, regression=True, num_labels=1)
    assert found is not None
    assert "right with 3 classes" in "; ".join(found.words)
    trainer, rng = wrong(Right, losses=halved), np.random.default_rng(3)
    case = dataclasses.replace(CASE, regression=True, num_labels=1)
    log = Log(case, start_params(case, rng), 1, [Call("step", batch_of(case, rng)), Call("params")])
    both = tuple((named(name),) for name in ("half-squared-error", "loss-and-gradient-scaled(0.5)"))
    assert confirmed(trainer, made(trainer, log, simple(log)), both, LAST) == both[:1]


def lazy(self: Any, gradients: Params, rate: float) -> None:
    """Words without a gradient are not updated."""
    before, name = (self.now, self.first, self.second), "bert.embeddings.word_embeddings.weight"
    Right.update(self, gradients, rate)
    seen = (gradients[name] != 0).any(axis=1, keepdims=True)
    for now, old in zip((self.now, self.first, self.second), before, strict=True):
        now[name] = np.where(seen, now[name], old[name])


def test_the_words_that_are_wrong_are_named() -> None:
    trainer, rng = wrong(Right, update=lazy), np.random.default_rng(3)
    log, batch = Log(CASE, start_params(CASE, rng), 1), batch_of(CASE, rng, real=2)
    run = made(trainer, log, [("step", batch), ("params", None)])
    pair = next(pair for pair in pairs(run) if pair.bad)
    sentence = "parameters after 1 updates: only words that the batch of update 0 does not have are wrong"
    assert sentence in measured(run, pair.got, pair.want, pair.limits)


def of_the_row_before(self: Any, batch: HostBatch) -> Any:
    """The second and the fourth row get the logits of the row before them."""
    logits = Right.evaluate(self, batch)
    logits[[1, 3]] = logits[[0, 2]]
    return logits


def test_rows_that_have_the_logits_of_others_are_named() -> None:
    trainer, rng = wrong(Right, evaluate=of_the_row_before), np.random.default_rng(3)
    run = made(trainer, Log(CASE, start_params(CASE, rng), 1), [("evaluate", batch_of(CASE, rng))])
    (pair,) = pairs(run)
    words = measured(run, pair.got, pair.want, pair.limits)
    assert "rows of the batch have the same logits, and must not: 0, 1; 2, 3" in words


def with_squares(self: Any, batch: HostBatch) -> Any:
    """The loss has a term of squared parameters, with a constant of its own."""
    loss, gradients = ShardedTrainer.mean(self, batch)
    return loss, {k: g + 0.07 * self.now[k] if k.endswith("dense.weight") else g for k, g in gradients.items()}


def test_a_multiple_of_the_parameters_in_the_gradient_is_measured() -> None:
    trainer, rng = wrong(Right, mean=with_squares), np.random.default_rng(3)
    run = made(trainer, Log(CASE, start_params(CASE, rng), 1), [("gradients", batch_of(CASE, rng))])
    (pair,) = pairs(run)
    sentence = "gradient of update 0: where it is wrong, it has 0.07 times the parameters besides"
    assert sentence in measured(run, pair.got, pair.want, pair.limits)


def smoothed(self: Any, logits: Any, batch: HostBatch) -> Any:
    """Label smoothing of 0.3, in packed batches or in all."""
    right = functools.partial(ShardedTrainer.losses, self)
    return right(logits, batch) if self.case.pack < self.only_packed else SMOOTHING(right, self, logits, batch)


@pytest.mark.parametrize("only_packed", [True, False])
def test_a_variant_that_holds_in_one_setting_only_is_no_cause(only_packed: bool) -> None:
    trainer, rng = wrong(Right, losses=smoothed, only_packed=only_packed), np.random.default_rng(3)
    case, found = dataclasses.replace(CASE, pack=True), (named("label-smoothing(0.3)"),)
    log = Log(case, start_params(case, rng), 1, [Call("step", batch_of(case, rng)), Call("params")])
    run = made(trainer, log, simple(log))
    assert [pair.bad for pair in pairs(run) if pair.got.kind == "loss"] == [["loss"]]
    assert confirmed(trainer, run, (found,), LAST) == (() if only_packed else (found,))
    placed = experiments.examined(trainer, run, run, LAST)
    assert placed is not None
    assert (placed.place == "packing") is only_packed


def turned(self: Any, batch: HostBatch) -> Any:
    return ShardedTrainer.evaluate(self, batch)[:: -1 if self.n > 1 else 1]


def raised_by_one(self: Any, batch: HostBatch) -> Any:
    return ShardedTrainer.evaluate(self, batch) + 1


def of_the_last_update(self: Any, batch: HostBatch) -> Any:
    """Evaluation has a bias that grows with each update: no variant of the oracle."""
    return ShardedTrainer.evaluate(self, batch) + 0.1 * self.t


def of_the_last_row_only(self: Any, batch: HostBatch) -> Any:
    """Evaluation is wrong for full batches, before any update too."""
    logits = ShardedTrainer.evaluate(self, batch)
    return logits + (np.arange(len(batch.weights)) > 14)[:, None]


@pytest.mark.parametrize(
    ("evaluate", "place", "words"),
    [
        (turned, "row-order", "right on one device"),
        (raised_by_one, "evaluation-network", "the gradient of update 0 is right"),
        (of_the_last_update, "evaluation", "before any update, the logits of the same batch are right"),
        (of_the_last_row_only, "evaluation-network", "the logits of this batch are wrong before any update too"),
    ],
)
def test_the_kind_of_a_wrong_evaluation(evaluate: Any, place: str, words: str) -> None:
    found = examined(wrong(Right, evaluate=evaluate), n=2 if place == "row-order" else 1)
    assert found is not None
    assert (found.place, words in found.words) == (place, True), found
    assert place in places()
