"""The laws of trainers pass for a right trainer and fail for wrong ones: each has a fault that it must see."""

import math
from typing import Any

import jax
import numpy as np
import pytest
from kit import run_law
from sftref.conformance.adapter import Arrays, Case, HostBatch, StepResult
from sftref.conformance.adapters.template import Template
from sftref.conformance.core.check import Check, LawBroken, NotRun
from sftref.conformance.core.fault import faults
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trainers import FAULTS
from sftref.conformance.faults.trainers.numpy_trainer import NumpyTrainer, OnDevices, Sums
from sftref.conformance.faults.trial import PROCESSES, SUBJECTS, TRAINERS, trials
from sftref.conformance.judge.mutation_score import level_of
from sftref.conformance.laws.support.process_group import RanksBroken
from sftref.conformance.laws.trainer.test_4_model import best_step

pytestmark = pytest.mark.jax

LAWS = {law.id for law in laws().values() if law.per == "subject"}
SEEDED = [fault for fault in faults().values() if fault.module == SUBJECTS]


def run(law: str, subject: Any, n: int = 8) -> Check:
    return run_law(law, Settings(level="quick", devices=n), subject=subject, against=NumpyTrainer())


def passes(law: str, subject: Any, n: int = 8) -> bool:
    """Whether no error of a law that passes is above half of its bound."""
    return all(one.margin < 0.5 for one in run(law, subject, n).comparisons)


def test_every_law_of_trainers_has_a_fault() -> None:
    ours = [fault for fault in faults().values() if fault.module in (*TRAINERS, PROCESSES)]
    assert {law for fault in ours for law in fault.seen_by} >= LAWS


# A trainer in NumPy has no module to be lowered, and one process: see `test_lowering.py` and `test_ranks.py`.
@pytest.mark.parametrize("law", sorted(law for law in LAWS if not law.startswith(("lowering.", "processes."))))
def test_a_right_trainer_passes(law: str) -> None:
    assert passes(law, OnDevices())


def test_a_step_far_too_long_is_not_chosen() -> None:
    """Over 1 and 1/2 the differences of tanh 200 h are 1 and 2, which agree better than those over good steps."""
    lengths = [2.0**-k for k in range(0, 12, 2)]
    length, noise = best_step(lambda h: math.tanh(200 * h), 200.0, 1e-6, lengths)
    assert length == 2.0**-10
    assert noise == pytest.approx(200**5 * 2 / 15 * length**4 / 4 + 1e-6 / length, rel=0.05)


@pytest.mark.once  # trainers in NumPy, which depend on no release of JAX
@pytest.mark.parametrize(("name", "law"), [(fault.id, law) for fault in SEEDED for law in fault.seen_by])
def test_a_fault_is_seen(name: str, law: str) -> None:
    fault = faults()[name]
    [record] = trials(fault, [(law, Settings(level=level_of("full", fault, law)))])
    assert record.status == "fail", record.message
    assert f"[{law}]" in record.message


@pytest.mark.once
@pytest.mark.parametrize(
    ("fault", "law", "devices"),
    [
        ("update-lost-above-4-devices", "equivalence.devices", 4),
        ("remainder-not-evaluated", "equivalence.devices", 8),
        ("accumulation-not-divided", "equivalence.devices", 8),
        ("gradients-summed-in-bfloat16", "step.gradients", 8),
        ("empty-shard-counts", "step.gradients", 8),
        ("layernorm-in-one-pass", "step.moments", 8),
        ("dropout-high-word-lost", "step.regression", 8),
        ("first-layer-has-the-seconds-weights", "step.regression", 8),
        ("regression-labels-cast-to-int", "step.gradients", 8),
        ("warmup-divides-by-zero", "step.moments", 8),
        ("sum-in-too-few-rounds", "equivalence.devices", 8),
        ("odd-row-dropped", "step.gradients", 8),
        ("softmax-in-float32", "step.gradients", 8),
        ("old-copy-in-bfloat16", "step.moments", 8),
        ("drifts-after-step-20", "step.update", 8),
        ("one-update-in-fifty-wrong", "step.update", 8),
        ("keeps-the-callers-buffer", "step.update", 8),
        ("restored-shards-lost", "training.resume", 8),
    ],
)
def test_a_fault_is_seeded_under_its_condition_only(fault: str, law: str, devices: int) -> None:
    """Without its condition the trainer is right, so its law sees this fault and no other."""
    assert passes(law, FAULTS[fault](), devices)


