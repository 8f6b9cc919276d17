"""Rung 7: neither row order, padding, packing nor micro-batches change the step, and all devices take part in it."""

import collections
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ...adapter import Case, TrainerUnderTest
from ...core.check import Check
from ...core.comparison import Bound
from ...oracle.bounds_measured import logits_reference, loss_reference, walk
from ...oracle.cases import B, L
from ...oracle.draws import GARBAGE, Rng, batch_of, divides, draw_case, for_all, generators, permutations, rows_of
from ..support.running import law, losses_of
from ..support.trainer_checks import check_distance, check_gradients, check_logits, check_loss, check_same_bits

COLLECTIVES = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"


@law("equivalence.row_order")
def test_row_order(check: Check, subject: TrainerUnderTest, n: int) -> None:
    """Compares loss, update and logits of rows in a random order with the oracle's in the original order."""

    def compare(rng: Rng, order: np.ndarray) -> None:
        case, params, batch = draw_case(subject, rng)
        moved = rows_of(batch, order)
        want = walk(case, params, [batch, batch])
        loss, _ = losses_of(subject, case, params, [moved, moved], n)
        check_loss(check, f"loss of another order, N = {n},", loss, loss_reference(case, params, batch))
        check_distance(check, f"another order, N = {n},", case, params, subject.params(), want.distance)
        subject.start(case, params, n)
        logits = np.asarray(subject.evaluate(moved))[np.argsort(order)]
        check_logits(check, f"logits of another order, N = {n},", logits, batch, logits_reference(case, params, batch))

    for_all(check, compare, rng=generators(), order=permutations(B))


