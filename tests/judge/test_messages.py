"""What a failed check's own message or scores measure is the cause."""

import dataclasses

import pytest
from failures import diagnosis_of, failure
from sftref.conformance.judge.diagnosis import advice

pytestmark = pytest.mark.once


def test_of_several_wrong_scores_the_surest_is_the_cause() -> None:
    """One batch leaves more mistakes than a split of several."""
    records = []
    for law, words in (("training.settings", "the recall or the precision"), ("training.metrics", "the recall")):
        record = dataclasses.replace(failure(law, ""), message="error of F1 after the first update: 0.3, should be")
        records.append(dataclasses.replace(record, facts={"scores": [f"The reported F1 is {words}"]}))
    found = diagnosis_of(*records)
    assert (found["cause"], found["layer"]) == ("The reported F1 is the recall.", "evaluation")


@pytest.mark.parametrize(
    ("law", "message", "texts"),
    [
        (
            "copies.round_trip",
            "Fortran-ordered array through cpu:0: error 1, must be the same bit for bit",
            ["not stored row by row (Fortran-ordered)", "np.ascontiguousarray"],
        ),
        (
            "collectives.repeated",
            "psum in a loop, 3072 B of float32, round 0: error 1, must be the same bit for bit",
            ["wrong inside a loop of a program, and right outside of it", "unroll=True"],
        ),
        (
            "random.keys",
            "bits of 131075 elements: error 0.5, must be the same bit for bit",
            ["The random bits of large arrays are wrong, and those of small ones are right"],
        ),
        (
            "environment.versions",
            "version of the imported jax (/home/me/jax/__init__.py): '0.4.99', should be '0.10.2'",
            ["Python imports another jax than the installed one: /home/me/jax/__init__.py.", "PYTHONPATH"],
        ),
        (
            "lowering.precision",
            "tpu: types narrower than float32, which the programs for cpu, cuda, rocm have not, first in convert of "
            "2x16x32: ['f16'], should be [] [lowering.precision]",
            ["Lowered for tpu, the float32 update has the types ['f16'], and lowered for cpu, cuda, rocm it has none",
             "first in convert of 2x16x32", "the shape of convert of 2x16x32 says which array"],
        ),
        (
            "lowering.precision",
            "cuda: types narrower than float32, first in dot_general of 4x4: ['bf16'], should be []",
            ["has the types ['bf16'] on every platform, first in dot_general of 4x4"],
        ),
        (
            "lowering.precision",
            "cuda: precisions below float32 that its products ask for: ['DEFAULT'], should be [] [lowering.precision]",
            ["request ['DEFAULT'], which cuda may compute in TF32", "Pass `precision=jax.lax.Precision.HIGHEST`"],
        ),
        (
            "lowering.precision",
            "rocm: products that are not the CPU's: ['a x b -> c DEFAULT'], should be []",
            ["Lowered for rocm, the update has other matrix products", "['a x b -> c DEFAULT']"],
        ),
        (
            "lowering.reduction",
            "cpu: tokens that do not lie in 8 pieces, in a module without all-reduce: [Tensor(shape=(16, 16))], should",
            ["The batch is not divided among the devices", "PartitionSpec"],
        ),
        (
            "lowering.reduction",
            "cuda: groups of devices that a sum is taken over: [(0, 1), (2, 3)], should be [(0, 1, 2, 3)]",
            ["within the groups [(0, 1), (2, 3)], and not over all devices"],
        ),
        (
            "lowering.reduction",
            "tpu: elements reduced: 96, should be at least 2.5e+04 (every gradient element is added up)",
            ["adds 96 numbers up over the devices, and the gradient has 2.5e+04"],
        ),
        (
            "processes.data",
            "37 examples in batches of 8, 2 x 2 processes x devices: what all read of batch 1: [3, 9], should be [3]",
            ["read the examples [3, 9] as batch 1, and must read [3]"],
        ),
        (
            "training.data_order",
            "examples of epoch 0, 9 in batches of 4, without 1: [7]: [0, 1, 2, 3, 4, 5, 6, 8], should be [0, 1, 2, 3]",
            ["Epoch 0 of 9 examples in batches of 4 leaves out 1 of them, [7], and has these twice: none."],
        ),
        (
            "training.data_order",
            "examples of epoch 1, 9 in batches of 4, without 1: [7], twice 2: [0, 3]: [0, 0, 1], should be [0, 1]",
            ["leaves out 1 of them, [7], and has these twice: 2: [0, 3]."],
        ),
        (
            "training.data_order",
            "examples of epoch 0, 9 in batches of 4, twice 3: [0, 1, 2]: [0, 0, 1], should be [0, 1]",
            ["has 3 of them more than once, [0, 1, 2], and leaves out none."],
        ),
        (
            "processes.agreement",
            "rank 1 of 2 x 2 processes x devices: loss and rate of update 0: (1.5, 0.0), should be (1.25, 0.0)",
            ["In update 0, process 1 has the loss and the learning rate (1.5, 0.0), and process 0 has (1.25, 0.0)"],
        ),
        (
            "equivalence.replicas",
            "bert.pooler.dense.bias on device 3: error 1, must be the same bit for bit; furthest off at [19]: 0",
            ["device 3 has other parameters than device 0, first in bert.pooler.dense.bias"],
        ),
        (
            "equivalence.devices_used",
            "devices that hold the run's arrays: [0, 2], should be [0, 1] [equivalence.devices_used]",
            ["arrays are on the devices [0, 2], and must be on [0, 1]"],
        ),
        (
            "equivalence.collectives",
            "share of elements moved beyond the gradient: 1.02, should be at most 0.01 (25000 parameters)",
            ["moves 1.02 times as many numbers between devices as the gradient has"],
        ),
        (
            "training.evaluation",
            "after evaluation, classifier.bias: error 1, must be the same bit for bit",
            ["An evaluation changes the parameters, first classifier.bias."],
        ),
        (
            "training.settings",
            "arrays that an update leaves on the devices, ragged batches, N = 8: ['1 float32[]'], should be []",
            ["that were not there after the update before: ['1 float32[]']"],
        ),
    ],
)  # fmt: skip
def test_what_the_text_of_a_program_shows_is_the_cause(law: str, message: str, texts: list[str]) -> None:
    found = diagnosis_of(failure(law, "", message=message))
    assert all(text in f"{found['cause']} {found['next_step']}" for text in texts), found
    assert "{" not in f"{found['cause']} {found['next_step']}"
    assert all(advice(failure(law, "", message=message)))


