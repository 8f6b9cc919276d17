"""Comparisons of a trainer's run with the oracle's, which rungs 4 to 9 share."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from ...adapter import Arrays, Case, HostBatch, StepResult, TrainerUnderTest
from ...core.check import AdapterRaised, Check, LawBroken, NotRun
from ...core.comparison import Bound, distance
from ...oracle import bounds_measured as measured
from ...oracle import scores
from ...oracle.bounds_derived import UNIT
from ...oracle.bounds_measured import Reference
from ...oracle.cases import NO_DROPOUT
from ...oracle.draws import with_weights
from ...oracle.model import value_and_gradient
from ...oracle.tape import Params
from ...oracle.updates import learning_rate
from ...oracle.variants.measure import rows_elsewhere
from .compilation import precision
from .explaining import note

# Learning rates are computed in float32 from a few operations.
RATE = Bound(4 * UNIT["float32"], UNIT["float32"], "four roundings in float32, of the largest rate")
# The variant with nothing simplified; it passes if the failure is intermittent.
RERUN = "when rerun"
# Types with fewer bits than float32.
NARROW = (ml_dtypes.bfloat16, np.float16)
# A variant that passes is evidence if it divides the largest margin by at least this.
DECISIVE = 100.0


def check_gradients(
    check: Check, subject: TrainerUnderTest, case: Case, params: Params, batch: HostBatch, n: int, *, rows: str = ""
) -> None:
    """Check that the gradient on n devices is the oracle's, leaf by leaf, and that the gradient of other labels is not.

    `rows` describes the rows or their placement in a failure message.
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
    """Call `compare`; if it fails, rerun simplified variants and record in the facts which pass and which fail.

    Raises:
        LawBroken: as `compare` raised it.
    """
    try:
        compare(check, case, batch, n)
    except LawBroken:
        if not check.narrows or "holds" in check.facts:
            raise
        note(check)
        margins = check.facts["margins"] = {"as it is": _margin(check)}
        check.facts |= {"holds": [], "fails": []}
        for name, variant in simplified(case, batch, n).items():
            simpler = Check(check.law, check.level, check.seed)
            try:
                compare(simpler, *variant)
            except (NotRun, AdapterRaised):
                continue  # the trainer cannot do this
            except LawBroken:
                check.facts["fails"].append(name)
            else:
                # Just below the bound after just above it proves nothing.
                if name == RERUN or _margin(simpler) * DECISIVE <= margins["as it is"]:
                    check.facts["holds"].append(name)
                if name == RERUN:
                    break  # the failure is intermittent, so no simplified variant explains it
            margins[name] = _margin(simpler)
        raise


def _margin(check: Check) -> float:
    """The largest error of a comparison so far, in units of its bound."""
    return check.worst.margin if check.worst else 0.0


def simplified(case: Case, batch: HostBatch, n: int) -> dict[str, tuple[Case, HostBatch, int]]:
    """Name -> (case, batch, n) without one thing that the failure may depend on; the first variant is unchanged."""
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
    """A gradient that must miss the bound: that of the batch with each label moved to the next row."""
    labels = np.roll(batch.labels, 1)
    real = batch.weights > 0
    if not case.regression and (labels[real] == batch.labels[real]).all():
        labels = (batch.labels + 1) % case.num_labels
    return value_and_gradient(case, params, batch._replace(labels=labels)).gradients


def check_loss(check: Check, what: str, loss: float, want: Reference) -> None:
    """Check that the reported loss is the oracle's."""
    check.tree(what, {"loss": np.array(loss)}, want.want, want.bounds)


def check_logits(
    check: Check, what: str, logits: Any, batch: HostBatch, want: Reference, *, ordered: bool = True
) -> None:
    """Check that logits of rows with weight are the oracle's in the batch's order.

    With `ordered`, the control is another order of the rows, which must then be many and differ much.
    """
    real = batch.weights > 0
    check.same(f"{what}: shape of the logits", np.shape(logits), (len(batch.weights), want.want["logits"].shape[1]))
    logits, right, most = np.asarray(logits, np.float64), want.want["logits"], want.bounds["logits"].value
    got = logits[real]
    # If all rows are right but in the wrong order, the failure says so.
    apart = not distance(got, right, 1.0) <= most and np.isfinite(logits).all()
    if apart and (places := rows_elsewhere(logits, right, most)) is not None:
        check.same(f"{what}: where the rows of the batch are", places, np.flatnonzero(real).tolist())
    check.tree(what, {"logits": got}, want.want, want.bounds)
    if ordered:
        check.distinct("logits in another order", {"logits": np.roll(got, 1, axis=0)}, want.want, want.bounds)
    else:
        check.distinct("logits that are 1 too large", {"logits": got + 1}, want.want, want.bounds)


