"""Rung 3: softmax, LayerNorm, activations, the loss and attention, at values that are hard for them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from ...core.check import Check
from ...oracle.bounds_derived import U, allowed
from ...oracle.draws import for_all, for_shapes, generators
from ..support import families, operators
from ..support.families import Args, Exact
from ..support.operators import Machine


def _ask(check: Check, machine: Machine, name: str, args: Args, exact: Exact, why: str, what: str = "") -> None:
    """One operator at one set of values, wherever it runs."""
    for where, (out,) in machine.run(getattr(operators, name), *args):
        check.within(f"{what or name}{where}", out, exact.value, exact.allowance, allowed(why))


# Rows and columns: one class, odd, a long row; each holds a row of equal logits and one with a single one on top.
ROWS = {"quick": ((5, 1), (64, 33), (6, 4099)), "standard": ((512, 128), (1, 65_537)), "full": ((12_288, 512),)}
HIDDEN = {"quick": ((24, 768), (5, 33)), "standard": ((512, 768), (3, 4099)), "full": ((16_384, 768),)}


@pytest.mark.law("operators.softmax")
def test_softmax(check: Check, devices: list[Any]) -> None:
    """Logits of every size up to 10^4; rows of equal logits; one logit far above the others; one class."""
    machine = Machine(check, devices)

    def holds(g: np.random.Generator, shape: tuple[int, int]) -> None:
        x = families.normal(g, *shape) * (10 ** g.uniform(-3, 4, (shape[0], 1))).astype(np.float32)
        x[0] = x[0, 0]
        x[-1, g.integers(shape[1])] = 3e4
        why = f"u |x - max|, exp, a sum of {shape[1]}, a division"
        _ask(check, machine, "softmax", (x,), families.softmax(x), why, f"softmax of {shape}")
        total = machine.first(operators.softmax, x).astype(np.float64).sum(axis=-1)
        check.within(f"sums of {shape}", total, np.ones(len(x)), families.softmax(x).allowance.sum(-1), allowed(why))

    for_shapes(check, ROWS, holds)


@pytest.mark.law("operators.layer_norm")
def test_layer_norm(check: Check, devices: list[Any]) -> None:
    """A mean up to 10^4 deviations away; rows of one value."""
    machine = Machine(check, devices)

    def holds(g: np.random.Generator, shape: tuple[int, int]) -> None:
        rows, width = shape
        scale, bias = families.normal(g, width), families.normal(g, width)
        deviation = (10 ** g.uniform(-2, 2, (rows, 1))).astype(np.float32)
        away = (10 ** g.uniform(-1, 4, (rows, 1))).astype(np.float32)
        x = (families.normal(g, rows, width) + away) * deviation
        what, why = f"layer_norm of {shape}", f"the mean's rounding over the deviation, sums of {width}"
        _ask(check, machine, "layer_norm", (x, scale, bias), families.layer_norm(x, scale, bias), why, what)
        # Equal values: no deviation but the mean's rounding e, so |y - bias| = |scale| e / sqrt(e^2 + eps) at most.
        same = np.exp2(g.integers(-40, 24, (rows, 1))) * np.where(g.random((rows, 1)) < 0.5, -1.0, 1.0)
        same[0] = 0.0
        x = np.broadcast_to(same, shape).astype(np.float32)
        # Sums of equal powers of two are exact; what rounds is 1 / n, and the product with it.
        shift = np.abs(same) * 2 * U
        allowance = np.abs(scale) * shift / np.sqrt(shift**2 + 1e-12) * (1 + 16 * U) + 2 * U * np.abs(bias)
        exact = Exact(np.broadcast_to(bias.astype(np.float64), shape), allowance)
        _ask(check, machine, "layer_norm", (x, scale, bias), exact, "the rounding of 1 / n", f"{what}, equal values")

    for_shapes(check, HIDDEN, holds)


def _points(check: Check, g: np.random.Generator, limit: float) -> np.ndarray[Any, Any]:
    """Dense over [-limit, limit], around 0 over all magnitudes, and both ends; of odd length."""
    n = 16_001 if check.at("standard") else 2_001
    near = np.exp2(g.uniform(-60, 4, n)) * np.where(g.random(n) < 0.5, -1, 1)
    return np.concatenate([g.uniform(-limit, limit, n), near, [0.0, limit, -limit]]).astype(np.float32)


@pytest.mark.law("operators.gelu")
def test_gelu(check: Check, devices: list[Any]) -> None:
    """The form by the error function over [-40, 40], and its derivative."""
    machine = Machine(check, devices)
    slope = operators.vjp(operators.gelu, 1)

    def holds(g: np.random.Generator) -> None:
        x = _points(check, g, 40.0)
        _ask(check, machine, "gelu", (x,), families.gelu(x), "erfc within 16 ulp of a rounded argument")
        exact = families.gelu_slope(x)
        for where, (got,) in machine.run(slope, np.ones_like(x), x):
            check.within(f"slope{where}", got, exact.value, exact.allowance, allowed("erfc 16 ulp, exp 3 ulp"))

    for_all(check, holds, g=generators())


@pytest.mark.law("operators.tanh")
def test_tanh(check: Check, devices: list[Any]) -> None:
    """Over [-40, 40] and near 0, at every length from 1 to 17."""
    machine = Machine(check, devices)

    def holds(g: np.random.Generator) -> None:
        x = _points(check, g, 40.0)
        _ask(check, machine, "tanh", (x,), families.tanh(x), "5 ulp, as OpenCL demands")
        short = families.normal(g, 17)
        for n, got in enumerate(machine.first(operators.tanh_of_prefixes, short), start=1):
            exact = families.tanh(short[:n])
            check.within(f"tanh of {n} numbers", got, exact.value, exact.allowance, allowed("5 ulp"))

    for_all(check, holds, g=generators())


@pytest.mark.law("operators.cross_entropy")
def test_cross_entropy(check: Check, devices: list[Any]) -> None:
    """Logits up to 10^4, where a loss by probabilities would be infinite; no loss is below zero."""
    machine = Machine(check, devices)

    def holds(g: np.random.Generator, shape: tuple[int, int]) -> None:
        rows, classes = shape
        logits = families.normal(g, *shape) * (10 ** g.uniform(-3, 3.5, (rows, 1))).astype(np.float32)
        logits = np.clip(logits, -1e4, 1e4)
        logits[0] = np.where(np.arange(classes) == 0, 1e4, -1e4)
        labels = g.integers(0, classes, rows).astype(np.int32)
        labels[0] = classes - 1
        exact = families.cross_entropy(logits, labels)
        why = f"u |max - x|, exp, a sum of {classes}, log"
        _ask(check, machine, "cross_entropy", (logits, labels), exact, why, f"losses of {shape}")
        lowest = float(machine.first(operators.cross_entropy, logits, labels).min())
        check.at_least(f"the least loss of {shape}", lowest + 1e-5, 0.0, "cross-entropy is not negative")

    shapes = {"quick": ((64, 2), (33, 33)), "standard": ((64, 3), (256, 2)), "full": ((64, 30_522),)}
    for_shapes(check, shapes, holds)


@pytest.mark.law("operators.attention")
def test_attention(check: Check, devices: list[Any]) -> None:
    """Ragged masks, one example masked everywhere, as many heads as tokens; what is masked changes no bit."""
    machine = Machine(check, devices)

    def holds(g: np.random.Generator, shape: tuple[int, int, int, int]) -> None:
        q, k, v, visible = args = families.draw_attention(g, *shape)
        what, why = f"attention of {shape}", f"scores of {shape[3]} terms through exp, sums of {shape[1]}"
        _ask(check, machine, "attention", args, families.attention(*args), why, what)
        out = machine.first(operators.attention, *args)
        hidden = ~visible[:, :, None, None] & np.asarray(visible.any(axis=1))[:, None, None, None]
        k, v = (np.where(hidden, np.float32(1e3), leaf) for leaf in (k, v))
        again = machine.first(operators.attention, q, k, v, visible)
        check.equal(f"{what} with other content where it is masked", again, out)
        gradients = machine.first(operators.vjp(operators.attention, 3), np.ones_like(q), *args)
        finite = [bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves((out, gradients))]
        check.same(f"{what} and its gradients are finite", finite, [True] * 4)

    shapes = {"quick": ((3, 16, 2, 64), (3, 5, 5, 8)), "standard": ((2, 128, 4, 64),), "full": ((2, 512, 12, 64),)}
    for_shapes(check, shapes, holds, most=2**15)
