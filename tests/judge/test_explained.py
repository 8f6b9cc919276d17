"""What a failed check notes for the diagnosis: simplified variants, size of the error, what explains the numbers."""

import numpy as np
import pytest
from sftref.conformance.adapter import Case, HostBatch
from sftref.conformance.core.check import Check, LawBroken
from sftref.conformance.core.comparison import Bound
from sftref.conformance.core.law import laws
from sftref.conformance.core.result import Result
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trainers import FAULTS, NumpyTrainer
from sftref.conformance.faults.trial import run_law
from sftref.conformance.judge.diagnosis import diagnose
from sftref.conformance.judge.outcome import Outcome
from sftref.conformance.laws.support import explaining
from sftref.conformance.laws.support.guarded import Guarded
from sftref.conformance.laws.support.trainer_checks import compare_or_simplify
from sftref.conformance.oracle.draws import draw_case
from sftref.conformance.oracle.scores import accuracy, f1, mistaken

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("fault", "law", "way"),
    [
        ("dropout-by-row", "equivalence.devices", "without dropout"),
        ("weights-ignored", "step.gradients", "with equal weights"),
        ("padding-counts", "step.gradients", "without padding"),
        ("missing-all-reduce", "equivalence.devices", "on one device"),
        ("one-mask-for-all-steps", "step.update", "without dropout"),
    ],
)
def test_a_failure_is_rerun_with_simplifications(fault: str, law: str, way: str) -> None:
    instead = {"subject": FAULTS[fault](), "devices": list(range(8))}
    record = run_law(laws()[law], instead, Settings(level="quick"), narrows=True)
    assert record.status == "fail"
    assert way in record.facts["holds"]
    assert record.facts["held_before"]
    hasty = run_law(laws()[law], instead, Settings(level="quick"))
    assert hasty.message == record.message
    assert "holds" not in hasty.facts


def test_right_logits_in_the_wrong_rows_are_named() -> None:
    record = run_law(laws()["step.logits"], {"subject": FAULTS["logits-by-device"]()}, Settings(level="quick"))
    assert "where the rows of the batch are" in record.message
    record = run_law(laws()["step.logits"], {"subject": FAULTS["dropout-in-evaluation"]()}, Settings(level="quick"))
    assert "where the rows" not in record.message


def test_the_size_of_an_error() -> None:
    check = Check(laws()["operators.tanh"], "quick", 0)
    values = np.linspace(1, 2, 9, dtype=np.float32)
    with pytest.raises(LawBroken):
        check.equal("a", values * np.float32(1.5), values)
    assert check.facts["off_by"] == pytest.approx(0.5)
    whole = Check(laws()["operators.tanh"], "quick", 0)
    with pytest.raises(LawBroken):
        whole.equal("ids", np.arange(9) + 1, np.arange(9))
    assert "off_by" not in whole.facts


@pytest.mark.parametrize(
    ("margin", "counts"),
    [(0.85, False), (0.05, True)],
)
def test_a_variant_that_just_passes_is_no_evidence(margin: float, counts: bool) -> None:
    check = Check(laws()["step.gradients"], "quick", 0)
    case, _, batch = draw_case(NumpyTrainer(), np.random.default_rng(0))

    def compare(check: Check, case: Case, _: HostBatch, __: int) -> None:
        check.at_most("an error", 6.5 if case.dropout else margin, Bound(1.0, 0.1, "made up"))

    with pytest.raises(LawBroken):
        compare_or_simplify(check, case, batch, 1, compare)
    assert ("without dropout" in check.facts["holds"]) is counts
    others = dict.fromkeys(("as it is", "when rerun", "with equal weights", "without padding"), 6.5)
    assert check.facts["margins"] == {**others, "without dropout": margin}


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("scores-exchanged", "The reported accuracy is F1; The reported F1 is the accuracy."),
        ("f1-of-class-0", "The reported F1 is F1 of class 0."),
        ("mean-of-batch-metrics", "The reported accuracy is the mean of the batches' values"),
        (
            "scores-by-weight",
            "The reported accuracy is the value in which each example counts as often as its",
        ),
    ],
)
def test_a_wrong_score_is_named(fault: str, cause: str) -> None:
    record = run_law(laws()["training.metrics"], {"subject": FAULTS[fault]()}, Settings(level="quick"), fault)
    outcome = Outcome(settings=Settings(), expected=[record.id], records={record.id: record})
    diagnosis = diagnose(outcome)
    assert diagnosis is not None
    assert diagnosis["cause"].startswith(cause)


def test_examples_that_an_evaluation_leaves_out_are_counted() -> None:
    """Of three batches, the last rows that do not fill 8 devices are left out."""
    rng = np.random.default_rng(4)
    batches = [(rng.integers(0, 2, rows), rng.integers(0, 2, rows), np.ones(rows)) for rows in (16, 16, 13)]
    predicted, labels = (np.concatenate([batch[k] for batch in batches])[:40] for k in (0, 1))
    score = {"accuracy": accuracy(predicted, labels), "f1": f1(predicted, labels)}
    assert mistaken(score, batches) == [
        f"The reported {name} is the value of the first 40 of 45 examples" for name in ("accuracy", "F1")
    ]


@pytest.mark.parametrize(
    ("fault", "law", "by"),
    [
        ("gelu-by-tanh", "step.logits", ["gelu-by-tanh"]),
        ("norm-without-embeddings", "step.moments", ["norm-leaves-out(embeddings)"]),
        ("labels-shifted-in-shards", "equivalence.loss", ["labels-shifted-in-shards(+1)"]),
    ],
)
def test_a_failed_law_notes_what_explains_it(fault: str, law: str, by: list[str]) -> None:
    # Behind the guard of the adapter interface, as every trainer is; it returns the moments as a list.
    instead = {"subject": Guarded(FAULTS[fault](), fault), "devices": list(range(8))}
    record = run_law(laws()[law], instead, Settings(level="quick"), narrows=True)
    assert record.status == "fail"
    assert by in record.facts["explained"]["by"]
    assert Result.from_json(record.to_json()).facts["explained"] == record.facts["explained"]


def test_a_search_that_raises_hides_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug of the search")

    monkeypatch.setattr(explaining, "explain", broken)
    record = run_law(
        laws()["step.logits"], {"subject": FAULTS["gelu-by-tanh"]()}, Settings(level="quick"), narrows=True
    )
    assert record.status == "fail"
    assert "explained" not in record.facts
