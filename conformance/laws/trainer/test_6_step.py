"""Rung 6: one training step on one device is the oracle's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ...adapter import TrainerUnderTest
from ...core.check import Check
from ...oracle.bounds_measured import FACTOR, gradient_reference, loss_reference, walk
from ...oracle.cases import main_case, start_params
from ...oracle.draws import batch_of, for_all, generators, with_weights
from ...oracle.model import mean_loss
from ..support.trainer_checks import (
    MOST,
    check_evaluation,
    check_gradients,
    check_loss,
    check_updates,
    claims,
    precision,
)

# Added to all position embeddings, whose deviation is about 1.
FAR = 300.0


@pytest.mark.law("step.gradients")
def test_gradients(check: Check, subject: TrainerUnderTest) -> None:
    """Every leaf, dropout included where it is claimed; and where the embeddings' mean is far above their deviation."""
    claims(check, subject, "gradients")

    def holds(rng: np.random.Generator) -> None:
        case = main_case(subject.capabilities, seed=int(rng.integers(MOST)))
        batch = batch_of(case, rng, real=int(rng.integers(1, 17)))
        params = start_params(case, rng)
        check_gradients(check, subject, case, params, batch, 1)
        # A variance in one pass loses (mean / deviation)^2 units of round-off, and nothing where the mean is small.
        positions = "bert.embeddings.position_embeddings.weight"
        check_gradients(
            check, subject, case, params | {positions: params[positions] + FAR}, batch, 1, rows="a large mean"
        )

    for_all(check, holds, rng=generators())


@pytest.mark.law("step.weights")
def test_weights(check: Check, subject: TrainerUnderTest) -> None:
    """Loss and gradient where no two neighbours count alike; the loss of equal weights is another."""
    claims(check, subject, "weights")

    def holds(rng: np.random.Generator) -> None:
        case = main_case(subject.capabilities, seed=int(rng.integers(MOST)))
        params = start_params(case, rng)
        batch = batch_of(case, rng)
        batch = with_weights(batch, np.resize([0.25, 4.0, 1.0], len(batch.weights)))
        subject.start(case, params, 1)
        want = loss_reference(case, params, batch)
        check_loss(check, "loss of unequal weights", subject.step(batch).loss, want)
        plain = {"loss": np.array(mean_loss(case, params, with_weights(batch, batch.weights**0)))}
        check.distinct("the loss of equal weights", plain, want.want, want.bounds)
        if "gradients" in subject.capabilities:
            check_gradients(check, subject, case, params, batch, 1, rows="unequal weights")

    for_all(check, holds, rng=generators())


@pytest.mark.law("step.update")
def test_update(check: Check, subject: TrainerUnderTest) -> None:
    """Three updates: the first has learning rate 0, and Adam hides a gradient's scale in the first that moves."""

    def holds(rng: np.random.Generator) -> None:
        case = main_case(subject.capabilities, seed=int(rng.integers(MOST)))
        batches = [batch_of(case, rng, real=int(rng.integers(1, 17))) for _ in range(3)]
        results = check_updates(check, subject, case, start_params(case, rng), batches, 1)
        check.same("learning rate of the first update under a warm-up", results[0].learning_rate, 0.0)

    for_all(check, holds, rng=generators())


@pytest.mark.law("step.logits")
def test_logits(check: Check, subject: TrainerUnderTest) -> None:
    """Evaluation has no dropout, and gives logits in the order of the rows."""

    def holds(rng: np.random.Generator) -> None:
        case = main_case(subject.capabilities)
        check_evaluation(check, subject, case, start_params(case, rng), batch_of(case, rng, real=13), 1)

    for_all(check, holds, rng=generators())


