"""Failed and passed checks -> one layer: the rules, each law's own diagnosis, and its evidence."""

import dataclasses
import re

import numpy as np
import pytest
from sftref.conformance.core.fault import LAYERS
from sftref.conformance.core.law import Law, check_id, laws
from sftref.conformance.core.result import Result
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trainers import NumpyTrainer
from sftref.conformance.judge.advice import ON_CPU, REPRODUCE
from sftref.conformance.judge.diagnosis import diagnose, rules
from sftref.conformance.judge.outcome import Outcome
from sftref.conformance.laws.support.trainer_checks import simplified
from sftref.conformance.laws.trainer.test_7_equivalence import EVEN, patterns
from sftref.conformance.machine.remedies import Tries
from sftref.conformance.oracle.draws import batch_of, draw_case


def run(*failed: str, passed: tuple[str, ...] = (), message: str = "off", **facts: object) -> Outcome:
    """A run in which some laws failed and others passed."""
    outcome = Outcome(settings=Settings(), expected=[])
    for status, ids in (("fail", failed), ("pass", passed)):
        for name in ids:
            law, _, subject = name.partition("[")
            record = Result.ended(laws()[law], subject.removesuffix("]") or None, status, message, 1.0)
            outcome.records[record.id] = dataclasses.replace(record, facts=dict(facts) if status == "fail" else {})
    order = {law: place for place, law in enumerate(laws())}
    outcome.expected = sorted(outcome.records, key=lambda check: order[check.partition("[")[0]])
    return outcome


@pytest.mark.parametrize("law", laws())
def test_every_law_points_at_a_layer(law: str) -> None:
    name = law if laws()[law].per == "machine" else check_id(law, "mesh")
    diagnosis = diagnose(run(name))
    assert diagnosis is not None
    assert diagnosis["layer"] in LAYERS
    assert diagnosis["cause"]
    assert diagnosis["next_step"]
    assert f"{name}: fail: off" in diagnosis["evidence"]


@pytest.mark.parametrize(
    ("wrong", "layer", "cause"),
    [
        ([EVEN, "unequal shards"], "training loop", "not summed exactly once"),
        (["unequal shards", "an empty shard", "one row a device"], "training loop", "the mean of these means"),
        (["unequal shards", "an empty shard", "one row in all", "an empty shard in the middle"], "data", "are dropped"),
        (["one row in all"], "training loop", laws()["equivalence.devices"].cause),
    ],
)
def test_the_wrong_layouts_show_what_happens_to_rows(wrong: list[str], layer: str, cause: str) -> None:
    assert set(wrong) <= patterns(8).keys()
    message = f"wrong with {', with '.join(wrong)} (of 6 layouts): gradient, N = 8"
    diagnosis = diagnose(run("equivalence.devices[mesh]", "equivalence.layouts[mesh]", message=message))
    assert diagnosis is not None
    assert diagnosis["layer"] == layer
    assert cause in diagnosis["cause"]


def test_rules_name_laws_and_ways_that_exist() -> None:
    case, _, batch = draw_case(NumpyTrainer(), np.random.default_rng(0))
    ways = simplified(case, batch_of(case, np.random.default_rng(0), real=13), 8)
    line, _, whole = draw_case(NumpyTrainer(), np.random.default_rng(0), num_labels=1, regression=True)
    ways |= simplified(line, whole, 8)
    for rule in rules():
        assert rule.layer in LAYERS
        for word in (*rule.failed, *rule.also_failed, *rule.passed):
            assert word in laws() or any(law.startswith(word) and word.endswith(".") for law in laws())
        assert rule.passes in {"", *ways}
        re.compile(rule.message)
    assert batch.weights.size


def test_without_a_failure_there_is_no_diagnosis() -> None:
    assert diagnose(run(passed=("copies.round_trip",))) is None


@pytest.mark.parametrize(
    ("failed", "passed", "facts", "layer"),
    [
        (("copies.round_trip", "operators.matmul", "step.gradients[mesh]"), (), {}, "copy"),
        (("collectives.explicit", "collectives.partitioner"), (), {"fails": ["on one device"]}, "operator"),
        (("collectives.psum", "collectives.partitioner"), (), {"fails": ["on one device"]}, "collective"),
        (("operators.matmul",), ("operators.precision",), {"off_by": 2.0**-11}, "precision"),
        (("operators.matmul",), ("operators.precision",), {"off_by": 0.3}, "operator"),
        (("step.update[mesh]",), ("step.gradients[mesh]",), {}, "optimizer"),
        (("step.update[mesh]",), ("step.gradients[mesh]",), {"holds": ["without dropout"]}, "random numbers"),
        (("step.gradients[mesh]", "step.update[mesh]"), (), {"holds": ["with equal weights"]}, "data"),
        (("step.gradients[mesh]", "step.logits[mesh]"), (), {"holds": []}, "operator"),
        (("equivalence.devices[mesh]",), (), {"holds": ["on one device"], "off_by": 2.0**-9}, "precision"),
        (("equivalence.devices[mesh]",), (), {"holds": ["on one device"], "off_by": 0.5}, "training loop"),
        (("equivalence.replicas[mesh]", "equivalence.devices[mesh]"), (), {}, "training loop"),
        (("equivalence.replicas[mesh]",), ("equivalence.devices[mesh]",), {}, "collective"),
    ],
)
def test_failures_and_passes_decide(
    failed: tuple[str, ...], passed: tuple[str, ...], facts: dict[str, object], layer: str
) -> None:
    diagnosis = diagnose(run(*failed, passed=passed, **facts))
    assert diagnosis is not None
    assert diagnosis["layer"] == layer


