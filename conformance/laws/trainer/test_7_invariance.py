"""Rung 7: neither the order of rows, nor padding, packing or micro-batches change the step, and all devices do it."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
import pytest

from ...adapter import HostBatch, TrainerUnderTest
from ...core.check import Check
from ...core.comparison import Bound
from ...oracle.bounds_measured import logits_reference, loss_reference, walk
from ...oracle.cases import B, L
from ...oracle.draws import GARBAGE, batch_of, for_all, generators, permutations, rows_of
from ..support.trainer_checks import (
    all_devices,
    check_distance,
    check_gradients,
    check_logits,
    check_loss,
    claims,
    draw_case,
    usable_devices,
)

COLLECTIVES = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"


@pytest.mark.law("equivalence.row_order")
def test_row_order(check: Check, subject: TrainerUnderTest, devices: list[Any]) -> None:
    """The loss and the update of the same rows in another order."""
    n = usable_devices(subject, devices)

    def holds(rng: np.random.Generator, order: np.ndarray) -> None:
        case, params, batch = draw_case(subject, rng)
        moved = rows_of(batch, order)
        want = walk(case, params, [batch, batch])
        subject.start(case, params, n)
        loss = subject.step(moved).loss
        subject.step(moved)
        check_loss(check, f"loss of another order, N = {n},", loss, loss_reference(case, params, batch))
        check_distance(check, f"another order, N = {n},", case, params, subject.params(), want.distance)
        subject.start(case, params, n)
        logits = np.asarray(subject.evaluate(moved))[np.argsort(order)]
        check_logits(check, f"logits of another order, N = {n},", logits, batch, logits_reference(case, params, batch))

    for_all(check, holds, rng=generators(), order=permutations(B))


@pytest.mark.law("equivalence.padding")
def test_padding(check: Check, subject: TrainerUnderTest, devices: list[Any]) -> None:
    """What padding holds, in columns and in rows of weight 0, changes no bit of the update."""
    n = usable_devices(subject, devices)

    def holds(rng: np.random.Generator) -> None:
        case, params, batch = draw_case(subject, rng)
        ends, losses = [], []
        for other in (batch, refilled(batch, rng)):
            subject.start(case, params, n)
            losses.append([subject.step(other).loss for _ in range(2)])
            ends.append(subject.params())
        check.same("losses under other padding", losses[1], losses[0])
        for name, leaf in ends[0].items():
            check.equal(f"{name} under other padding", np.asarray(ends[1][name]), np.asarray(leaf), control=leaf + 1)
        want = walk(case, params, [batch, batch])
        check_distance(check, "with garbage in padding,", case, params, ends[0], want.distance)

    for_all(check, holds, rng=generators())


def refilled(batch: HostBatch, rng: np.random.Generator) -> HostBatch:
    """The same examples in other padding: ids, types, and in rows of weight 0 everything."""
    real, unseen = batch.weights > 0, batch.attention_mask == 0
    garbage = rng.integers(-GARBAGE, GARBAGE, batch.input_ids.shape).astype(np.int32)
    return batch._replace(
        input_ids=np.where(unseen | ~real[:, None], garbage, batch.input_ids),
        token_type_ids=np.where(unseen | ~real[:, None], garbage[::-1], batch.token_type_ids),
        labels=np.where(real, batch.labels, 10**6).astype(batch.labels.dtype),
        example_ids=np.where(real, batch.example_ids, np.uint32(7)),
    )


@pytest.mark.law("equivalence.packing")
def test_packing(check: Check, subject: TrainerUnderTest, devices: list[Any]) -> None:
    """Several examples a row: the gradient of the same examples padded."""
    claims(check, subject, "gradients", "packing")
    n = usable_devices(subject, devices)

    def holds(rng: np.random.Generator) -> None:
        case, params, _ = draw_case(subject, rng, pack=True)
        # So short that at least two fit a row, whatever is drawn.
        batch = batch_of(case, rng, real=int(rng.integers(9, B)), longest=L // 2)
        check_gradients(check, subject, case, params, batch, n)

    for_all(check, holds, rng=generators())


@pytest.mark.law("equivalence.accumulation")
def test_accumulation(check: Check, subject: TrainerUnderTest, devices: list[Any]) -> None:
    """Two and four micro-batches of unequal weight: the gradient of the whole batch."""
    claims(check, subject, "gradients", "accumulation")
    n = usable_devices(subject, devices)

    def holds(rng: np.random.Generator) -> None:
        for parts in (2, 4) if check.at("full") else (2,):
            case, params, batch = draw_case(subject, rng, accumulate=parts)
            check_gradients(check, subject, case, params, batch, n)

    for_all(check, holds, rng=generators())


@pytest.mark.law("equivalence.replicas")
def test_replicas(check: Check, subject: TrainerUnderTest, devices: list[Any]) -> None:
    """After five updates every device holds the same parameters, bit for bit."""
    n = all_devices(check, subject, devices)
    claims(check, subject, "replicas")

    def holds(rng: np.random.Generator) -> None:
        case, params, batch = draw_case(subject, rng)
        subject.start(case, params, n)
        for _ in range(5):
            subject.step(batch)
        copies = subject.replicas()
        check.same("number of replicas", len(copies), n)
        for device, copy in enumerate(copies[1:], 1):
            for name, leaf in copies[0].items():
                check.equal(f"{name} on device {device}", np.asarray(copy[name]), np.asarray(leaf), control=leaf + 1)
        moved = any(not np.array_equal(leaf, params[name].astype(leaf.dtype)) for name, leaf in copies[0].items())
        check.same("replicas moved from where they began", moved, True)

    for_all(check, holds, rng=generators())


@pytest.mark.law("equivalence.devices_used")
def test_devices_used(check: Check, subject: TrainerUnderTest, devices: list[Any], rng: np.random.Generator) -> None:
    """JAX arrays of the run live on every device asked for, and on no other."""
    n = all_devices(check, subject, devices)
    claims(check, subject, "jax")
    case, params, batch = draw_case(subject, rng)
    # Held while their ids are compared: a freed array's id is given to another.
    before = jax.live_arrays()
    subject.start(case, params, n)
    subject.step(batch)
    old = {id(array) for array in before}
    new = [array for array in jax.live_arrays() if id(array) not in old and array.size >= case.hidden_size]
    holding = {device.id for array in new for device in array.devices()}
    check.same("devices that hold the run's arrays", sorted(holding), sorted(device.id for device in devices[:n]))


@pytest.mark.law("equivalence.collectives")
def test_collectives(check: Check, subject: TrainerUnderTest, devices: list[Any], rng: np.random.Generator) -> None:
    """The compiled update adds each gradient up over the devices once, and moves nothing else of that size."""
    n = all_devices(check, subject, devices)
    claims(check, subject, "program")
    case, params, batch = draw_case(subject, rng)
    subject.start(case, params, n)
    moved = collective_elements(subject.program(batch))
    check.facts["elements"] = moved
    gradient = sum(leaf.size for leaf in params.values())
    total = sum(moved.values())
    check.at_least("elements moved by collectives", total, gradient, "every gradient element must be added up")
    # Beside the gradient: loss and weight, two scalars. A second reduction or a gather would be a share of 1 or more.
    beyond = Bound(0.01, 2 / gradient, f"{gradient} parameters, each reduced once, and a few scalars")
    check.at_most("share of elements moved beyond the gradient", total / gradient - 1, beyond)


def collective_elements(text: str) -> dict[str, int]:
    """Elements that each kind of collective in an HLO text gives out: `%x = (f32[8]{0}, f32[]) all-reduce(...)`."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        match = re.search(rf"= (.*?) ({COLLECTIVES})(?:-start)?\(", line)
        if match:
            shapes = re.findall(r"[a-z]\w*\[([\d,]*)\]", match[1])
            sizes = [int(np.prod([int(d) for d in shape.split(",") if d])) for shape in shapes]
            found[match[2]] = found.get(match[2], 0) + sum(sizes)
    return found