@pytest.mark.law("step.moments")
def test_moments(check: Check, subject: TrainerUnderTest) -> None:
    """Adam's moments after two updates of the same run."""
    claims(check, subject, "moments")

    def holds(rng: np.random.Generator) -> None:
        case = main_case(subject.capabilities, seed=int(rng.integers(MOST)))
        params, batches = start_params(case, rng), [batch_of(case, rng) for _ in range(2)]
        subject.start(case, params, 1)
        for batch in batches:
            subject.step(batch)
        want = walk(case, params, batches)
        for name, got, one in zip(("first", "second"), subject.moments(), (want.first, want.second), strict=True):
            check.tree(f"{name} moment of", got, one.want, one.bounds)
            empty = {leaf: np.zeros_like(value) for leaf, value in one.want.items()}
            check.distinct("moments of zero", empty, one.want, one.bounds)

    for_all(check, holds, rng=generators())


@pytest.mark.law("step.float64")
def test_float64(check: Check, subject: TrainerUnderTest) -> None:
    """The same in float64, where rounding cannot hide an error of 1e-12."""
    claims(check, subject, "gradients", "precision:float64")

    def holds(rng: np.random.Generator) -> None:
        case = main_case(subject.capabilities, seed=int(rng.integers(MOST)))
        case = dataclasses.replace(case, precision="float64")
        check_gradients(check, subject, case, start_params(case, rng), batch_of(case, rng, real=13), 1)

    for_all(check, holds, rng=generators())


@pytest.mark.law("step.bfloat16")
def test_bfloat16(check: Check, subject: TrainerUnderTest) -> None:
    """bfloat16 was asked for: the error is what its 8 bits give, neither more nor far less."""
    claims(check, subject, "gradients", "precision:bf16")

    def holds(rng: np.random.Generator) -> None:
        case = main_case(subject.capabilities, seed=int(rng.integers(MOST)))
        case = dataclasses.replace(case, precision="bfloat16")
        params, batch = start_params(case, rng), batch_of(case, rng, real=13)
        check_gradients(check, subject, case, params, batch, 1)
        subject.start(case, params, 1)
        want, got = gradient_reference(case, params, batch), subject.gradients(batch)
        error = np.sqrt(sum(float(((np.asarray(got[k], np.float64) - w) ** 2).sum()) for k, w in want.want.items()))
        noise = np.sqrt(sum(bound.noise**2 for bound in want.bounds.values()))
        # float32 would be 2^16 times below; a mode that rounds only some products is still within FACTOR^2.
        check.at_least("error of the bfloat16 gradient", error, noise / FACTOR**2, "rounding to 8 bits is this coarse")

    for_all(check, holds, rng=generators())


@pytest.mark.law("step.regression")
def test_regression(check: Check, subject: TrainerUnderTest) -> None:
    """One output and a squared error."""
    claims(check, subject, "gradients")

    def holds(rng: np.random.Generator) -> None:
        case = main_case(subject.capabilities, seed=int(rng.integers(MOST)), small=True)
        case = dataclasses.replace(case, num_labels=1, regression=True)
        check_gradients(check, subject, case, start_params(case, rng), batch_of(case, rng, real=13), 1)

    for_all(check, holds, rng=generators())


@pytest.mark.law("step.zero_gradients")
def test_zero_gradients(check: Check, subject: TrainerUnderTest) -> None:
    """A word that no example of positive weight holds gets no gradient at all."""
    claims(check, subject, "gradients")

    def holds(rng: np.random.Generator) -> None:
        case = main_case(subject.capabilities, seed=int(rng.integers(MOST)))
        batch = batch_of(case, rng, real=13)
        # One word at least is in no example, whatever is drawn.
        ids = np.where(batch.input_ids == case.vocab_size - 1, 0, batch.input_ids)
        batch = batch._replace(input_ids=ids)
        with precision(case):
            subject.start(case, start_params(case, rng), 1)
            got = subject.gradients(batch)["bert.embeddings.word_embeddings.weight"]
        seen = batch.attention_mask.astype(bool) & (batch.weights > 0)[:, None]
        absent = np.setdiff1d(np.arange(case.vocab_size), batch.input_ids[seen])
        rows = np.asarray(got)[absent]
        check.equal("gradient of the words that no example holds", rows, rows * 0, control=rows + 1)

    for_all(check, holds, rng=generators())
