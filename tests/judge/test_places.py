"""Where a run parts from the oracle's, for failures that no variant explains: layer, cause and next step."""

import dataclasses
import math

import numpy as np
import pytest
from failures import diagnosis_of, failure
from sftref.conformance.core.comparison import EXACT
from sftref.conformance.core.fault import LAYERS
from sftref.conformance.core.law import laws
from sftref.conformance.core.result import Result
from sftref.conformance.judge.diagnosis import advice
from sftref.conformance.judge.explained import places
from sftref.conformance.oracle.cases import SMALL
from sftref.conformance.oracle.variants.located import Pair, located
from sftref.conformance.oracle.variants.replay import Log, Seen

pytestmark = pytest.mark.once


def test_every_place_is_whole() -> None:
    for place in places().values():
        assert place.layer in LAYERS
        assert place.cause.endswith(".")
        assert place.next_step.endswith(".")
        assert not any(law in place.next_step for law in laws()), "a place names no check, which may have passed"


@pytest.mark.parametrize("by", [[], [["gelu-tanh"]]])
def test_errors_that_are_not_finite_are_told(by: list[list[str]]) -> None:
    """A record has NaN and infinity as texts; `verify` once ended with a traceback there."""
    record = failure("step.gradients", "not-finite", by=tuple(by))
    numbers = {"before": math.inf, "after": math.nan, "nearest": ["gelu-tanh"], "left": "gradient of update 0"}
    facts = {"explained": record.facts["explained"] | numbers, "margins": {"without dropout": math.inf}}
    record = Result.from_json(dataclasses.replace(record, facts=facts).to_json())
    assert record.facts["explained"]["before"] == "inf"
    found = diagnosis_of(record)
    assert "step.gradients[mesh]: error in units of the bound: inf without dropout" in found["evidence"]
    cause, _ = advice(record, [record])
    assert cause


def test_the_place_that_most_failures_show_is_the_cause() -> None:
    words = ("the rows of device 7 count 0.99999 times", "right on one device")
    found = diagnosis_of(
        failure("equivalence.devices", "device", *words),
        failure("equivalence.layouts", "device", *words, message="wrong with unequal shards, with an empty shard"),
        failure("equivalence.row_order", "reduction"),
    )
    assert found["layer"] == "collective"
    assert found["next_step"] == places()["device"].next_step
    cause = f"{places()['device'].cause} The run is {words[1]}. Measured: {words[0]}."
    assert str(found["cause"]).startswith(cause)
    assert "none of 90 variants of the oracle gives these numbers" in str(found["cause"])
    assert "Possible" not in str(found["cause"])


def test_the_next_step_takes_up_in_which_simpler_run_it_is_right() -> None:
    words = ("right without dropout", "right on 1, 2, 4 devices, wrong on 8", "in update 1, x: did not move")
    found = diagnosis_of(failure("equivalence.devices", "leaves", *words))
    assert f"{places()['leaves'].cause} The run is {words[0]}; {words[1]}. Measured: {words[2]}." in str(found["cause"])
    assert str(found["next_step"]).startswith(f"{places()['leaves'].next_step} It is right on one device, so compare")
    found = diagnosis_of(failure("equivalence.devices", "reduction", *words))
    assert str(found["next_step"]).startswith(
        f"{places()['reduction'].next_step} It is right without dropout, so compare"
    )
    found = diagnosis_of(failure("step.gradients", "dropout", words[0]))
    assert found["next_step"] == places()["dropout"].next_step
    late = "right in updates 0 to 4, wrong in update 5"
    found = diagnosis_of(failure("training.settings", "before-moments", late))
    assert f"The run is {late}." in str(found["cause"])
    assert "what changes with the number of the update: a counter, a loss scale" in str(found["next_step"])
    found = diagnosis_of(failure("training.resume", "restart", "these are the rows of all devices but the first"))
    assert "so compare the state of each device with that of one whose rows are right" in str(found["next_step"])


