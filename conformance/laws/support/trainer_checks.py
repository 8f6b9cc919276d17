"""What the laws of rungs 4 and 6 to 8 ask of a trainer under test: a run of given values, and the comparisons of it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ...adapter import Arrays, Case, HostBatch, StepResult, TrainerUnderTest
from ...core.check import Check, LawBroken
from ...core.comparison import distance
from ...oracle.bounds_measured import (
    Reference,
    gradient_reference,
    logits_reference,
    loss_reference,
    walk,
    without,
    zero_gradients,
)
from ...oracle.cases import B, main_case, start_params
from ...oracle.draws import batch_of, with_weights
from ...oracle.model import Params, value_and_gradient

# Seeds of dropout reach beyond 32 bits: a generator that drops the high word is wrong.
MOST = 2**40
# How a failure that does not come again is named.
AGAIN = "when rerun"


def claims(check: Check, subject: TrainerUnderTest, *capabilities: str) -> None:
    """Leave the check as NOT RUN unless all capabilities are claimed.

    Raises:
        NotRun: naming the first that is not.
    """
    for capability in capabilities:
        check.need(capability in subject.capabilities, f"capability {capability} is not claimed")


def draw_case(subject: TrainerUnderTest, rng: np.random.Generator, **changes: Any) -> tuple[Case, Params, HostBatch]:
    """A case of a fresh seed, parameters and a ragged batch for it."""
    case = main_case(subject.capabilities, seed=int(rng.integers(MOST)))
    case = dataclasses.replace(case, **changes)
    return case, start_params(case, rng), batch_of(case, rng, real=int(rng.integers(9, B)))


def all_devices(check: Check, subject: TrainerUnderTest, devices: Sequence[Any]) -> int:
    """The most devices of a subject that can use more than one, where there are more than one."""
    claims(check, subject, "devices")
    check.need(len(devices) >= 2, f"needs 2 devices, found {len(devices)}")
    return len(devices)


def usable_devices(subject: TrainerUnderTest, devices: Sequence[Any]) -> int:
    """The most devices that this subject can use here."""
    return len(devices) if "devices" in subject.capabilities else 1


@contextlib.contextmanager
def precision(case: Case) -> Iterator[None]:
    """JAX with or without 64-bit types, as the case needs them; the scope is this thread's."""
    import jax

    # Before JAX 0.8 it was an experiment.
    home: Any = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    with home.enable_x64(case.precision == "float64"):
        yield


def check_gradients(
    check: Check, subject: TrainerUnderTest, case: Case, params: Params, batch: HostBatch, n: int, *, rows: str = ""
) -> None:
    """The gradient on n devices is the oracle's, leaf by leaf; that of other labels is not.

    `rows` says how they lie.
    """

    def holds(check: Check, case: Case, batch: HostBatch, n: int) -> None:
        with precision(case):
            subject.start(case, params, n)
            got = subject.gradients(batch)
        want = gradient_reference(case, params, batch)
        check.tree(f"gradient, N = {n},{rows and f' {rows},'}", got, want.want, want.bounds)
        check.distinct("the gradient of other labels", other_gradient(case, params, batch), want.want, want.bounds)

    with rerun_simplified(check, case, batch, n, holds):
        holds(check, case, batch, n)


@contextlib.contextmanager
def rerun_simplified(
    check: Check, case: Case, batch: HostBatch, n: int, holds: Callable[[Check, Case, HostBatch, int], None]
) -> Iterator[None]:
    """Where what stands in here breaks the law, ask again with less, and note down what it holds without.

    Args:
        check: gets the facts `holds` and `fails`, once.
        case: asked.
        batch: asked.
        n: devices.
        holds: asks with other ones.
    """
    try:
        yield
    except LawBroken:
        if not check.narrows or "holds" in check.facts:
            raise
        found: dict[str, list[str]] = {"holds": [], "fails": []}
        for how, (other, rows, devices) in simplified(case, batch, n).items():
            if AGAIN in found["holds"]:
                break  # what comes and goes depends on nothing that could be left out
            again = Check(check.law, check.level, check.seed)
            try:
                holds(again, other, rows, devices)
            except LawBroken:
                found["fails"].append(how)
            else:
                found["holds"].append(how)
        check.facts |= found
        raise


