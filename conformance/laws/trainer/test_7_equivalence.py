"""Rung 7: neither the number of devices nor how rows lie on them changes the step."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from ...adapter import TrainerUnderTest
from ...core.check import Check, LawBroken
from ...oracle.bounds_measured import loss_reference, walk
from ...oracle.cases import B, main_case, start_params
from ...oracle.draws import batch_of, for_all, generators, with_weights
from ...oracle.model import mean_loss
from ..support.trainer_checks import (
    MOST,
    all_devices,
    check_distance,
    check_evaluation,
    check_gradients,
    check_loss,
    check_updates,
    claims,
    draw_case,
    precision,
    usable_devices,
)

COUNTS = (2, 3, 4, 6, 8)


@pytest.mark.law("equivalence.devices")
def test_devices(check: Check, subject: TrainerUnderTest, devices: list[Any]) -> None:
    """Gradient, loss, logits and updates on N devices are those of one."""
    most = all_devices(check, subject, devices)

    def holds(rng: np.random.Generator) -> None:
        case, params, batch = draw_case(subject, rng)
        if "gradients" in subject.capabilities:
            check_gradients(check, subject, case, params, batch, most)
        check_updates(check, subject, case, params, [batch, batch_of(case, rng)], most)
        check_evaluation(check, subject, case, params, batch, most)

    for_all(check, holds, rng=generators())


@pytest.mark.law("equivalence.device_counts")
def test_device_counts(check: Check, subject: TrainerUnderTest, devices: list[Any]) -> None:
    """2, 3, 4 and 6 devices too: rows that do not divide, shards of different sizes."""
    most = all_devices(check, subject, devices)
    counts = [n for n in COUNTS if n < most]
    check.need(bool(counts), f"needs 3 devices, found {most}")

    def holds(rng: np.random.Generator) -> None:
        case, params, batch = draw_case(subject, rng)
        for n in counts:
            check_updates(check, subject, case, params, [batch, batch], n)
            if "gradients" in subject.capabilities and (n == 3 or check.at("full")):
                check_gradients(check, subject, case, params, batch, n)
            if n == 3 or check.at("full"):
                check_evaluation(check, subject, case, params, batch, n)

    for_all(check, holds, rng=generators())


@pytest.mark.law("equivalence.against")
def test_against(check: Check, subject: TrainerUnderTest, against: TrainerUnderTest, devices: list[Any]) -> None:
    """Directly against the other trainer on one device: the difference of two correct ones has the same bound."""
    n = usable_devices(subject, devices)

    def holds(rng: np.random.Generator) -> None:
        case = main_case(subject.capabilities & against.capabilities, seed=int(rng.integers(MOST)))
        params, batches = start_params(case, rng), [batch_of(case, rng, real=13), batch_of(case, rng)]
        ends, losses = [], []
        for trainer, count in ((subject, n), (against, 1)):
            with precision(case):
                trainer.start(case, params, count)
                losses.append([trainer.step(batch).loss for batch in batches])
                ends.append({name: np.asarray(leaf, np.float64) for name, leaf in trainer.params().items()})
        want = walk(case, params, batches)
        there = dataclasses.replace(want.distance, want={k: leaf - params[k] for k, leaf in ends[1].items()})
        loss = loss_reference(case, params, batches[0])
        check_loss(
            check,
            f"first loss, N = {n},",
            losses[0][0],
            dataclasses.replace(loss, want={"loss": np.array(losses[1][0])}),
        )
        check_distance(check, f"N = {n} against {against.name},", case, params, ends[0], there)

    for_all(check, holds, rng=generators())


EVEN = "equal shards of equal weight"


def patterns(n: int) -> dict[str, np.ndarray]:
    """Which of B rows count, for rows that lie on n devices in blocks."""
    share = -(-B // n)
    row = np.arange(B)
    return {
        EVEN: row < n * (B // n),
        "unequal shards": row < B - (share + 1) // 2,
        "an empty shard": row < B - share,
        "one row a device": row % share == 0,
        "one row in all": row == B // 2,
        "an empty shard in the middle": row // share != n // 2,
    }


@pytest.mark.law("equivalence.layouts")
def test_layouts(check: Check, subject: TrainerUnderTest, devices: list[Any]) -> None:
    """However the rows that count lie on the devices, the gradient is that of those rows."""
    n = all_devices(check, subject, devices)
    claims(check, subject, "gradients")

    def holds(rng: np.random.Generator) -> None:
        case, params, _ = draw_case(subject, rng)
        batch = batch_of(case, rng)
        check.facts["layouts"] = list(patterns(n))
        wrong: dict[str, LawBroken] = {}
        for name, kept in patterns(n).items():
            laid = with_weights(batch, kept * (1.0 if name == EVEN else batch.weights))
            try:
                check_gradients(check, subject, case, params, laid, n, rows=name)
            except LawBroken as broken:
                if broken.final:
                    raise
                wrong[name] = broken
        if wrong:
            first = next(iter(wrong.values()))
            raise LawBroken(f"wrong with {', with '.join(wrong)} (of {len(patterns(n))} layouts): {first}") from first

    for_all(check, holds, rng=generators())


@pytest.mark.law("equivalence.float64")
def test_float64(check: Check, subject: TrainerUnderTest, devices: list[Any]) -> None:
    """On all devices in float64, where rounding cannot hide an error of 1e-12."""
    n = all_devices(check, subject, devices)
    claims(check, subject, "gradients", "precision:float64")

    def holds(rng: np.random.Generator) -> None:
        case, params, batch = draw_case(subject, rng, precision="float64")
        check_gradients(check, subject, case, params, batch, n)

    for_all(check, holds, rng=generators())


@pytest.mark.law("equivalence.loss")
def test_loss_is_global(check: Check, subject: TrainerUnderTest, devices: list[Any]) -> None:
    """The loss an update reports is that of all devices' examples, weighted, not of one device nor a mean of means."""
    n = all_devices(check, subject, devices)

    def holds(rng: np.random.Generator) -> None:
        case, params, batch = draw_case(subject, rng)
        first, row = np.arange(B) < B // n, np.arange(B)
        weights = batch.weights * (np.where(first, 16, 1) if case.weighted else ~first | (row == 0))
        heavy = with_weights(batch, weights)
        subject.start(case, params, n)
        want = loss_reference(case, params, heavy)
        check_loss(check, f"loss of unequal shards, N = {n},", subject.step(heavy).loss, want)
        plain = {"loss": np.array(mean_loss(case, params, batch))}
        check.distinct("the loss without those weights", plain, want.want, want.bounds)

    for_all(check, holds, rng=generators())