@pytest.mark.parametrize(
    ("place", "words", "ends"),
    [
        (
            "device",
            ("the rows of device 7 count twice",),
            "This much is certain; which mistake of this kind it is could",
        ),
        ("device", (), "This much is certain; which mistake of this kind it is could not be distinguished: none of 90"),
        ("optimizer", ("all leaves: moved twice as far",), "What was measured is certain; which mistake causes it"),
        ("optimizer", (), "The exact cause is unknown: none of 90 variants of the oracle gives these numbers."),
    ],
)
def test_a_cause_is_unknown_only_where_nothing_is_named(place: str, words: tuple[str, ...], ends: str) -> None:
    cause = str(diagnosis_of(failure("step.update", place, *words))["cause"])
    assert ends in cause
    assert ("unknown" in cause) is (ends.startswith("The exact"))


def test_a_check_states_what_it_measured_where_the_diagnosis_names_another_cause() -> None:
    first = failure("step.gradients", "loss", by=(["label-smoothing(0.1)"],))
    other = failure("step.moments", "optimizer", "x is 2")
    assert advice(other, [first, other])[0] == f"The diagnosis is about {first.id}. Measured: x is 2."
    assert advice(other, [other])[0].startswith(places()["optimizer"].cause)
    alike = failure("step.update", "optimizer", "x is 3")
    assert advice(alike, [other, alike]) == advice(alike)


def test_a_wrong_forward_pass_speaks_before_what_follows_from_it() -> None:
    found = diagnosis_of(
        failure("step.update", "gradient-or-optimizer"),
        failure("step.weights", "loss"),
        failure("step.logits", "forward"),
    )
    assert found["layer"] == "operator"
    assert str(found["cause"]).startswith(places()["forward"].cause)


def test_a_variant_that_explains_the_numbers_speaks_before_a_place() -> None:
    found = diagnosis_of(failure("step.update", "", by=()), failure("step.gradients", "loss", by=(["gelu-by-tanh"],)))
    assert found["cause"] == "GELU is computed by its tanh approximation, not with erf."


@pytest.mark.parametrize(
    ("layer", "law", "message", "cause"),
    [
        ("data", "training.settings", "where the rows of the batch are: [1, 0], should be [0, 1]", "in the wrong rows"),
        ("data", "training.data_order", "number of orders in 4 epochs: 1, should be 4", "Epochs have the same order"),
        ("data", "training.data_order", "number of orders in 4 epochs: 3, should be 4", "Some epochs have the same"),
        ("data", "training.data_order", "examples of epoch 0, 37 in batches of 8: [0]", "leaves out examples, or has"),
        ("data", "training.data_order", "the same epoch drawn again: [0], should be [1]", "not a function of the seed"),
        (
            "copy",
            "copies.trainer_is_immune",
            "x as params() gave it, one update later: 1",
            "the next update overwrites",
        ),
        (
            "copy",
            "copies.trainer_is_immune",
            "labels after step 0, which must not write to it: 1",
            "writes into the arr",
        ),
        (
            "copy",
            "copies.trainer_is_immune",
            "loss of the first update with buffers that are written",
            "or two runs of",
        ),
    ],
)
def test_a_message_that_establishes_the_cause_speaks_before_a_place(
    layer: str, law: str, message: str, cause: str
) -> None:
    found = diagnosis_of(failure(law, "later-loss", message=message))
    assert found["layer"] == layer
    assert cause in str(found["cause"])


def test_what_a_message_establishes_has_no_measurements_of_other_checks() -> None:
    """Of a gradient that is right but for a large mean was said that it is wrong: in another check, in float64."""
    far = failure("step.gradients", "", message="gradient, N = 1, a large mean, x: error 1")
    found = diagnosis_of(far, failure("step.update", "precision", "the gradient of update 0 is wrong too"))
    assert str(found["cause"]).startswith("With embeddings of a small mean the gradient is right")
    assert "wrong too" not in str(found["cause"])


def test_of_two_defects_none_says_that_the_rest_is_right() -> None:
    both = ["reported-rate-shifted(+1)", "applied-rate-shifted(+1)", "loss-of-one-device"]
    cause = str(diagnosis_of(failure("step.update", "optimizer", by=(both,)))["cause"])
    assert cause.startswith(
        "3 defects together: The reported learning rate is that of another (this one +1). The update"
    )
    assert "is right" not in cause


def test_two_causes_of_the_same_numbers_have_both_next_steps() -> None:
    record = failure("training.settings", "reduction", by=(["mean-of-means"], ["mean-of-micro-batches"]))
    step = str(diagnosis_of(record)["next_step"])
    assert step.startswith("Sum losses, weights and gradients over the devices once")
    assert "Otherwise: Add up sums and weights over the micro-batches" in step


