"""Rung 4: gradients of the operators, against backward passes written by hand and against differences."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from ...core.check import Check
from ...core.comparison import Array
from ...core.meshes import shard_map
from ...oracle.bounds_derived import allowed
from ...oracle.draws import for_all, for_shapes, generators
from ..support import families, gradients, operators
from ..support.families import Exact, normal
from ..support.operators import Machine

Draw = Callable[..., tuple[Array, ...]]
Shapes = Mapping[str, Sequence[tuple[int, ...]]]


def _asks(
    check: Check,
    machine: Machine,
    name: str,
    wrt: tuple[str, ...],
    exact_of: Callable[..., list[Exact]],
    draw: Draw,
    shapes: Shapes,
    why: str,
) -> None:
    """The gradients of one operator by its first arguments; a draw gives the cotangent and the arguments."""
    backward = operators.vjp(getattr(operators, name), len(wrt))

    def holds(g: np.random.Generator, shape: tuple[int, ...]) -> None:
        args = draw(g, *shape)
        for where, found in machine.run(backward, *args):
            for leaf, got, (want, limit) in zip(wrt, found, exact_of(*args), strict=True):
                check.within(f"{name} by {leaf}, {args[1].shape}{where}", got, want, limit, allowed(why))

    for_shapes(check, shapes, holds)


def _linear(g: np.random.Generator, m: int, k: int, n: int) -> tuple[Array, ...]:
    return normal(g, m, n), normal(g, m, k), normal(g, k, n), normal(g, n)


def _logits(g: np.random.Generator, m: int, n: int) -> tuple[Array, ...]:
    return normal(g, m, n), normal(g, m, n) * (10 ** g.uniform(-2, 2, (m, 1))).astype(np.float32)


def _hidden(g: np.random.Generator, m: int, n: int) -> tuple[Array, ...]:
    x = (normal(g, m, n) + (10 ** g.uniform(-1, 2, (m, 1)))) * 10 ** g.uniform(-2, 2, (m, 1))
    return normal(g, m, n), x.astype(np.float32), normal(g, n), normal(g, n)


def _activated(g: np.random.Generator, n: int) -> tuple[Array, ...]:
    return normal(g, n), g.uniform(-5, 5, n).astype(np.float32)


def _labelled(g: np.random.Generator, m: int, n: int) -> tuple[Array, ...]:
    logits = normal(g, m, n) * (10 ** g.uniform(-2, 3, (m, 1))).astype(np.float32)
    logits[0] = np.where(np.arange(n) == 0, 1e4, -1e4)
    labels = g.integers(0, n, m).astype(np.int32)
    labels[0] = n - 1
    return g.integers(0, 4, m).astype(np.float32), logits, labels


def _attended(g: np.random.Generator, *shape: int) -> tuple[Array, ...]:
    b, length, h, d = shape
    return normal(g, *shape), *families.draw_attention(g, b, length, h, d)


@pytest.mark.law("autodiff.linear")
def test_linear(check: Check, devices: list[Any]) -> None:
    """By input, weight and bias; one row, one column and odd sizes among them."""
    shapes = {
        "quick": ((48, 96, 192), (1, 33, 2)),
        "standard": ((128, 768, 64), (65, 7, 1)),
        "full": ((512, 768, 3072),),
    }
    wrt = ("x", "w", "b")
    _asks(check, Machine(check, devices), "linear", wrt, gradients.linear, _linear, shapes, "float32 sums")


@pytest.mark.law("autodiff.softmax")
def test_softmax(check: Check, devices: list[Any]) -> None:
    """By logits of sizes up to 100."""
    shapes, why = {"quick": ((24, 33),), "standard": ((64, 128), (3, 4099))}, "softmax's own, and one sum"
    _asks(check, Machine(check, devices), "softmax", ("x",), gradients.softmax, _logits, shapes, why)


@pytest.mark.law("autodiff.layer_norm")
def test_layer_norm(check: Check, devices: list[Any]) -> None:
    """By input, scale and bias, with a mean of up to 100 deviations."""
    shapes = {"quick": ((24, 96), (5, 33)), "standard": ((64, 768),), "full": ((1024, 768),)}
    wrt = ("x", "scale", "bias")
    why = "the mean's rounding over the deviation, two means"
    _asks(check, Machine(check, devices), "layer_norm", wrt, gradients.layer_norm, _hidden, shapes, why)


@pytest.mark.law("autodiff.gelu")
def test_gelu(check: Check, devices: list[Any]) -> None:
    """By an input within [-5, 5]; `operators.gelu` asks for its slope further out."""
    shapes = {"quick": ((2_001,),), "standard": ((20_001,),)}
    why = "erfc 16 ulp, exp 3 ulp"
    _asks(check, Machine(check, devices), "gelu", ("x",), gradients.gelu, _activated, shapes, why)


@pytest.mark.law("autodiff.embedding")
def test_embedding(check: Check, devices: list[Any]) -> None:
    """By a table whose rows are read many times, once and never; integers exactly, rows never read exactly zero."""
    machine = Machine(check, devices)
    rows, width, n = (1009, 48, 257) if not check.at("standard") else (30_011, 16, 1031)

    def ids(g: np.random.Generator, most: int) -> Array:
        found = g.integers(0, rows, n)
        often = int(g.integers(n // 2, n))
        found[:often] = g.integers(0, rows, most)[g.integers(0, most, often)]
        return g.permutation(found).astype(np.int32)

    def draw(g: np.random.Generator, most: int) -> tuple[Array, ...]:
        return normal(g, n, width), normal(g, rows, width), ids(g, most)

    why = "5 u sqrt(k) of a sum of k terms"
    _asks(check, machine, "gather", ("table",), gradients.embedding, draw, {"quick": ((1,), (2,))}, why)

    def whole(g: np.random.Generator) -> None:
        cotangent = g.integers(-8, 9, (n, width)).astype(np.float32)
        table, at = normal(g, rows, width), ids(g, 2)
        want = np.zeros_like(table)
        np.add.at(want, at, cotangent)
        got = machine.first(operators.vjp(operators.gather, 1), cotangent, table, at)[0]
        check.equal("gather by table, integers", got, want)

    for_all(check, whole, g=generators())


@pytest.mark.law("autodiff.cross_entropy")
def test_cross_entropy(check: Check, devices: list[Any]) -> None:
    """By logits up to 10^4, each row with a weight of its own, some of them zero."""
    shapes = {"quick": ((24, 3), (7, 33)), "standard": ((256, 2),)}
    why = "softmax's own"
    _asks(check, Machine(check, devices), "cross_entropy", ("logits",), gradients.loss, _labelled, shapes, why)


@pytest.mark.law("autodiff.attention")
def test_attention(check: Check, devices: list[Any]) -> None:
    """By queries, keys and values, with ragged masks and an example masked everywhere; and against differences."""
    machine = Machine(check, devices)

    shapes = {"quick": ((3, 16, 2, 24), (3, 5, 5, 8)), "standard": ((3, 64, 4, 64),), "full": ((4, 256, 4, 64),)}
    why = "scores through exp, and sums over tokens and features"
    _asks(check, machine, "attention", ("q", "k", "v"), gradients.attention, _attended, shapes, why)

    def along(g: np.random.Generator) -> None:
        """The slope along a direction, by a central difference of the float64 forward pass."""
        cotangent, *args = _attended(g, 3, 5, 5, 8)
        found = machine.first(operators.vjp(operators.attention, 3), cotangent, *args)
        exact = gradients.attention(cotangent, *args)
        # Uphill in every element: along any other direction the slope can come out as small as its bound.
        ways = [np.abs(g.standard_normal(leaf.value.shape)) * np.sign(leaf.value) for leaf in exact]
        wide, step = [leaf.astype(np.float64) for leaf in args[:3]], 1e-5
        ends = []
        for sign in (step, -step):
            q, k, v = (leaf + sign * way for leaf, way in zip(wide, ways, strict=True))
            ends.append(float((families.attention(q, k, v, args[3]).value * cotangent).sum()))
        want = np.array((ends[0] - ends[1]) / (2 * step))
        got = np.array(sum(float((leaf * way).sum()) for leaf, way in zip(found, ways, strict=True)))
        limits = [leaf.allowance for leaf in exact]
        # The difference itself is off by step^2 times the third derivative and 2^-53 / step of the value: about 1e-9.
        size = float(sum((np.abs(leaf) * np.abs(way)).sum() for leaf, way in zip(found, ways, strict=True)))
        limit = sum(float((limit * np.abs(way)).sum()) for limit, way in zip(limits, ways, strict=True)) + 1e-8 * size
        why = allowed("summed over all elements")
        check.within("attention along a direction", got, want, np.array(limit), why, control=-want)

    for_all(check, along, g=generators())


@pytest.mark.law("autodiff.remat")
def test_remat(check: Check, devices: list[Any]) -> None:
    """A feed-forward block whose inner values are computed again in the backward pass."""
    machine = Machine(check, devices)
    plain = operators.vjp(operators.feed_forward, 4)
    again = operators.vjp(operators.feed_forward_again, 4)

    def holds(g: np.random.Generator) -> None:
        m, k, n = 24, 48, 96
        dy, x, w = normal(g, m, k), normal(g, m, k), normal(g, k, n) / np.float32(np.sqrt(k))
        args = (dy, x, w, normal(g, n), normal(g, n, k) / np.float32(np.sqrt(n)))
        for name, formula in (("kept", plain), ("recomputed", again)):
            for where, found in machine.run(formula, *args):
                exact = gradients.feed_forward(*args)
                for leaf, got, (want, limit) in zip(("x", "w_in", "b_in", "w_out"), found, exact, strict=True):
                    why = "three products and GELU's slope"
                    check.within(f"feed_forward by {leaf}, {name}{where}", got, want, limit, allowed(why))

    for_all(check, holds, g=generators())


def gradient_of_sum(w: Any, x: Any, y: Any, weights: Any) -> tuple[Any, Any]:
    """The gradient of sum weights (x w - y)^2 / 2 over all devices: differentiated on each, then summed."""
    value, slope = jax.value_and_grad(lambda w: (weights * (x @ w - y) ** 2).sum() / 2)(w)
    return jax.lax.psum((value, slope), "data")


def branching_gradient(w: Any, x: Any) -> Any:
    """As above, through a branch that each device takes by its own number."""

    def loss(w: Any) -> Any:
        even = jax.lax.axis_index("data") % 2 == 0
        return jax.lax.cond(even, lambda v: v.sum(), lambda v: 3 * v.sum(), x * w)

    return jax.lax.psum(jax.grad(loss)(w), "data")


@functools.cache
def _sharded(formula: Callable[..., Any], devices: tuple[Any, ...], sharded: int) -> Callable[..., Any]:
    """The formula with its first argument everywhere and the others cut by rows; every device's result, stacked."""
    row = PartitionSpec("data")
    specs = (PartitionSpec(), *(row,) * sharded)

    def alone(*args: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[None], formula(*args))

    mesh = Mesh(np.array(devices), ("data",))
    # Unchecked: with the check on, JAX itself inserts the sum where `w` is used, and there is none left to place.
    return jax.jit(shard_map(alone, mesh, specs, row, check=False))


