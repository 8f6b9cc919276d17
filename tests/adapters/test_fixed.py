"""Constants that a trainer fixes, and batches for one that does not pad rows: every law's cases respect them."""

from typing import Any, ClassVar

import jax
import numpy as np
import pytest
from kit import numbers, run_law
from sftref.conformance.adapter import AdapterError, Arrays, Case, HostBatch, StepResult, check_adapter, fixed_of
from sftref.conformance.adapters.template import Template
from sftref.conformance.benchmarks.measuring.bench import Bench
from sftref.conformance.benchmarks.measuring.trainers import begin
from sftref.conformance.core.check import LawBroken, NotRun
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trainers.numpy_trainer import NumpyTrainer
from sftref.conformance.oracle import settings
from sftref.conformance.oracle.draws import batch_of, draw_case, possible, seeded_case

pytestmark = pytest.mark.once

CONSTANTS = {"eps": 1e-6, "b1": 0.9, "b2": 0.999, "clip_norm": None, "layer_norm_eps": 1e-12, "num_labels": 2}
LAWS = ("step.logits", "step.update", "equivalence.devices", "equivalence.against", "training.decay", "step.moments")


class Fixed(NumpyTrainer):
    """Refuses every case that has not its constants."""

    fixed = CONSTANTS

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        assert {name: getattr(case, name) for name in self.fixed} == dict(self.fixed)
        super().start(case, params, n_devices)


class Divided(NumpyTrainer):
    """Refuses rows of weight 0, and rows that do not divide among its devices."""

    capabilities = NumpyTrainer.capabilities - {"padding rows"}

    def shards(self, batch: HostBatch) -> list[HostBatch]:
        assert (batch.weights > 0).all()
        assert len(batch.weights) % (self.n * self.case.accumulate) == 0
        return super().shards(batch)

    def evaluate(self, batch: HostBatch) -> Any:
        assert len(batch.weights) % self.n == 0
        return super().evaluate(batch)


def run(law: str, subject: Any, n: int = 8) -> None:
    run_law(law, subject=subject, devices=list(range(n)), against=NumpyTrainer())


@pytest.mark.parametrize("law", LAWS)
def test_every_case_has_the_constants_of_the_trainer(law: str) -> None:
    run(law, Fixed())


@pytest.mark.parametrize("seed", [115, 128, 137])
def test_a_small_epsilon_magnifies_roundings_that_are_allowed(seed: int) -> None:
    """Once false alarms, of 1.04, 1.5 and 265 times the bound, in 3 of 120 seeds.

    The updates of tiny gradients were wrong: behind a saturated tanh, and where gradients cancel to 1e-8, which the
    error of Adam's corrections in the update before had moved.
    """

    class Common(Template):
        fixed: ClassVar = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "clip_norm": None}

    run_law("step.update", Settings(level="quick", seed=seed), subject=Common())


def test_other_constants_than_those_declared_are_seen() -> None:
    class Lies(NumpyTrainer):
        fixed: ClassVar = {"eps": 1e-3}

        def start(self, case: Case, params: Arrays, n_devices: int) -> None:
            super().start(Case(**vars(case) | {"eps": 1e-2}), params, n_devices)

    with pytest.raises(LawBroken):
        run("step.update", Lies())


@pytest.mark.parametrize(("law", "fixed", "message"), [
    ("step.regression", {"num_labels": 2}, "needs num_labels = 1; the trainer's is fixed at 2"),
    ("training.metrics", {"num_labels": 3}, "needs num_labels = 2; the trainer's is fixed at 3"),
    ("training.schedule", {"total_steps": 50}, "needs total_steps = 1; the trainer's is fixed at 50"),
    ("training.decay", {"weight_decay": 0.0}, "needs weight_decay > 0; the trainer's is fixed at 0"),
])  # fmt: skip
def test_a_law_about_a_fixed_constant_is_not_run(law: str, fixed: dict[str, Any], message: str) -> None:
    subject = NumpyTrainer()
    subject.fixed = fixed
    with pytest.raises(NotRun, match=message):
        run(law, subject)


@pytest.mark.parametrize("law", ["step.update", "training.decay"])
def test_a_trainer_without_a_warm_up_is_right(law: str) -> None:
    """Both laws once counted on a first update of rate 0."""
    run(law, with_constants(warmup_steps=0))


def test_decay_without_a_warm_up_is_still_measured() -> None:
    class DecaysBiases(NumpyTrainer):
        fixed: ClassVar = {"warmup_steps": 0}

        def decays(self, name: str) -> bool:
            return True

    with pytest.raises(LawBroken, match=r"^decay of .*LayerNorm.weight, 1.0"):
        run("training.decay", DecaysBiases())