def test_fast_math_is_named_by_the_check_of_special_values() -> None:
    diagnosis = diagnose(run("operators.eager_and_jit", "operators.special_values"))
    assert diagnosis is not None
    assert diagnosis["cause"] == laws()["operators.special_values"].cause


def test_the_evidence_has_the_facts_and_the_other_trainers() -> None:
    facts = {"holds": ["without dropout"], "fails": ["on one device"], "held_before": ["a", "b"], "off_by": 0.25}
    passed = ("step.gradients[mesh]", "step.logits[pmap]", "copies.sharded")
    diagnosis = diagnose(run("step.gradients[pmap]", "step.gradients[single]", passed=passed, **facts))
    assert diagnosis is not None
    for text in ("passes without dropout", "also fails on one device", "passed before: a; b", "relative error 0.25"):
        assert any(text in line for line in diagnosis["evidence"]), text
    assert {"single failed the same laws", "mesh passed the same laws"} <= set(diagnosis["evidence"])
    assert diagnosis["evidence"][-1] == "1 of 2 checks of rung 6 of pmap failed; 1 on lower rungs passed"


def explained(*by: list[str], **more: object) -> dict[str, object]:
    """The fact that a failure has if variants of the oracle were compared."""
    facts = {"by": list(by), "nearest": [], "what": "gradient of update 0", "before": 500.0, "after": 0.1, "left": "",
             "tried": 90, "measured": []}  # fmt: skip
    return {"explained": facts | more}


def test_the_variant_that_explains_the_numbers_is_the_cause() -> None:
    facts = explained(["gelu-by-tanh", "no-decay"], ["relu", "no-decay"])
    diagnosis = diagnose(run("step.gradients[mesh]", "step.update[mesh]", passed=("step.logits[mesh]",), **facts))
    assert diagnosis is not None
    assert diagnosis["layer"] == "operator"
    first = "2 defects together: GELU is computed by its tanh approximation, not with erf. No leaf decays."
    assert diagnosis["cause"] == f"{first} (Or, with the same numbers: The activation is ReLU, not GELU.)"
    assert (
        "500 of its bound from the oracle, 0.1 from the oracle with gelu-by-tanh and no-decay"
        in diagnosis["evidence"][0]
    )


def test_a_fitted_value_is_a_cause() -> None:
    diagnosis = diagnose(run("step.gradients[mesh]", **explained(["label-smoothing(0.033)"])))
    assert diagnosis is not None
    assert diagnosis["cause"] == "The loss has label smoothing of 0.033."


def test_what_explains_only_few_of_the_failures_is_no_cause() -> None:
    """One number fits by chance."""
    outcome = run("equivalence.loss[mesh]", "equivalence.devices[mesh]", "equivalence.row_order[mesh]", **explained())
    lucky = outcome.records["equivalence.loss[mesh]"]
    outcome.records[lucky.id] = dataclasses.replace(lucky, facts=explained(["relu"]))
    diagnosis = diagnose(outcome)
    assert diagnosis is not None
    assert diagnosis["cause"].startswith("Unknown: none of 90 variants of the oracle gives these numbers.")


def test_an_unknown_cause_says_what_was_measured() -> None:
    words = ["gradient of update 0: wrong in all leaves", "gradient of update 0: 1.5 times the oracle's in every leaf"]
    near = {"nearest": ["relu"], "left": "gradient of update 0", "after": 2.0, "measured": words}
    diagnosis = diagnose(run("step.gradients[mesh]", **explained(**near)))
    assert diagnosis is not None
    near_it = "The variant that comes nearest, though not within the bounds: The activation is ReLU"
    assert f" Measured: {words[1]}; {words[0]}. {near_it}" in diagnosis["cause"]
    assert f"times the bound. {laws()['step.gradients'].cause}" in diagnosis["cause"]


def test_a_claim_that_the_variants_contradict_is_not_made() -> None:
    message = f"wrong with {', with '.join(patterns(8))} (of 6 layouts): gradient, N = 8"
    plain = diagnose(run("equivalence.layouts[mesh]", message=message))
    tried = diagnose(run("equivalence.layouts[mesh]", message=message, **explained()))
    assert plain is not None
    assert tried is not None
    assert "not summed exactly once" in plain["cause"]
    assert "not summed exactly once" not in tried["cause"]


