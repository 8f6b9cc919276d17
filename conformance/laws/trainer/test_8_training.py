"""Rung 8: a whole run: its trajectory, schedule, decay, data order, metrics and checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ...adapter import Arrays, Case, TrainerUnderTest
from ...core.check import Check
from ...core.comparison import Bound
from ...oracle.bounds_measured import FACTOR, ROUNDOFF, walk
from ...oracle.cases import main_case, start_params
from ...oracle.draws import batch_of, for_all, generators, rows_of, with_weights
from ...oracle.model import Params
from ...oracle.updates import decays, learning_rate
from ..support.trainer_checks import MOST, all_devices, check_distance, claims, draw_case, usable_devices

# Learning rates are computed in float32 from a few operations.
RATE = Bound(4 * ROUNDOFF["float32"], ROUNDOFF["float32"], "four roundings in float32, of the largest rate")
# (total steps, warm-up): a schedule's corners.
CORNERS = ((1, 0), (2, 0), (3, 0), (2, 1), (3, 2))


def rate_holds(check: Check, case: Case, step: int, rate: float) -> None:
    """The learning rate of an update is that of the schedule."""
    what = f"learning rate of update {step} of {case.total_steps}, warm-up {case.warmup_steps}"
    check.at_most(f"{what}, error of {rate:.6g}", abs(rate - learning_rate(case, step)) / case.learning_rate, RATE)


@pytest.mark.law("training.fifty_steps")
def test_fifty_steps(check: Check, subject: TrainerUnderTest, devices: list[Any], rng: np.random.Generator) -> None:
    """All updates of a run, on all devices, on changing batches: where it ends, and each learning rate."""
    n = usable_devices(subject, devices)
    case, params, _ = draw_case(subject, rng)
    few = [batch_of(case, rng, real=int(rng.integers(9, 17))) for _ in range(5)]
    batches = [few[step % 5] for step in range(case.total_steps)]
    subject.start(case, params, n)
    losses = []
    for step, batch in enumerate(batches):
        found = subject.step(batch)
        losses.append(float(found.loss))
        rate_holds(check, case, step, found.learning_rate)
    check.facts["losses"] = losses
    check_distance(
        check,
        f"after {len(batches)} updates, N = {n},",
        case,
        params,
        subject.params(),
        walk(case, params, batches).distance,
    )


@pytest.mark.law("training.schedule")
def test_schedule(check: Check, subject: TrainerUnderTest) -> None:
    """Runs of 1, 2 and 3 updates, with and without a warm-up: rates, and that the parameters moved by them."""
    for total, warmup in CORNERS if check.at("full") else CORNERS[::3]:
        rng = np.random.default_rng((check.seed, total, warmup))
        case = main_case(subject.capabilities, seed=int(rng.integers(MOST)), small=True)
        case = dataclasses.replace(case, total_steps=total, warmup_steps=warmup)
        params, batch = start_params(case, rng), batch_of(case, rng)
        subject.start(case, params, 1)
        for step in range(total):
            rate_holds(check, case, step, subject.step(batch).learning_rate)
        want = walk(case, params, [batch] * total).distance
        check_distance(check, f"after {total} updates, warm-up {warmup},", case, params, subject.params(), want)


@pytest.mark.law("training.decay")
def test_decay(check: Check, subject: TrainerUnderTest) -> None:
    """Which leaves decay, and by how much: what an update takes of each parameter beyond Adam's direction."""

    def holds(rng: np.random.Generator) -> None:
        case, params, batch = draw_case(subject, rng)
        subject.start(case, params, 1)
        batches = [batch, batch]  # the first has learning rate 0
        for one in batches:
            subject.step(one)
        walked = {name: np.asarray(leaf, np.float64) - params[name] for name, leaf in subject.params().items()}
        still = dataclasses.replace(case, weight_decay=0.0)
        free = walk(still, params, batches).distance
        full = learning_rate(case, 1) * case.weight_decay
        for name, start in params.items():
            if name in free.bounds and not name.endswith("key.bias"):
                # The part of the parameter itself in what Adam alone does not explain, in units of the decay.
                found = float(((free.want[name] - walked[name]) * start).sum() / (start**2).sum()) / full
                noise = free.bounds[name].noise / float(np.linalg.norm(start)) / full
                bound = Bound(min(FACTOR * noise, 0.5), noise, "noise of the update along the parameter")
                check.at_most(f"decay of {name}, {found:.4f} of full", abs(found - decays(name)), bound)

    for_all(check, holds, rng=generators())


@pytest.mark.law("training.evaluation")
def test_evaluation(check: Check, subject: TrainerUnderTest, devices: list[Any]) -> None:
    """Evaluating twice gives the same bits, and changes nothing of the run."""
    n = usable_devices(subject, devices)

    def holds(rng: np.random.Generator) -> None:
        case, params, batch = draw_case(subject, rng)
        subject.start(case, params, n)
        subject.step(batch)
        logits = np.asarray(subject.evaluate(batch))
        before = snapshot(subject.params())
        real = batch.weights > 0
        check.equal("logits evaluated again", np.asarray(subject.evaluate(batch))[real], logits[real])
        same_bits(check, "after evaluation,", subject.params(), before)
        evaluated = subject.step(batch)
        subject.start(case, params, n)
        subject.step(batch)
        check.same("loss of the update after an evaluation", evaluated.loss, subject.step(batch).loss)

    for_all(check, holds, rng=generators())