def test_changes_of_fixed_constants_can_be_left_out() -> None:
    subject = Fixed()
    changes = possible(subject, {"clip_norm": 3.0, "accumulate": 2})
    assert changes == {"accumulate": 2}
    case = seeded_case(subject, numbers(), **changes)
    assert (case.clip_norm, case.accumulate, case.eps) == (None, 2, 1e-6)


@pytest.mark.parametrize(("fixed", "message"), [
    ({"epsilon": 1e-6}, r"fixed\['epsilon'\] = 1e-06, must be one of vocab_size, hidden_size, "),
    ({"seed": 1}, "must be one of"),
    ({"eps": "1e-6"}, r"fixed\['eps'\] = '1e-6', must be a float"),
    ({"eps": None}, "must be a float"),
    ({"clip_norm": True}, "must be None or a float"),
    ({"num_labels": 2.0}, "must be a int"),
    ({"regression": 0}, "must be a bool"),
    ({"regression": True}, "needs num_labels = 1, fixed too"),
    ({"b1": float("nan")}, "must be a finite number, at least 0"),
    ({"max_position_embeddings": 8}, "must be a finite number, at least 16"),
    ({"hidden_dropout": 0.1}, "must be 0 for a trainer that does not claim dropout"),
    (["eps"], r"fixed = \['eps'\], must be a dict of fields of Case"),
])  # fmt: skip
def test_a_constant_that_cannot_be_fixed_is_refused(fixed: Any, message: str) -> None:
    subject = NumpyTrainer()
    subject.capabilities = subject.capabilities - {"dropout"}
    subject.fixed = fixed
    with pytest.raises(AdapterError, match=message) as error:
        check_adapter(subject, "mine:Mine")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("law", [
    "step.gradients", "step.update", "step.logits", "step.weights", "step.zero_gradients", "equivalence.devices",
    "equivalence.device_counts", "equivalence.padding", "equivalence.row_order", "equivalence.accumulation",
    "equivalence.loss", "training.fifty_steps", "training.metrics", "training.resume_elsewhere",
])  # fmt: skip
def test_without_padding_rows_all_rows_count_and_divide(law: str, tmp_path: Any) -> None:
    run(law, Divided())
    if law == "equivalence.devices":
        run(law, Divided(), 6)


def test_placements_of_padding_rows_are_not_run_without_the_claim() -> None:
    with pytest.raises(NotRun, match="capability padding rows is not claimed"):
        run("equivalence.layouts", Divided())


def test_claiming_trainers_still_get_ragged_batches() -> None:
    _, _, batch = draw_case(NumpyTrainer(), numbers())
    assert (batch.weights == 0).any()
    case, _, batch = draw_case(Divided(), numbers())
    assert (batch.weights > 0).all()
    assert (batch_of(case, np.random.default_rng(1), real=3).weights > 0).all()


def test_loss_of_a_step_is_that_of_the_fixed_case() -> None:
    subject = Fixed()
    case, params, batch = draw_case(subject, numbers())
    subject.start(case, params, 1)
    assert isinstance(subject.step(batch), StepResult)


class Timed(Divided, Fixed):
    """Fixes constants, and neither pads rows nor weighs them."""

    capabilities = frozenset({"devices"})


def test_a_benchmark_has_the_constants_and_the_batches_of_the_trainer() -> None:
    bench = Bench(jax.devices(), {"t": f"{__name__}:Timed"}, "small", seed=0)
    trainer, case, batch = begin(bench, "t", n=8)
    assert (case.eps, case.clip_norm, case.num_labels, case.dropout) == (1e-6, None, 2, False)
    assert set(batch.weights.tolist()) == {1.0}
    trainer.step(batch)


class FixedAndDivided(Fixed, Divided):
    """Has constants of its own, and takes full batches only."""


def with_constants(**constants: Any) -> NumpyTrainer:
    subject = Fixed()
    subject.fixed = constants
    return subject


@pytest.mark.parametrize(
    "subject",
    [
        Fixed(), Divided(), FixedAndDivided(), with_constants(num_labels=2), with_constants(num_labels=5),
        with_constants(clip_norm=0.5), with_constants(max_position_embeddings=16), with_constants(warmup_steps=10),
        with_constants(hidden_size=12, num_attention_heads=3), with_constants(hidden_dropout=0.2),
        with_constants(num_labels=1, regression=True),
    ],
    ids=lambda subject: f"{type(subject).__name__} {fixed_of(subject)}",
)  # fmt: skip
def test_runs_under_all_settings_have_the_constants_and_the_batches_of_the_trainer(subject: Any) -> None:
    run("training.settings", subject)
    for row in [settings.supported(row, subject) for level, row in settings.table() if level == "standard"]:
        case, params, batches = settings.run_of(row, subject, np.random.default_rng(0))
        subject.start(case, params, settings.devices_of(row, subject, 8))
        subject.step(batches[0])
        assert subject.evaluate(batches[1]).shape == (len(batches[1].weights), case.num_labels)