def test_a_next_step_names_no_check_that_passed_or_was_blocked() -> None:
    passed = diagnose(run("equivalence.devices[mesh]", passed=("equivalence.layouts[mesh]",)))
    failed = diagnose(run("equivalence.devices[mesh]", "equivalence.layouts[mesh]"))
    assert passed is not None
    assert failed is not None
    assert "equivalence.layouts" in laws()["equivalence.devices"].next_step
    assert "equivalence.layouts" not in passed["next_step"]
    assert passed["next_step"].startswith("Otherwise compare each device's sums")
    assert "equivalence.layouts" in failed["next_step"]


@pytest.mark.parametrize("law", laws())
def test_no_next_step_leads_to_a_check_that_shows_nothing(law: str) -> None:
    """Each law fails alone, so its next step may name no other law."""
    diagnosis = diagnose(run(law if laws()[law].per == "machine" else check_id(law, "mesh")))
    assert diagnosis is not None
    assert not [other for other in laws() if other != law and f"{other} " in f"{diagnosis['next_step']} "]


@pytest.mark.parametrize("law", [law for law in laws().values() if law.per == "machine"], ids=lambda law: law.id)
def test_on_simulated_devices_no_library_of_accelerators_is_named(law: Law) -> None:
    outcome = run(law.id)
    outcome.environment = {"simulated": True, "platforms": ["cpu"]}
    diagnosis = diagnose(outcome)
    assert diagnosis is not None
    assert not re.search("NCCL|RCCL|HSA_|IOMMU|driver", diagnosis["cause"] + diagnosis["next_step"])
    assert diagnosis["cause"].endswith(".")
    assert diagnosis["next_step"].endswith(".")
    # Where nothing is left without the accelerators, the CPU's own code is to blame, or its memory, only for copies.
    assert (diagnosis["cause"] == ON_CPU) == (law.id in ("copies.round_trip", "copies.between_devices"))
    assert diagnosis["next_step"] != REPRODUCE


@pytest.mark.parametrize(
    ("law", "step"), [("collectives.psum", "NCCL_PROTO=Simple"), ("collectives.pmap", "jit with a mesh instead")]
)
def test_on_accelerators_the_library_is_named_where_it_can_be_at_fault(law: str, step: str) -> None:
    outcome = run(law)
    outcome.environment = {"platforms": ["gpu", "rocm"]}
    diagnosis = diagnose(outcome)
    assert diagnosis is not None
    assert step in diagnosis["next_step"]


@pytest.mark.parametrize(
    ("status", "layer", "words"),
    [("crash", "process", "process ended"), ("hang", "process", "did not answer"), ("error", "adapter", "raised")],
)
def test_a_trainer_that_ends_without_a_result_has_no_law_as_its_cause(status: str, layer: str, words: str) -> None:
    outcome = run("step.update[mesh]", message="SIGSEGV; in step (mine.py:7)")
    outcome.records["step.update[mesh]"] = dataclasses.replace(outcome.records["step.update[mesh]"], status=status)
    diagnosis = diagnose(outcome)
    assert diagnosis is not None
    assert diagnosis["layer"] == layer
    assert words in diagnosis["cause"]
    assert "mine.py:7" in diagnosis["cause"]
    assert "decay" not in diagnosis["cause"] + diagnosis["next_step"]


def test_a_lost_process_whose_reruns_passed_is_no_fault_of_the_law() -> None:
    outcome = run("collectives.psum", message="SIGKILL")
    outcome.records["collectives.psum"] = dataclasses.replace(outcome.records["collectives.psum"], status="crash")
    outcome.tries = Tries(asked=["collectives.psum"], unchanged=2, passed_unchanged=2)
    diagnosis = diagnose(outcome)
    assert diagnosis is not None
    assert "ended (SIGKILL); 2 of 2 reruns of it passed" in diagnosis["cause"]


def test_what_was_accepted_below_is_the_likely_cause_above() -> None:
    outcome = run("training.fifty_steps[mesh]", **explained())
    rows = {**run("equivalence.devices[mesh]", **explained(["last-row-lost"])).records}
    low = rows["equivalence.devices[mesh]"]
    message = "known deviation (rows are dropped; a link), seen again as fail: off"
    outcome.records = {low.id: dataclasses.replace(low, status="deviation", message=message), **outcome.records}
    outcome.expected = list(outcome.records)
    diagnosis = diagnose(outcome)
    assert diagnosis is not None
    assert diagnosis["layer"] == "data"
    probably = "Probably what was accepted as a deviation (equivalence.devices[mesh]): "
    assert diagnosis["cause"] == f"{probably}The last row of the batch does not count."