@pytest.mark.law("training.metrics")
def test_metrics(check: Check, subject: TrainerUnderTest, devices: list[Any]) -> None:
    """Accuracy and F1 of a whole split, whose last batch is partial, from the counts of all its examples."""
    claims(check, subject, "metrics")
    n = usable_devices(subject, devices)

    def holds(rng: np.random.Generator) -> None:
        case = dataclasses.replace(main_case(subject.capabilities, small=True), num_labels=2)
        params = start_params(case, rng)
        batches = [batch_of(case, rng, real=real) for real in (16, 16, 5)]
        batches = [with_weights(batch, (batch.weights > 0).astype(np.float32)) for batch in batches]
        subject.start(case, params, n)
        real = [batch.weights > 0 for batch in batches]
        found = np.concatenate(
            [np.asarray(subject.evaluate(b)).argmax(axis=1)[r] for b, r in zip(batches, real, strict=True)]
        )
        labels = np.concatenate([batch.labels[r] for batch, r in zip(batches, real, strict=True)])
        hits = int(((found == 1) & (labels == 1)).sum())
        spread = int((found == 1).sum() + (labels == 1).sum())
        exact = Bound(4 * ROUNDOFF["float64"], ROUNDOFF["float64"], "counts are integers: one division")
        score = subject.score(batches)
        check.at_most("error of the accuracy", abs(score["accuracy"] - float((found == labels).mean())), exact)
        check.at_most("error of F1", abs(score["f1"] - (2 * hits / spread if spread else 0.0)), exact)

    for_all(check, holds, rng=generators())


@pytest.mark.law("training.data_order")
def test_data_order(check: Check, subject: TrainerUnderTest, devices: list[Any]) -> None:
    """Every example once an epoch, the last partial batch included; another order in another epoch, the same again."""
    claims(check, subject, "data order")
    for examples, size in ((37, 8), (64, 16), (5, 8), (1, 1)):
        rng = np.random.default_rng((check.seed, examples))
        case = main_case(subject.capabilities, seed=int(rng.integers(MOST)), small=True)
        # On all devices: what divides an epoch among them may repeat examples, or leave some out.
        subject.start(case, start_params(case, rng), usable_devices(subject, devices))
        epochs = [subject.epoch(examples, size, number) for number in (0, 1, 0)]
        for number, batches in enumerate(epochs):
            seen = sorted(int(i) for batch in batches for i in batch)
            check.same(f"examples of epoch {number % 2}, {examples} in batches of {size}", seen, list(range(examples)))
            check.same("sizes of all batches but the last", {len(batch) for batch in batches[:-1]} <= {size}, True)
        plain = [[int(i) for batch in batches for i in batch] for batches in epochs]
        check.same("the same epoch drawn again", plain[2], plain[0])
        if examples > 8:
            check.same("another epoch has another order", plain[0] != plain[1], True)


@pytest.mark.law("training.resume")
def test_resume(check: Check, subject: TrainerUnderTest, devices: list[Any], tmp_path: Path) -> None:
    """Saved after two updates and restored: the next two give the bits of a run that never stopped."""
    claims(check, subject, "checkpoint")
    resumed(check, subject, usable_devices(subject, devices), usable_devices(subject, devices), tmp_path, exact=True)


@pytest.mark.law("training.resume_elsewhere")
def test_resume_elsewhere(check: Check, subject: TrainerUnderTest, devices: list[Any], tmp_path: Path) -> None:
    """Saved on all devices and restored on fewer: the same run to rounding."""
    claims(check, subject, "checkpoint")
    n = all_devices(check, subject, devices)
    resumed(check, subject, n, 3 if n > 3 else 1, tmp_path, exact=False)


def resumed(check: Check, subject: TrainerUnderTest, n: int, later: int, folder: Path, *, exact: bool) -> None:
    """Two updates on n devices, saved; two more on `later` devices from the checkpoint, against four without a stop."""
    rng = np.random.default_rng((check.seed, n, later))
    case, params, batch = draw_case(subject, rng)
    batches = [rows_of(batch, rng.permutation(len(batch.weights))) for _ in range(4)]
    subject.start(case, params, n)
    for one in batches[:2]:
        subject.step(one)
    subject.save(folder)
    losses = [subject.step(one).loss for one in batches[2:]]
    ends = snapshot(subject.params())
    # Parameters at the start of the second run are not those of the first: only the checkpoint can bring them back.
    subject.start(case, {name: leaf * 0.5 for name, leaf in params.items()}, later)
    subject.restore(folder)
    again = [subject.step(one).loss for one in batches[2:]]
    if exact:
        check.same("losses after the restart", again, losses)
        same_bits(check, f"after a restart on {later} devices,", subject.params(), ends)
    check_distance(
        check,
        f"restarted on {later} of {n} devices,",
        case,
        params,
        subject.params(),
        walk(case, params, batches).distance,
    )


def snapshot(tree: Arrays) -> dict[str, np.ndarray]:
    """A copy that later updates cannot reach."""
    return {name: np.array(leaf) for name, leaf in tree.items()}


def same_bits(check: Check, what: str, got: Arrays, want: Arrays | Params) -> None:
    """Every leaf is the same bit for bit."""
    for name, leaf in want.items():
        check.equal(f"{what} {name}", np.asarray(got[name]), np.asarray(leaf), control=np.asarray(leaf) + 1)
