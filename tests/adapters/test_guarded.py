"""What an adapter gets and returns is checked where it enters; its exceptions are named as its own."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from kit import numbers, run_law
from sftref.conformance.adapter import Arrays, HostBatch, StepResult
from sftref.conformance.core.check import AdapterRaised, Check, LawBroken, NotRun
from sftref.conformance.core.law import laws
from sftref.conformance.core.result import Result
from sftref.conformance.faults.trainers.numpy_trainer import NumpyTrainer
from sftref.conformance.laws.support.guarded import Guarded
from sftref.conformance.laws.support.process_group import Layout, Ranks, RanksBroken
from sftref.conformance.oracle.draws import draw_case
from sftref.conformance.workers.channel import NoAnswer

WEIGHT = "bert.encoder.layer.0.intermediate.dense.weight"


def guarded(method: str, change: Callable[[Any], Any], trainer: Any = None) -> Guarded:
    """A right trainer whose method's result is changed."""
    trainer = trainer or NumpyTrainer()
    right = getattr(trainer, method)
    setattr(trainer, method, lambda *arguments: change(right(*arguments)))
    return Guarded(trainer, "mine:Trainer")


def ran(law: str, subject: Any) -> None:
    run_law(law, subject=subject, devices=list(range(4)), against=NumpyTrainer())


def transposed(leaves: Arrays) -> Arrays:
    return dict(leaves) | {WEIGHT: leaves[WEIGHT].T}


def without(leaves: Arrays) -> Arrays:
    return {name: leaf for name, leaf in leaves.items() if name != WEIGHT}


@pytest.mark.parametrize(("law", "method", "change", "message"), [
    ("step.gradients", "gradients", transposed, rf"gradients\(\) {WEIGHT} has shape \(32, 56\), must be \(56, 32\)"),
    ("step.gradients", "gradients", without, f"lacks {WEIGHT}; must have the leaves of start"),
    ("step.gradients", "gradients", lambda leaves: leaves | {"position_ids": np.arange(3)}, "has position_ids; must"),
    ("step.gradients", "gradients", lambda leaves: leaves | {WEIGHT: leaves[WEIGHT] + 0j}, "has dtype complex128"),
    ("step.gradients", "gradients", lambda leaves: leaves | {WEIGHT: None}, r"has shape \(\), must be \(56, 32\)"),
    ("step.gradients", "gradients", lambda leaves: None, "returned a NoneType, must be a Mapping"),
    ("step.update", "params", transposed, r"params\(\) bert.*has shape"),
    ("step.update", "step", lambda result: result._replace(loss=np.ones(2)), r"loss has shape \(2,\), must be"),
    ("step.update", "step", lambda result: result._replace(loss=None), "loss has dtype object, must be a real one"),
    ("step.update", "step", lambda result: result.loss, "returned a float.*, must be a sequence"),
    ("step.logits", "evaluate", lambda logits: logits.T, r"logits has shape \(3, 16\), must be \(any, 3\)"),
    ("step.moments", "moments", lambda pair: pair[0], "returned 3. values, must be 2|returned a dict"),
    ("equivalence.replicas", "replicas", lambda copies: [without(copies[0])], "lacks"),
    ("training.metrics", "score", lambda score: {"accuracy": 1.0}, r"score\(\) has no f1"),
])  # fmt: skip
def test_what_breaks_the_interface_is_named(law: str, method: str, change: Any, message: str) -> None:
    with pytest.raises(AdapterRaised, match=message) as error:
        ran(law, guarded(method, change))
    assert str(error.value).startswith(f"--adapter mine:Trainer: {method}() ")
    assert "test_guarded.py" in error.value.facts["adapter_frames"][-1]


def test_a_wrong_number_of_rows_is_a_wrong_result() -> None:
    with pytest.raises(LawBroken, match="shape of the logits"):
        ran("step.logits", guarded("evaluate", lambda logits: logits[:-1]))


def test_values_that_are_not_finite_are_left_to_the_laws() -> None:
    with pytest.raises(LawBroken):
        ran("step.gradients", guarded("gradients", lambda leaves: leaves | {WEIGHT: leaves[WEIGHT] * np.nan}))


def fortran(leaf: Any) -> Any:
    leaf = np.asfortranarray(leaf)
    leaf.flags.writeable = False
    return leaf


@pytest.mark.parametrize("kind", [
    lambda leaf: np.asarray(leaf, np.float32), fortran, jnp.asarray, lambda leaf: np.asarray(leaf).tolist(),
], ids=["float32", "fortran", "jax", "lists"])  # fmt: skip
def test_unusual_but_right_types_pass(kind: Callable[[Any], Any]) -> None:
    class Unusual(NumpyTrainer):
        # Its losses are float32 numbers.
        capabilities = NumpyTrainer.capabilities - {"precision:float64"}

        def params(self) -> Any:
            return {name: kind(leaf) for name, leaf in super().params().items()}

        def gradients(self, batch: HostBatch) -> Any:
            return {name: kind(leaf) for name, leaf in super().gradients(batch).items()}

        def moments(self) -> Any:
            return [{name: kind(leaf) for name, leaf in leaves.items()} for leaves in super().moments()]

        def replicas(self) -> Any:
            return tuple({name: kind(leaf) for name, leaf in leaves.items()} for leaves in super().replicas())

        def evaluate(self, batch: HostBatch) -> Any:
            return kind(super().evaluate(batch))

        def step(self, batch: HostBatch) -> Any:
            result = super().step(batch)
            return np.float32(result.loss), np.float64(result.learning_rate)

    for law in ("step.gradients", "step.update", "step.moments", "step.logits", "equivalence.replicas"):
        ran(law, Guarded(Unusual(), "mine:Unusual"))


