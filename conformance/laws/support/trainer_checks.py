"""Trainer under test, case, parameters, batches -> its run compared with the oracle's: what rungs 4 to 9 share."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...adapter import Arrays, Case, HostBatch, StepResult, TrainerUnderTest
from ...core.check import Check, LawBroken
from ...core.comparison import distance
from ...oracle import bounds_measured as measured
from ...oracle.bounds_measured import Reference
from ...oracle.cases import NO_DROPOUT
from ...oracle.draws import with_weights
from ...oracle.model import Params, value_and_gradient
from .compilation import precision

# Names the rerun with nothing simplified, which passes if the failure is intermittent.
RERUN = "when rerun"


def check_gradients(
    check: Check, subject: TrainerUnderTest, case: Case, params: Params, batch: HostBatch, n: int, *, rows: str = ""
) -> None:
    """The gradient on n devices is the oracle's, leaf by leaf; that of other labels is not.

    `rows` names how the rows are placed, in a failure.
    """

    def compare(check: Check, case: Case, batch: HostBatch, n: int) -> None:
        with precision(case):
            subject.start(case, params, n)
            got = subject.gradients(batch)
        want = measured.gradient_reference(case, params, batch)
        check.tree(f"gradient, N = {n},{rows and f' {rows},'}", got, want.want, want.bounds)
        check.distinct("the gradient of other labels", other_gradient(case, params, batch), want.want, want.bounds)

    compare_or_simplify(check, case, batch, n, compare)


def compare_or_simplify(
    check: Check, case: Case, batch: HostBatch, n: int, compare: Callable[[Check, Case, HostBatch, int], None]
) -> None:
    """Call `compare`; if it fails, rerun simplified variants and record which pass in the facts `holds` and `fails`.

    Raises:
        LawBroken: as `compare` raised it.
    """
    try:
        compare(check, case, batch, n)
    except LawBroken:
        if not check.narrows or "holds" in check.facts:
            raise
        check.facts |= {"holds": [], "fails": []}
        for name, variant in simplified(case, batch, n).items():
            try:
                compare(Check(check.law, check.level, check.seed), *variant)
            except LawBroken:
                check.facts["fails"].append(name)
            else:
                check.facts["holds"].append(name)
                if name == RERUN:
                    break  # an intermittent failure depends on nothing that could be left out
        raise


def simplified(case: Case, batch: HostBatch, n: int) -> dict[str, tuple[Case, HostBatch, int]]:
    """Name -> the same without one thing that a failure may depend on; first of all, the same."""
    variants = {RERUN: (case, batch, n)}
    if case.dropout:
        variants["without dropout"] = dataclasses.replace(case, **NO_DROPOUT), batch, n
    real = batch.weights > 0
    if len(np.unique(batch.weights[real])) > 1:
        variants["with equal weights"] = case, with_weights(batch, real.astype(np.float32)), n
    padding = batch.attention_mask == 0
    if padding.any() or not real.all():
        whole = batch._replace(
            input_ids=np.where(padding, 0, batch.input_ids),
            token_type_ids=np.where(padding, 0, batch.token_type_ids),
            attention_mask=np.ones_like(batch.attention_mask),
            weights=np.where(real, batch.weights, 1).astype(np.float32),
        )
        variants["without padding"] = case, whole, n
    if case.regression:
        variants["with whole labels"] = case, batch._replace(labels=np.round(batch.labels)), n
    if n > 1:
        variants["on one device"] = case, batch, 1
    return variants


def other_gradient(case: Case, params: Params, batch: HostBatch) -> Params:
    """A gradient that must fail: each label moved to the next row."""
    labels = np.roll(batch.labels, 1)
    real = batch.weights > 0
    if not case.regression and (labels[real] == batch.labels[real]).all():
        labels = (batch.labels + 1) % case.num_labels
    return value_and_gradient(case, params, batch._replace(labels=labels)).gradients


def check_loss(check: Check, what: str, loss: float, want: Reference) -> None:
    """The reported loss is the oracle's."""
    check.tree(what, {"loss": np.array(loss)}, want.want, want.bounds)