@law("equivalence.padding", draws=True)
def test_padding(check: Check, subject: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares losses and parameters of two updates with those after the content of padding has changed."""
    case, params, batch = draw_case(subject, rng)
    real, unseen = batch.weights > 0, batch.attention_mask == 0
    garbage = rng.integers(-GARBAGE, GARBAGE, batch.input_ids.shape).astype(np.int32)
    # Padding gets other ids and types; rows of weight 0 change everywhere.
    refilled = batch._replace(
        input_ids=np.where(unseen | ~real[:, None], garbage, batch.input_ids),
        token_type_ids=np.where(unseen | ~real[:, None], garbage[::-1], batch.token_type_ids),
        labels=np.where(real, batch.labels, 10**6).astype(batch.labels.dtype),
        example_ids=np.where(real, batch.example_ids, np.uint32(7)),
    )
    ends, losses = [], []
    for other in (batch, refilled):
        losses.append(losses_of(subject, case, params, [other, other], n))
        ends.append(subject.params())
    check.same("losses under other padding", losses[1], losses[0])
    check_same_bits(check, "{} under other padding", ends[1], ends[0])
    want = walk(case, params, [batch, batch])
    check_distance(check, "with garbage in padding,", case, params, ends[0], want.distance)


@law("equivalence.packing", draws=True, claims=("gradients", "packing"))
def test_packing(check: Check, subject: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares the gradient of packed rows, which contain several examples each, with that of padded rows."""
    case, params, _ = draw_case(subject, rng, pack=True)
    # Examples so short that at least two fit into a row, whatever is drawn.
    batch = batch_of(case, rng, real=int(rng.integers(9, B)), longest=L // 2)
    check_gradients(check, subject, case, params, batch, n)


@law("equivalence.accumulation", draws=True, claims=("gradients", "accumulation"))
def test_accumulation(check: Check, subject: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares the gradient of four micro-batches, at level full also of two, with that of the whole batch."""
    most = 4 if divides(subject, 4 * n) else 2
    for parts in sorted({2, most}) if check.at("full") else (most,):
        case, params, batch = draw_case(subject, rng, accumulate=parts)
        check_gradients(check, subject, case, params, batch, n)


@law("equivalence.replicas", draws=True, claims=("devices", "replicas"))
def test_replicas(check: Check, subject: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares the copies of the parameters on all devices after five updates."""
    case, params, batch = draw_case(subject, rng)
    losses_of(subject, case, params, [batch] * 5, n)
    copies = subject.replicas()
    check.same("number of replicas", len(copies), n)
    for device, copy in enumerate(copies[1:], 1):
        check_same_bits(check, f"{{}} on device {device}", copy, copies[0])
    moved = any(not np.array_equal(leaf, params[name].astype(leaf.dtype)) for name, leaf in copies[0].items())
    check.same("replicas moved from where they began", moved, True)


@law("equivalence.devices_used", claims=("devices", "jax"))
def test_devices_used(check: Check, subject: TrainerUnderTest, devices: list[Any], n: int, rng: Rng) -> None:
    """Compares the devices that have the run's JAX arrays with those that the trainer was given: all, then half."""
    case, params, batch = draw_case(subject, rng)
    for count in (n, n // 2):
        # These arrays stay alive until ids are compared, since Python reuses the id of a freed object.
        before = jax.live_arrays()
        subject.start(case, params, count)
        old = {id(array) for array in before}
        # An update on another number of devices has to be compiled, so it is made only by a trainer that `start` left
        # without arrays.
        if count == n or not _holding(old, case):
            subject.step(batch)
        wanted = sorted(device.id for device in devices[:count])
        check.same("devices that hold the run's arrays", sorted(_holding(old, case)), wanted)


def _holding(old: set[int], case: Case) -> set[int]:
    """The devices that hold arrays of the size of a parameter, besides those that were there before."""
    new = [array for array in jax.live_arrays() if id(array) not in old and array.size >= case.hidden_size]
    return {device.id for array in new for device in array.devices()}


@law("equivalence.collectives", claims=("devices", "program"))
def test_collectives(check: Check, subject: TrainerUnderTest, n: int, rng: Rng) -> None:
    """Compares the number of elements that the compiled update's collectives move with the size of the gradient."""
    case, params, batch = draw_case(subject, rng)
    subject.start(case, params, n)
    moved = collective_elements(subject.program(batch))
    check.facts["elements"] = moved
    gradient, total = sum(leaf.size for leaf in params.values()), sum(moved.values())
    check.at_least("elements moved by collectives", total, gradient, "every gradient element must be added up")
    # Beyond the gradient: loss and weight, two scalars. A second reduction or a gather would add a share of 1 or more.
    beyond = Bound(0.01, 2 / gradient, f"{gradient} parameters, each reduced once, and a few scalars")
    check.at_most("share of elements moved beyond the gradient", total / gradient - 1, beyond)


def collective_elements(text: str) -> dict[str, int]:
    """Elements in the results of each kind of collective in an HLO text: `%x = (f32[8]{0}, f32[]) all-reduce(...)`.

    What is in a loop counts as often as XLA knows that the loop runs; in a loop of unknown length, once.
    """
    bodies = {body[1]: body[2] for body in re.finditer(r"(?ms)^(?:ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}", text)}
    inside = {name for body in bodies.values() for name, _ in _loops(body)}
    elements: collections.Counter[str] = collections.Counter()

    def add(body: str, times: int) -> None:
        for results, kind in re.findall(rf"(?m)^.*?= (.*?) ({COLLECTIVES})(?:-start)?\(", body):
            for shape in re.findall(r"[a-z]\w*\[([\d,]*)\]", results):
                elements[kind] += times * math.prod(int(d) for d in shape.split(",") if d)
        for name, trips in _loops(body):
            add(bodies.get(name, ""), times * trips)

    for name, body in bodies.items() or {"": text}.items():
        if name not in inside:
            add(body, 1)
    return dict(elements)


def _loops(body: str) -> Iterator[tuple[str, int]]:
    """The computations that the loops in one repeat, and how often."""
    for line in body.splitlines():
        if loop := re.search(r" while\(.*\bbody=%?([\w.-]+)", line):
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            yield loop[1], int(trips[1]) if trips else 1