@pytest.mark.parametrize(
    ("first", "follows"),
    [
        (failure("step.logits", "forward"), True),
        (failure("step.logits", "rounding"), True),
        (failure("step.logits", "", by=(["gelu-by-tanh"],)), False),
        (failure("step.gradients", "loss", by=(["gelu-by-tanh", "mask-by-token-id"],)), True),
        (failure("step.gradients", "loss", by=(["gelu-by-tanh@evaluation"],)), False),
        (failure("step.gradients", "loss"), False),
    ],
)
def test_what_follows_from_wrong_logits_has_no_cause_of_its_own(first: Result, follows: bool) -> None:
    then = failure("step.moments", "optimizer")
    cause, step = advice(then, [first, then])
    assert (first.id in cause and first.id in step) is follows
    measured = bool(first.facts)
    assert (advice(first, [first, then])[0] == advice(first)[0]) is measured
    assert measured or advice(first, [first, then])[0].startswith("step.moments[mesh] was measured, and can have the")
    alone = advice(then)
    assert alone[0].startswith(places()["optimizer"].cause)
    assert alone == (cause, step) or follows


def test_a_next_step_names_no_check_that_did_not_fail() -> None:
    record = failure("equivalence.devices", "")
    assert "equivalence.layouts" in advice(record)[1]
    assert "equivalence.layouts" not in advice(record, [record])[1]
    assert "equivalence.layouts" in advice(record, [record, failure("equivalence.layouts", "")])[1]


@pytest.mark.parametrize(
    ("place", "after", "partly"), [("forward", 0.01, True), ("forward", 9.0, False), ("rows", 0.01, False)]
)
def test_a_part_is_named_only_where_each_variant_does_its_part(place: str, after: float, partly: bool) -> None:
    record = failure("step.logits", place)
    record.facts["explained"] |= {
        "nearest": ["gelu-by-tanh", "mask-by-token-id"],
        "after": after,
        "left": "gradient of update 0",
    }
    assert ("comes nearest, though not within the bounds: GELU" in str(diagnosis_of(record)["cause"])) is partly


@pytest.mark.parametrize(
    ("right", "place"),
    [
        ((), "first-update"),
        ((("logits", 0),), "loss"),
        ((("logits", 0), ("distance", 1)), "reported-loss"),
        ((("gradient", 0),), "reported-loss"),
    ],
)
def test_a_wrong_loss_alone_says_nothing_of_the_gradient(right: tuple[tuple[str, int], ...], place: str) -> None:
    def pair(kind: str, updates: int, off: float) -> Pair:
        got, want = (Seen(kind, updates, {kind: np.array(value)}, {}) for value in (1.0 + off, 1.0))
        return Pair(got, want, {kind: EXACT})

    compared = [pair("loss", 0, 0.5), *(pair(*one, 0.0) for one in right)]
    shown = located(Log(SMALL, {}, 1), compared)
    assert shown is not None
    assert shown.place == place
    assert "the loss of update 0 is 1.5, the oracle's 1" in shown.words[0]


def test_a_guess_gives_way_to_a_measured_cause_and_what_was_measured_stays() -> None:
    first = failure("equivalence.devices", "reduction", "right on one device")
    guess = dataclasses.replace(failure("equivalence.padding", ""), message="with garbage in padding, 3, should be 2")
    placed = failure("equivalence.loss", "", "the loss of update 0 is 3, the oracle's 2")
    placed.facts["explained"] = first.facts["explained"] | {"place": "", "measured": ["the loss of update 0 is 3"]}
    for record, words in ((guess, ""), (placed, " Measured: the loss of update 0 is 3.")):
        cause, step = advice(record, [first, guess, placed])
        assert cause == f"{first.id} was measured, and can have the same cause: see there.{words}"
        assert step.startswith(f"Fix what {first.id} names, and rerun; if this check still fails then, it has a cause")
    # A message that is a measurement speaks for itself, and so does the fault of another trainer.
    own = dataclasses.replace(
        guess, law="training.data_order", rung=8, message="number of orders in 4 epochs: 1, should"
    )
    assert advice(own, [first, own])[0].startswith("Epochs have the same order")
    other = dataclasses.replace(guess, subject="pmap")
    assert advice(other, [first, other])[0] == laws()["equivalence.padding"].cause