def check_logits(check: Check, what: str, logits: Any, batch: HostBatch, want: Reference) -> None:
    """The logits of rows with weight are the oracle's, in the batch's order; in another order they are not."""
    real = batch.weights > 0
    check.same(f"{what}: shape of the logits", np.shape(logits), (len(batch.weights), want.want["logits"].shape[1]))
    logits, right, most = np.asarray(logits, np.float64), want.want["logits"], want.bounds["logits"].value
    got = logits[real]
    if not distance(got, right, 1.0) <= most and np.isfinite(logits).all():
        # Right rows in the wrong order are another fault than wrong rows.
        gaps = np.linalg.norm(logits[None] - right[:, None], axis=2)
        if (gaps.min(axis=1) <= most).all():
            places = gaps.argmin(axis=1).tolist()
            check.same(f"{what}: where the rows of the batch are", places, np.flatnonzero(real).tolist())
    check.tree(what, {"logits": got}, want.want, want.bounds)
    check.distinct("logits in another order", {"logits": np.roll(got, 1, axis=0)}, want.want, want.bounds)


def check_updates(
    check: Check, subject: TrainerUnderTest, case: Case, params: Params, batches: Sequence[HostBatch], n: int
) -> list[StepResult]:
    """The first loss and each leaf's distance of a run of updates on n devices are the oracle's; returns its results.

    Later losses are not compared: their parameters have drifted apart by rounding.
    """
    results: list[StepResult] = []

    def compare(check: Check, case: Case, first: HostBatch, n: int) -> None:
        run = [first, *batches[1:]]
        with precision(case):
            subject.start(case, params, n)
            results[:] = [subject.step(batch) for batch in run]
            end = subject.params()
        loss, distance = measured.loss_reference(case, params, first), measured.walk(case, params, run).distance
        check_loss(check, f"loss of the first update, N = {n},", results[0].loss, loss)
        check_distance(check, f"after {len(run)} updates, N = {n},", case, params, end, distance)

    compare_or_simplify(check, case, batches[0], n, compare)
    return results


def check_distance(
    check: Check, what: str, case: Case, params: Params, end: Arrays, distance: Reference, *, control: bool = True
) -> None:
    """Each leaf moved from `params` to `end` as the oracle's did; leaves whose gradient is zero are left out."""
    zero = measured.zero_gradients(case)
    moved = {name: np.asarray(leaf, np.float64) - params[name] for name, leaf in end.items() if name not in zero}
    want = {name: leaf for name, leaf in distance.want.items() if name not in zero}
    check.tree(f"{what} distance walked by", moved, want, distance.bounds)
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
    check_logits(check, f"logits, N = {n},", logits, batch, measured.logits_reference(case, params, batch))


def check_same_run(
    check: Check, whats: tuple[str, str], case: Case, params: Params, batches: Sequence[HostBatch],
    run: tuple[float, Arrays], other: tuple[float, Arrays],
) -> None:  # fmt: skip
    """Two runs, each its first loss and its last parameters, are the same within the oracle's bounds.

    The difference of two right runs has these bounds too. `whats` name the loss and the distance.
    """
    loss = dataclasses.replace(measured.loss_reference(case, params, batches[0]), want={"loss": np.array(other[0])})
    check_loss(check, whats[0], run[0], loss)
    moved = {name: np.asarray(leaf, np.float64) - params[name] for name, leaf in other[1].items()}
    distance = dataclasses.replace(measured.walk(case, params, batches).distance, want=moved)
    check_distance(check, whats[1], case, params, run[1], distance)


def check_same_bits(check: Check, what: str, got: Arrays, want: Arrays) -> None:
    """Every leaf is the same bit for bit; `what` has {} in place of its name."""
    for name, leaf in want.items():
        check.equal(what.format(name), np.asarray(got[name]), np.asarray(leaf), control=np.asarray(leaf) + 1)