@pytest.mark.parametrize("fault", ["dropout-by-row", "padding-counts", "weights-ignored"])
def test_a_gradient_of_another_loss_is_still_a_gradient(fault: str) -> None:
    """Rung 4 leaves these to other rungs; it once compared their loss's curvature with the oracle's."""
    assert passes("autodiff.model", FAULTS[fault]())


@pytest.mark.once
@pytest.mark.parametrize(
    ("fault", "layouts"),
    [
        ("mean-of-means", "wrong with unequal shards, "),
        ("missing-all-reduce", "wrong with equal shards of equal weight, with unequal shards, "),
    ],
)
def test_the_layouts_that_fail_distinguish_means_from_a_missing_sum(fault: str, layouts: str) -> None:
    message = rf"^{layouts}.*of 6 layouts\): gradient, N = 8, .*leaves are out of bounds, also bert"
    with pytest.raises(LawBroken, match=message):
        run("equivalence.layouts", FAULTS[fault]())


def test_lost_processes_are_not_a_wrong_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that hung was reported as wrong in all layouts, which would mean a missing sum."""

    def gone(*_: object) -> None:
        raise RanksBroken("rank 1 did not answer")

    right = NumpyTrainer()
    monkeypatch.setattr(right, "gradients", gone)
    with pytest.raises(RanksBroken, match=r"^rank 1 did not answer"):
        run("equivalence.layouts", right)


@pytest.mark.parametrize(
    ("fault", "law", "message"),
    [
        ("bfloat16-ignored", "step.bfloat16", r"error of the bfloat16 gradient: .* should be at least"),
        ("bias-gradients-in-bfloat16", "step.bfloat16", r"gradient of 1024 equal examples: \S+\.bias: error"),
        ("devices-left-out", "equivalence.devices_used", r"the run's arrays: \[0, 1\], should be \[0, 1, 2, 3, 4,"),
        ("gradient-reduced-twice-in-the-program", "equivalence.collectives", "elements moved beyond the gradient: 1, "),
    ],
)
def test_a_right_result_by_another_way_than_requested_fails(fault: str, law: str, message: str) -> None:
    with pytest.raises(LawBroken, match=message):
        run(law, FAULTS[fault]())


def test_a_program_without_a_sum_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = OnDevices()
    monkeypatch.setattr(subject, "program", lambda batch: "")
    with pytest.raises(LawBroken, match="elements moved by collectives: 0, should be at least"):
        run("equivalence.collectives", subject)


def test_narrow_moments_of_bfloat16_runs_are_seen_at_standard_too() -> None:
    """`step.update` has such runs at `quick` only."""
    with pytest.raises(LawBroken, match=r"moments that are bfloat16 numbers: 1, should be at most 0\.5"):
        run_law(
            "training.settings", Settings(level="standard"), subject=FAULTS["narrow-moments-in-bfloat16-runs"](), n=8
        )


class Recompiles(OnDevices):
    """Logs by a function that is jitted in each update."""

    def step(self, batch: HostBatch) -> StepResult:
        jax.jit(lambda x: x + 1)(1)
        return super().step(batch)


def test_an_update_that_compiles_each_time_is_seen_at_quick() -> None:
    """It once passed `quick` and `standard`: the rung that counts compilations runs at `full` alone."""
    with pytest.raises(LawBroken, match=r"^compiled by a later update, .*: \['jit\(<lambda>\)'\], should be \[\]"):
        run("training.settings", Recompiles())


class FreesLate(OnDevices):
    """The last two losses stay on the devices, as of a log that is written two updates late."""

    def step(self, batch: HostBatch) -> StepResult:
        result = super().step(batch)
        self.losses_on_devices = [*vars(self).get("losses_on_devices", []), jax.device_put(result.loss)][-2:]
        return result


def test_arrays_that_are_freed_two_updates_late_are_no_leak() -> None:
    run("training.settings", FreesLate())


class ClipsEach(OnDevices):
    """Clips the gradient of each micro-batch, and not their sum."""

    def divide(self, totals: list[Sums]) -> tuple[float, Arrays]:
        self.totals = totals
        return super().divide(totals)

    def clip(self, gradients: Arrays) -> Arrays:
        whole = sum(total.weight for total in self.totals)
        parts = [super(ClipsEach, self).clip(total.mean().gradients) for total in self.totals]
        shares = [total.weight / whole for total in self.totals]
        return {name: sum(w * part[name] for w, part in zip(shares, parts, strict=True)) for name in gradients}


def test_clipping_of_each_micro_batch_is_seen_at_quick() -> None:
    """With a limit in the middle of the norms: none, and one that clips all, hide it or show it too late."""
    with pytest.raises(LawBroken, match=r"^first moment after the first update, .*, some updates clipped, two micro"):
        run("training.settings", ClipsEach())


class HalvesRegression(OnDevices):
    """`optax.l2_loss`, in a trainer that shows no gradients."""

    capabilities = frozenset({"devices"})

    def losses(self, logits: Any, batch: HostBatch) -> Any:
        half = 0.5 if self.case.regression else 1.0
        return tuple(half * part for part in super().losses(logits, batch))


def test_half_a_squared_error_is_seen_at_quick() -> None:
    with pytest.raises(LawBroken, match=r"^loss of the first update of a regression, N = 1, loss: error"):
        run("step.update", HalvesRegression())


def test_what_is_not_claimed_is_not_run() -> None:
    plain = NumpyTrainer()
    plain.capabilities = frozenset()
    for law in ("step.gradients", "training.resume", "equivalence.devices"):
        with pytest.raises(NotRun, match=r"capability .* is not claimed"):
            run(law, plain)
    with pytest.raises(NotRun, match="needs 2 devices, found 1"):
        run("equivalence.devices", NumpyTrainer(), 1)


class NoWeights(OnDevices):
    """Gives every example the same weight, as most trainers do, and does not claim `weights`."""

    capabilities = OnDevices.capabilities - {"weights"}

    def _alike(self, batch: HostBatch) -> HostBatch:
        return batch._replace(weights=(batch.weights > 0).astype(np.float32))

    def step(self, batch: HostBatch) -> StepResult:
        return super().step(self._alike(batch))

    def gradients(self, batch: HostBatch) -> Arrays:
        return super().gradients(self._alike(batch))


@pytest.mark.once
def test_a_trainer_without_weights_runs_all_other_laws() -> None:
    for law in ("step.gradients", "step.update", "equivalence.layouts", "equivalence.loss", "equivalence.padding"):
        run(law, NoWeights())
    with pytest.raises(NotRun, match="capability weights is not claimed"):
        run("step.weights", NoWeights())


def test_an_epoch_that_depends_on_devices_is_seen() -> None:
    """Like a sampler that repeats examples until the processes divide them."""

    class Sampled(NumpyTrainer):
        def start(self, case: Case, params: Arrays, n_devices: int) -> None:
            super().start(case, params, n_devices)
            self.shares = n_devices

        def epoch(self, examples: int, batch_size: int, number: int) -> Any:
            batches = list(super().epoch(examples, batch_size, number))
            return batches + [batches[0][: -examples % self.shares]] * bool(examples % self.shares)

    with pytest.raises(LawBroken, match="examples of epoch 0, 37 in batches of 8"):
        run("training.data_order", Sampled())


@pytest.mark.parametrize("law", ["step.gradients", "step.regression", "step.update", "equivalence.devices"])
def test_the_template_passes(law: str) -> None:
    """What newcomers copy, on three devices, which do not divide the rows."""
    assert passes(law, Template(), 3)
