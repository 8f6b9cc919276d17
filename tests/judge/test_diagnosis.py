"""Failed and passed checks -> one layer: the rules, each law's own diagnosis, and its evidence."""

import dataclasses
import re

import numpy as np
import pytest
from sftref.conformance.core.check import Check, LawBroken
from sftref.conformance.core.fault import LAYERS
from sftref.conformance.core.law import check_id, laws
from sftref.conformance.core.result import Result
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trainers import FAULTS, NumpyTrainer
from sftref.conformance.faults.trial import run_law
from sftref.conformance.judge.diagnosis import diagnose, rules
from sftref.conformance.judge.outcome import Outcome
from sftref.conformance.laws.support.trainer_checks import simplified
from sftref.conformance.laws.trainer.test_7_equivalence import EVEN, patterns
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


def test_the_evidence_has_the_facts_and_the_other_trainers() -> None:
    facts = {"holds": ["without dropout"], "fails": ["on one device"], "held_before": ["a", "b"], "off_by": 0.25}
    passed = ("step.gradients[mesh]", "step.logits[pmap]", "copies.sharded")
    diagnosis = diagnose(run("step.gradients[pmap]", "step.gradients[single]", passed=passed, **facts))
    assert diagnosis is not None
    for text in ("passes without dropout", "also fails on one device", "passed before: a; b", "relative error 0.25"):
        assert any(text in line for line in diagnosis["evidence"]), text
    assert {"single failed the same laws", "mesh passed the same laws"} <= set(diagnosis["evidence"])
    assert diagnosis["evidence"][-1] == "1 of 2 checks of rung 6 of pmap failed; 1 on lower rungs passed"


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