@pytest.mark.law("autodiff.collectives")
def test_collectives(check: Check, devices: list[Any]) -> None:
    """Integers, so that the sum over devices is exact; shards of unequal weight, one of them empty."""
    check.need(len(devices) >= 2, f"needs 2 devices, found {len(devices)}")
    n, width = len(devices), 5

    def holds(g: np.random.Generator) -> None:
        x = g.integers(-3, 4, (4 * n, width)).astype(np.float32)
        w, y = g.integers(-3, 4, width).astype(np.float32), 2 * g.integers(-3, 4, 4 * n).astype(np.float32)
        weights = 2 * g.integers(0, 3, 4 * n).astype(np.float32)
        weights[-4:], weights[0] = 0, 2
        values, slopes = jax.device_get(_sharded(gradient_of_sum, tuple(devices), 3)(w, x, y, weights))
        error = x @ w - y
        want = x.T @ (weights * error)
        control = n * want if want.any() else want + 1
        check.equal("the gradient on every device", slopes, np.tile(want, (n, 1)), control=np.tile(control, (n, 1)))
        loss = np.full(n, (weights * error**2).sum() / 2, np.float32)
        check.equal("the loss on every device", values, loss, control=loss + 1)

    for_all(check, holds, g=generators())
    x = np.arange(1, 2 * n + 1, dtype=np.float32)
    got = jax.device_get(_sharded(branching_gradient, tuple(devices), 1)(np.float32(2), x))
    want = sum((1 if i % 2 == 0 else 3) * float(x[2 * i : 2 * i + 2].sum()) for i in range(n))
    check.equal("a gradient through a branch", got, np.full(n, want, np.float32), control=np.full(n, x.sum()))