def simplified(case: Case, batch: HostBatch, n: int) -> dict[str, tuple[Case, HostBatch, int]]:
    """What a failure may depend on -> the same without it; first of all, the same."""
    found = {AGAIN: (case, batch, n)}
    if case.dropout:
        still = dataclasses.replace(case, hidden_dropout=0.0, attention_dropout=0.0, classifier_dropout=0.0)
        found["without dropout"] = still, batch, n
    real = batch.weights > 0
    if len(np.unique(batch.weights[real])) > 1:
        found["with equal weights"] = case, with_weights(batch, real.astype(np.float32)), n
    unseen = batch.attention_mask == 0
    if unseen.any() or not real.all():
        whole = batch._replace(
            input_ids=np.where(unseen, 0, batch.input_ids),
            token_type_ids=np.where(unseen, 0, batch.token_type_ids),
            attention_mask=np.ones_like(batch.attention_mask),
            weights=np.where(real, batch.weights, 1).astype(np.float32),
        )
        found["without padding"] = case, whole, n
    if case.regression:
        found["with whole labels"] = case, batch._replace(labels=np.round(batch.labels)), n
    if n > 1:
        found["on one device"] = case, batch, 1
    return found


def other_gradient(case: Case, params: Params, batch: HostBatch) -> Params:
    """A gradient that must not pass: the labels of the batch handed to its neighbours."""
    labels = np.roll(batch.labels, 1)
    real = batch.weights > 0
    if not case.regression and (labels[real] == batch.labels[real]).all():
        labels = (batch.labels + 1) % case.num_labels
    return value_and_gradient(case, params, batch._replace(labels=labels)).gradients


def check_loss(check: Check, what: str, loss: float, want: Reference) -> None:
    """A reported loss is the oracle's."""
    check.tree(what, {"loss": np.array(loss)}, want.want, want.bounds)


def check_logits(check: Check, what: str, logits: Any, batch: HostBatch, want: Reference) -> None:
    """The logits of the rows that count are the oracle's; those of the rows in another order are not."""
    real = batch.weights > 0
    check.same(f"{what}: shape of the logits", np.shape(logits), (len(batch.weights), want.want["logits"].shape[1]))
    every, right, most = np.asarray(logits, np.float64), want.want["logits"], want.bounds["logits"].value
    got = every[real]
    if not distance(got, right, 1.0) <= most and np.isfinite(every).all():
        # The right rows at other places are another fault than wrong rows.
        gaps = np.linalg.norm(every[None] - right[:, None], axis=2)
        if (gaps.min(axis=1) <= most).all():
            places = gaps.argmin(axis=1).tolist()
            check.same(f"{what}: where the rows of the batch are", places, np.flatnonzero(real).tolist())
    check.tree(what, {"logits": got}, want.want, want.bounds)
    check.distinct("logits in another order", {"logits": np.roll(got, 1, axis=0)}, want.want, want.bounds)


def check_updates(
    check: Check, subject: TrainerUnderTest, case: Case, params: Params, batches: Sequence[HostBatch], n: int
) -> list[StepResult]:
    """Updates on n devices go where the oracle's go: losses, learning rates, and how far each leaf went.

    The loss of the first update is compared; those of later ones depend on parameters that have drifted apart.
    """
    results: list[StepResult] = []

    def holds(check: Check, case: Case, first: HostBatch, n: int) -> None:
        given = [first, *batches[1:]]
        with precision(case):
            subject.start(case, params, n)
            results[:] = [subject.step(batch) for batch in given]
            now = subject.params()
        loss = loss_reference(case, params, first)
        check_loss(check, f"loss of the first update, N = {n},", results[0].loss, loss)
        what, want = f"after {len(given)} updates, N = {n},", walk(case, params, given)
        check_distance(check, what, case, params, now, want.distance)

    with rerun_simplified(check, case, batches[0], n, holds):
        holds(check, case, batches[0], n)
    return results


def check_distance(
    check: Check, what: str, case: Case, params: Params, now: Arrays, distance: Reference, *, control: bool = True
) -> None:
    """Each leaf went as far as the oracle's, but for those whose gradient is zero."""
    zero = zero_gradients(case)
    walked = {name: np.asarray(leaf, np.float64) - params[name] for name, leaf in now.items()}
    want = without(distance.want, zero)
    check.tree(f"{what} distance walked by", without(walked, zero), want, distance.bounds)
    if control:
        still = {name: np.zeros_like(leaf) for name, leaf in want.items()}
        check.distinct("standing still", still, want, distance.bounds)


def check_evaluation(
    check: Check, subject: TrainerUnderTest, case: Case, params: Params, batch: HostBatch, n: int
) -> None:
    """Logits on n devices are the oracle's."""
    with precision(case):
        subject.start(case, params, n)
        logits = subject.evaluate(batch)
    check_logits(check, f"logits, N = {n},", logits, batch, logits_reference(case, params, batch))
