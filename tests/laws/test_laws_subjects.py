"""The laws that trainers are asked hold of a right one and break for wrong ones: every law has a fault it catches."""

from __future__ import annotations

import math
import types
from typing import Any

import jax
import numpy as np
import pytest
from lawruns import run_law
from sftref.conformance.adapter import Arrays, Case, HostBatch, StepResult
from sftref.conformance.adapters.template import Template
from sftref.conformance.core.check import Check, LawBroken, NotRun
from sftref.conformance.core.fault import faults
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trainers import trainer
from sftref.conformance.faults.trainers.numpy_trainer import NumpyTrainer, OnDevices
from sftref.conformance.faults.trial import PROCESSES, SUBJECTS, TRAINERS, trials
from sftref.conformance.judge.mutation_score import level_of
from sftref.conformance.laws.support.process_group import RanksBroken
from sftref.conformance.laws.trainer.test_4_model import best_step

pytestmark = pytest.mark.jax

LAWS = {law.id for law in laws().values() if law.per == "subject"}
SEEDED = [fault for fault in faults().values() if fault.module == SUBJECTS]


def run(law: str, subject: Any, devices: Any = tuple(range(8))) -> Check:
    return run_law(law, subject=subject, against=NumpyTrainer(), devices=list(devices))


def test_every_law_of_a_subject_has_a_fault() -> None:
    ours = [fault for fault in faults().values() if fault.module in (*TRAINERS, PROCESSES)]
    assert {law for fault in ours for law in fault.seen_by} >= LAWS


# A trainer in NumPy has no module to be lowered, and one process: see `test_lowering.py` and `test_ranks.py`.
@pytest.mark.parametrize("law", sorted(law for law in LAWS if not law.startswith(("lowering.", "processes."))))
def test_a_right_trainer_passes(law: str) -> None:
    check = run(law, OnDevices(), jax.devices())
    assert all(found.margin < 0.5 for found in check.comparisons)


def test_a_step_far_too_long_is_not_taken_for_a_good_one() -> None:
    """Over 1 and 1/2 the derivative of tanh 200 h comes out as 1 and 2, which agree better than the right ones do."""
    lengths = [2.0**-k for k in range(0, 12, 2)]
    length, noise = best_step(lambda h: math.tanh(200 * h), 200.0, 1e-6, lengths)
    assert length == 2.0**-10
    assert noise == pytest.approx(200**5 * 2 / 15 * length**4 / 4 + 1e-6 / length, rel=0.05)


@pytest.mark.parametrize(("name", "law"), [(fault.id, law) for fault in SEEDED for law in fault.seen_by])
def test_a_fault_is_seen(name: str, law: str) -> None:
    fault = faults()[name]
    [record] = trials(fault, [(law, Settings(level=level_of("full", fault, law)))])
    assert record.status == "fail", record.message
    assert f"[{law}]" in record.message


@pytest.mark.parametrize(
    ("fault", "law", "devices"),
    [
        ("update-lost-above-4-devices", "equivalence.devices", 4),
        ("remainder-not-evaluated", "equivalence.devices", 8),
        ("accumulation-not-divided", "equivalence.devices", 8),
        ("gradients-summed-in-bfloat16", "step.gradients", 8),
        ("empty-shard-counts", "step.gradients", 8),
        ("layernorm-in-one-pass", "step.update", 8),
        ("dropout-high-word-lost", "step.regression", 8),
        ("first-layer-has-the-seconds-weights", "step.regression", 8),
        ("regression-labels-cast-to-int", "step.gradients", 8),
        ("warmup-divides-by-zero", "step.update", 8),
        ("drifts-after-step-20", "step.update", 8),
        ("one-update-in-fifty-wrong", "step.update", 8),
        ("keeps-the-callers-buffer", "step.update", 8),
        ("restored-shards-lost", "training.resume", 8),
    ],
)
def test_a_fault_is_seeded_under_its_condition_only(fault: str, law: str, devices: int) -> None:
    """Where it cannot be seen the trainer is right: what its law sees is this fault and no other."""
    check = run(law, trainer(fault), range(devices))
    assert all(found.margin < 0.5 for found in check.comparisons)


@pytest.mark.parametrize("fault", ["dropout-by-row", "padding-counts", "weights-ignored"])
def test_a_gradient_of_another_loss_is_still_a_gradient(fault: str) -> None:
    """Rung 4 leaves these to the rungs they belong to: the curve of the oracle's loss was held against theirs."""
    check = run("autodiff.model", trainer(fault))
    assert all(found.margin < 0.5 for found in check.comparisons)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("mean-of-means", "wrong with unequal shards, "),
        ("missing-all-reduce", "wrong with equal shards of equal weight, with unequal shards, "),
    ],
)
def test_the_layouts_that_are_wrong_tell_means_from_a_missing_sum(fault: str, said: str) -> None:
    with pytest.raises(
        LawBroken, match=r"of 6 layouts\): gradient, N = 8, .*leaves are out of bounds, also bert"
    ) as broken:
        run("equivalence.layouts", trainer(fault))
    assert str(broken.value).startswith(said)