def check_updates(
    check: Check, subject: TrainerUnderTest, case: Case, params: Params, batches: Sequence[HostBatch], n: int,
    of: str = "",
) -> list[StepResult]:  # fmt: skip
    """Check the first loss of a run on n devices and how far it moves each leaf; returns the results of its updates.

    Later losses are not compared, because rounding has moved the parameters apart by then. `of` is what a message adds
    about the run.
    """
    results: list[StepResult] = []

    def compare(check: Check, case: Case, first: HostBatch, n: int) -> None:
        run = [first, *batches[1:]]
        with precision(case):
            subject.start(case, params, n)
            results[:] = [subject.step(batch) for batch in run]
            end = subject.params()
        loss, distance = measured.loss_reference(case, params, first), measured.walk(case, params, run).distance
        check_loss(check, f"loss of the first update{of}, N = {n},", results[0].loss, loss)
        check_distance(check, f"after {len(run)} updates{of}, N = {n},", case, params, end, distance)

    compare_or_simplify(check, case, batches[0], n, compare)
    return results


def check_distance(
    check: Check, what: str, case: Case, params: Params, end: Arrays, distance: Reference, *, control: bool = True
) -> None:
    """Check that each leaf moved from `params` to `end` as the oracle's did; leaves with zero gradient are left out."""
    zero = measured.zero_gradients(case)
    moved = {name: np.asarray(leaf, np.float64) - params[name] for name, leaf in end.items() if name not in zero}
    want = {name: leaf for name, leaf in distance.want.items() if name not in zero}
    check.tree(f"{what} distance walked by", moved, want, distance.bounds)
    if control:
        still = {name: np.zeros_like(leaf) for name, leaf in want.items()}
        check.distinct("standing still", still, want, distance.bounds)


def check_evaluation(
    check: Check, subject: TrainerUnderTest, case: Case, params: Params, batch: HostBatch, n: int, what: str = ""
) -> None:
    """Check that logits on n devices are the oracle's; `what` says what is special about the run in a message."""
    with precision(case):
        subject.start(case, params, n)
        logits = subject.evaluate(batch)
    check_logits(check, f"logits, N = {n}{what},", logits, batch, measured.logits_reference(case, params, batch))


def check_same_run(
    check: Check, whats: tuple[str, str], case: Case, params: Params, batches: Sequence[HostBatch],
    run: tuple[float, Arrays], other: tuple[float, Arrays],
) -> None:  # fmt: skip
    """Check that two runs, each given as (first loss, last parameters), agree within the oracle's bounds.

    These bounds are also valid for the difference of two right runs. `whats` label the loss and the distance.
    """
    loss = dataclasses.replace(measured.loss_reference(case, params, batches[0]), want={"loss": np.array(other[0])})
    check_loss(check, whats[0], run[0], loss)
    moved = {name: np.asarray(leaf, np.float64) - params[name] for name, leaf in other[1].items()}
    distance = dataclasses.replace(measured.walk(case, params, batches).distance, want=moved)
    check_distance(check, whats[1], case, params, run[1], distance)


def check_same_bits(check: Check, what: str, got: Arrays, want: Arrays) -> None:
    """Check that every leaf has the same bits; the leaf's name replaces {} in `what`."""
    for name, leaf in want.items():
        check.equal(what.format(name), np.asarray(got[name]), np.asarray(leaf), control=np.asarray(leaf) + 1)


def check_rate(check: Check, case: Case, step: int, rate: float) -> None:
    """Check that the learning rate of an update is the schedule's."""
    what = f"learning rate of update {step} of {case.total_steps}, warm-up {case.warmup_steps}"
    check.at_most(f"{what}, error of {rate:.6g}", abs(rate - learning_rate(case, step)) / case.learning_rate, RATE)


def check_score(check: Check, what: str, subject: TrainerUnderTest, batches: Sequence[HostBatch]) -> None:
    """Check accuracy and F1 of class 1 over rows of weight above 0; F1 is 0 if class 1 is neither predicted nor there.

    They are computed from the trainer's own logits, so only counting and dividing can be wrong.
    """
    counted = [(np.asarray(subject.evaluate(batch)).argmax(axis=1), batch.labels, batch.weights) for batch in batches]
    predicted, labels = (np.concatenate([batch[k][batch[2] > 0] for batch in counted]) for k in (0, 1))
    exact = Bound(4 * UNIT["float64"], UNIT["float64"], "counts are integers: one division")
    score = subject.score(batches)
    if "scores" not in check.facts and (wrong := scores.mistaken(score, counted)):
        check.facts["scores"] = wrong
    check.at_most(f"error of the accuracy{what}", abs(score["accuracy"] - scores.accuracy(predicted, labels)), exact)
    check.at_most(f"error of F1{what}", abs(score["f1"] - scores.f1(predicted, labels)), exact)


def check_width(check: Check, moments: Sequence[Arrays]) -> None:
    """Check that both moments of a run whose products are narrow are stored in float32."""
    for which, leaves in zip(("first", "second"), moments, strict=True):
        values = np.concatenate([np.ravel(leaf) for leaf in leaves.values()]).astype(np.float64)
        values = values[values != 0]
        for kind in NARROW:
            with np.errstate(over="ignore"):
                share = float(np.mean(values.astype(kind).astype(np.float64) == values))
            what = f"share of the {which} moments that are {np.dtype(kind).name} numbers"
            check.at_most(what, share, Bound(0.5, 2.0**-13, "one float32 number in 2^13 or more is one by chance"))