def boom(_: Any) -> Any:
    raise TypeError("unsupported operand\n  of two lines")


def test_an_exception_has_its_type_its_line_and_its_frames() -> None:
    with pytest.raises(AdapterRaised) as error:
        ran("step.update", guarded("step", boom))
    assert str(error.value).startswith("--adapter mine:Trainer: step() raised TypeError in boom (")
    assert str(error.value).endswith("): unsupported operand of two lines")
    assert "\n" not in str(error.value)
    frames = error.value.facts["adapter_frames"]
    assert [frame.split()[0] for frame in frames] == ["<lambda>", "boom"]
    record = Result.of(laws()["step.update"], "mine", None, error.value, 1.0, "")
    assert (record.status, record.judged, record.facts["adapter_frames"]) == ("error", False, frames)


def test_an_adapter_that_exits_raised() -> None:
    def leave(_: Any) -> Any:
        raise SystemExit(0)

    with pytest.raises(AdapterRaised, match="raised SystemExit in leave"):
        ran("step.update", guarded("step", leave))


def test_an_exception_of_a_law_is_not_the_adapters() -> None:
    record = Result.of(laws()["step.update"], "mine", None, KeyError("x"), 1.0, "")
    assert (record.status, record.judged) == ("error", True)


@pytest.mark.parametrize(("error", "line"), [
    (RuntimeError("INTERNAL: x\nRESOURCE_EXHAUSTED: Out of memory, 9 GiB"), "Out of memory, 9 GiB"),
    (MemoryError("Unable to allocate 4.00 TiB"), "4.00 TiB"),
    (MemoryError(), "MemoryError"),
    (LawBroken("2 x 2 processes, step: rank 1: XlaRuntimeError: RESOURCE_EXHAUSTED: 3 MiB"), "3 MiB"),
])  # fmt: skip
def test_no_result_is_wrong_where_memory_ran_out(error: BaseException, line: str) -> None:
    record = Result.of(laws()["operators.gelu"], None, None, error, 1.0, "")
    assert (record.status, record.judged) == ("error", False)
    assert line in record.facts["out_of_memory"]


def test_memory_is_seen_through_the_adapters_exception() -> None:
    def full(_: Any) -> Any:
        raise MemoryError("Unable to allocate 3 GiB")

    with pytest.raises(AdapterRaised) as error:
        ran("step.update", guarded("step", full))
    record = Result.of(laws()["step.update"], "mine", None, error.value, 1.0, "")
    assert record.facts["out_of_memory"] == "Unable to allocate 3 GiB"


def test_batches_that_are_not_claimed_do_not_enter() -> None:
    class Divided(NumpyTrainer):
        capabilities = NumpyTrainer.capabilities - {"padding rows"}

    subject = Guarded(Divided(), "mine:Divided")
    _, params, ragged = draw_case(NumpyTrainer(), numbers())
    case, _, full = draw_case(Divided(), numbers())
    subject.start(case, params, 4)
    assert isinstance(subject.step(full), StepResult)
    for call in (subject.step, subject.evaluate, subject.gradients, lambda batch: subject.score([batch])):
        with pytest.raises(NotRun, match="capability padding rows is not claimed") as error:
            call(ragged)
    check = Check(laws()["step.update"], "quick", 0)
    assert Result.of(check.law, "mine", check, error.value, 1.0, "").facts["unclaimed"] == "padding rows"
    subject.start(case, params, 3)
    with pytest.raises(NotRun):
        subject.step(full)


def test_a_case_without_the_fixed_constants_does_not_enter() -> None:
    trainer = NumpyTrainer()
    trainer.fixed = {"eps": 1e-3}
    case, params, _ = draw_case(NumpyTrainer(), numbers())
    with pytest.raises(NotRun, match=r"needs eps = 1e-05; the trainer's is fixed at 0.001"):
        Guarded(trainer, "mine:Trainer").start(case, params, 1)


RAISED = NoAnswer("AdapterRaised: --adapter mine:Trainer: step() raised", frames=("step (mine.py:3)",))


@pytest.mark.parametrize(("others", "error"), [
    (None, AdapterRaised),
    (NoAnswer("no answer within 120 s", silent=True), AdapterRaised),
    (NoAnswer("SIGKILL", code=-9), RanksBroken),
])  # fmt: skip
def test_an_adapter_that_raises_in_one_of_several_processes(
    others: Any, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that waits for the one that raised is no cause; one that was lost is."""
    monkeypatch.setattr(Ranks, "answers", lambda self, seconds: [RAISED, others])
    ranks = Ranks.__new__(Ranks)
    ranks.layout, ranks.running = Layout(2, 2), []
    with pytest.raises(error, match=r"step: rank 0: AdapterRaised: --adapter mine:Trainer"):
        ranks._checked("step", 1.0)