def test_processes_that_are_gone_are_wrong_in_no_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that hung read as wrong with all layouts, which means that nothing is added up."""

    def gone(*_: object) -> None:
        raise RanksBroken("rank 1 did not answer")

    right = trainer()
    monkeypatch.setattr(right, "gradients", gone)
    with pytest.raises(RanksBroken, match=r"^rank 1 did not answer"):
        run("equivalence.layouts", right)


@pytest.mark.parametrize(
    ("fault", "law", "said"),
    [
        ("bfloat16-ignored", "step.bfloat16", r"error of the bfloat16 gradient: .* should be at least"),
        ("devices-left-out", "equivalence.devices_used", r"the run's arrays: \[0, 1\], should be \[0, 1, 2, 3, 4,"),
        ("gradient-reduced-twice-in-the-program", "equivalence.collectives", "elements moved beyond the gradient: 1, "),
    ],
)
def test_what_is_right_and_not_as_asked_for_is_told(fault: str, law: str, said: str) -> None:
    with pytest.raises(LawBroken, match=said):
        run(law, trainer(fault), jax.devices())


def test_a_program_that_adds_nothing_up_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = OnDevices()
    monkeypatch.setattr(subject, "program", lambda batch: "")
    with pytest.raises(LawBroken, match="elements moved by collectives: 0, should be at least"):
        run("equivalence.collectives", subject, jax.devices())


class FreedFirst(OnDevices):
    """Frees what the last run held before it takes as much again: CPython gives the same address."""

    def start(self, case: Any, params: Any, n_devices: int) -> None:
        self.held = None
        self.held = types.SimpleNamespace(size=8 * 32, devices=lambda: set(jax.devices()))


def test_an_array_at_an_address_used_before_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """A false alarm on JAX 0.12: ids were compared of arrays that were freed meanwhile."""
    subject = FreedFirst()
    monkeypatch.setattr(subject, "step", lambda batch: None)
    monkeypatch.setattr(jax, "live_arrays", lambda: [subject.held] if hasattr(subject, "held") else [])
    for _ in range(3):
        run("equivalence.devices_used", subject, jax.devices())


def test_what_is_not_claimed_is_not_run() -> None:
    plain = NumpyTrainer()
    plain.capabilities = frozenset()
    for law in ("step.gradients", "training.resume", "equivalence.devices"):
        with pytest.raises(NotRun, match=r"capability .* is not claimed"):
            run(law, plain)
    with pytest.raises(NotRun, match="needs 2 devices, found 1"):
        run("equivalence.devices", NumpyTrainer(), [0])


class NoWeights(OnDevices):
    """Counts every example alike, as most trainers do, and claims nothing else."""

    capabilities = OnDevices.capabilities - {"weights"}

    def _alike(self, batch: HostBatch) -> HostBatch:
        return batch._replace(weights=(batch.weights > 0).astype(np.float32))

    def step(self, batch: HostBatch) -> StepResult:
        return super().step(self._alike(batch))

    def gradients(self, batch: HostBatch) -> Arrays:
        return super().gradients(self._alike(batch))


def test_a_trainer_without_weights_is_asked_all_the_rest() -> None:
    for law in ("step.gradients", "step.update", "equivalence.layouts", "equivalence.loss", "equivalence.padding"):
        run(law, NoWeights(), jax.devices())
    with pytest.raises(NotRun, match="capability weights is not claimed"):
        run("step.weights", NoWeights())


def test_an_epoch_that_depends_on_devices_is_seen() -> None:
    """As of a sampler that repeats examples until they divide among the processes."""

    class Sampled(NumpyTrainer):
        def start(self, case: Case, params: Arrays, n_devices: int) -> None:
            super().start(case, params, n_devices)
            self.shares = n_devices

        def epoch(self, examples: int, batch_size: int, number: int) -> Any:
            found = list(super().epoch(examples, batch_size, number))
            return found + [found[0][: -examples % self.shares]] * bool(examples % self.shares)

    with pytest.raises(LawBroken, match="examples of epoch 0, 37 in batches of 8"):
        run("training.data_order", Sampled())


@pytest.mark.parametrize("law", ["step.gradients", "step.regression", "step.update", "equivalence.devices"])
def test_the_template_holds(law: str) -> None:
    """What newcomers copy; `equivalence.devices` on three, which do not divide the rows."""
    check = run(law, Template(), jax.devices()[:3])
    assert all(found.margin < 0.5 for found in check.comparisons)