def test_a_program_that_sends_too_much_does_not_hide_wrong_results() -> None:
    wrong = failure("equivalence.devices", "device-dropout", "right on one device")
    much = failure("lowering.reduction", "", message="cpu: share reduced beyond that: 1.02, should be at most 0.01")
    assert str(diagnosis_of(wrong, much)["cause"]).startswith("With dropout the run is right on one device")
    groups = "cpu: groups of devices that a sum is taken over: [(0, 1), (2, 3)], should be [(0, 1, 2, 3)]"
    within = failure("lowering.reduction", "", message=groups)
    assert str(diagnosis_of(wrong, within)["cause"]).startswith("A sum over devices is taken within the groups")


def test_what_a_message_establishes_is_the_likely_cause_of_its_check_too() -> None:
    """The check said that a part has fewer bits, and the diagnosis that LayerNorm computes its variance in one pass."""
    message = "gradient, N = 1, a large mean, classifier.bias: error 0.2, bound 1e-6"
    record = failure("step.gradients", "rounding", "the gradient of update 0 is wrong too", message=message)
    cause, step = advice(record, [record])
    assert cause.startswith("With embeddings of a small mean the gradient is right")
    assert (cause, step) == advice(record)
    assert str(diagnosis_of(record)["cause"]).startswith(cause)
    assert diagnosis_of(record)["next_step"] == step