@pytest.mark.law("autodiff.nan")
def test_nan(check: Check, devices: list[Any]) -> None:
    """A NaN in a row reaches that row's gradient and no other; what `where` keeps out reaches none."""
    machine = Machine(check, devices)
    names = ("softmax", "gelu", "tanh")
    rows = np.arange(9)

    def holds(g: np.random.Generator) -> None:
        x, cotangent = normal(g, 9, 33), normal(g, 9, 33)
        row, hidden = (int(i) for i in g.choice(9, 2, replace=False))
        for name in names:
            formula, bad = operators.vjp(getattr(operators, name), 1), x.copy()
            clean = machine.first(formula, cotangent, x)[0]
            bad[row, 3] = np.nan
            got = machine.first(formula, cotangent, bad)[0]
            check.same(f"{name}: NaN in the gradient of the row that has one", bool(np.isnan(got[row]).any()), True)
            check.equal(f"{name}: gradients of the other rows", got[rows != row], clean[rows != row])
            above = cotangent.copy()
            above[row, 3] = np.nan
            got = machine.first(formula, above, x)[0]
            found = [bool(np.isnan(line).any()) for line in got]
            check.same(f"{name}: rows with NaN where one comes from above", found, [i == row for i in rows])
        x[row, 0], x[hidden] = np.nan, np.inf
        (got,) = machine.first(operators.vjp(operators.guarded_losses, 1), np.ones(9, np.float32), x, rows != hidden)
        found = [bool(np.isnan(line).any()) for line in got]
        check.same("rows with NaN, of a loss that leaves one row out", found, [i == row for i in rows])
        check.same("the largest gradient of the row left out", float(np.abs(got[hidden]).max()), 0.0)

    for_all(check, holds, g=generators())
