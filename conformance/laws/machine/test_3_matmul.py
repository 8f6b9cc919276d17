"""Rung 3: matrix products, and the precision in which they are computed."""

from __future__ import annotations

from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from ...core.check import Check
from ...oracle import bounds_derived
from ...oracle.bounds_derived import UNIT, allowed
from ...oracle.draws import for_all, for_shapes, generators
from ..support import operators, precision
from ..support.operators import Machine

# (M, K, N) of x [M, K] W [K, N]: BERT's feed-forward, its two-class head, odd ones, one row, one term, one column.
SHAPES = {
    "quick": ((64, 768, 3072), (33, 65, 7), (1, 64, 2), (5, 1, 3)),
    "standard": ((128, 3072, 768), (256, 768, 768), (128, 768, 2), (127, 129, 255), (128, 64, 1)),
    "full": ((4096, 768, 3072), (2500, 768, 768)),
}
LARGE = 2**23  # multiplications above which one draw is enough
# (B, L, H, D): two examples of BERT's heads, as many heads as tokens, one token, odd.
HEADS = {
    "quick": ((2, 64, 12, 64), (3, 5, 5, 7)),
    "standard": ((1, 1, 2, 64), (2, 127, 3, 16)),
    "full": ((2, 512, 12, 64),),
}
FORMS = ("x W", "dy W^T", "x^T dy", "alpha (x W + b)")


def _normal(g: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return g.standard_normal(shape, np.float32)


@pytest.mark.law("operators.matmul")
def test_matmul(check: Check, devices: list[Any]) -> None:
    """A linear layer's products and alpha (x W + b) with a large bias, at the highest precision and that in force."""
    machine = Machine(check, devices)
    in_force = precision.named(machine, precision.in_force)
    class_of = {operators.linear_forms: "float32", operators.linear_forms_by_default: in_force}
    # Where the precision in force is the highest, the second program is the first.
    formulas = list(class_of)[: 1 if in_force == "float32" else 2]

    def holds(g: np.random.Generator, shape: tuple[int, int, int]) -> None:
        m, k, n = shape
        x, w, dy = _normal(g, m, k), _normal(g, k, n), _normal(g, m, n)
        # Larger than what it is added to, so that a scale that misses the bias is seen; no element is near zero.
        bias = np.where(g.random(n) < 0.5, -1, 1) * (4 * np.sqrt(k) + g.random(n)).astype(np.float32)
        bias, alpha = bias.astype(np.float32), np.float32(g.uniform(0.1, 0.4))
        x64, w64, dy64 = (leaf.astype(np.float64) for leaf in (x, w, dy))
        pairs = ((x64, w64), (dy64, w64.T), (x64.T, dy64))
        want = [a @ b for a, b in pairs]
        shifted = float(alpha) * (want[0] + bias)
        for formula in formulas:
            cut = 0.0 if class_of[formula] == "float32" else UNIT[class_of[formula]]
            limits = [bounds_derived.product(a, b, operand=cut) for a, b in pairs]
            limits.append(float(alpha) * limits[0] + 3 * bounds_derived.U * np.abs(shifted))
            why = f"float32 sums of {k}, {n} and {m} terms, operands cut to {class_of[formula]}"
            for where, got in machine.run(formula, x, w, dy, bias, alpha, spread=max(m, k, n) < 1024):
                what = f"of {m} x {k} x {n}{where}"
                for form, out, exact, limit in zip(FORMS, got, [*want, shifted], limits, strict=True):
                    check.within(f"{form} {what}", out, exact, limit, allowed(why))
                for form, out, exact, (a, b) in zip(FORMS[:3], got, want, pairs, strict=False):
                    if exact.size >= 2**14:
                        bound, scale = bounds_derived.product_norm(a, b, operand=cut)
                        check.close(f"all of {form} {what}", out, exact, bound, scale=scale)

    for_shapes(check, SHAPES, holds, most=LARGE)


@pytest.mark.law("operators.batched_matmul")
def test_batched_matmul(check: Check, devices: list[Any]) -> None:
    """Attention's two products over examples and heads."""
    machine = Machine(check, devices)

    def holds(g: np.random.Generator, shape: tuple[int, int, int, int]) -> None:
        b, length, h, d = shape
        q, k, v = (_normal(g, *shape) for _ in range(3))
        p = g.random((b, h, length, length), np.float32)
        by_head = [leaf.astype(np.float64).transpose(0, 2, 1, 3) for leaf in (q, k, v)]
        first = by_head[0], by_head[1].swapaxes(-1, -2)
        second = p.astype(np.float64), by_head[2]
        mixed = (second[0] @ second[1]).transpose(0, 2, 1, 3)
        limit = bounds_derived.product(*second).transpose(0, 2, 1, 3)
        for where, (scores, out) in machine.run(operators.attention_products, q, k, p, v):
            text, why = f"of B, L, H, D = {shape}{where}", f"float32 sums of {d} and {length} terms"
            check.within(f"q k^T {text}", scores, first[0] @ first[1], bounds_derived.product(*first), allowed(why))
            check.within(f"p v {text}", out, mixed, limit, allowed(why))

    for_shapes(check, HEADS, holds)


@pytest.mark.law("operators.precision")
def test_precision(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Which bits of the operands reach a float32 product, for each way to ask, against what was asked for."""
    machine = Machine(check, devices)
    platform, asked = devices[0].platform, precision.declared()
    found = {
        "in force": precision.named(machine, precision.in_force),
        "of a row alone": precision.named(machine, precision.in_force, rows=1),
        "with argument HIGHEST": precision.named(machine, precision.highest),
        "with argument DEFAULT": precision.named(machine, precision.fastest),
    }
    with jax.default_matmul_precision("highest"):
        found["with context highest"] = precision.named(machine, precision.in_force)
    has_less = found["with argument DEFAULT"] != "float32"
    check.facts.update(precision=found, declared=asked or "nothing", less_than_float32_exists_here=has_less)
    for way in ("with argument HIGHEST", "with context highest"):
        check.same(f"the precision {way}", found[way], "float32")
    allowed_here = sorted(precision.accepted(asked, platform, has_less))
    for way in ("in force", "of a row alone"):
        text = f"on {platform}, with {asked or 'nothing'} declared, the precision {way}"
        check.same(text, found[way], found[way] if found[way] in allowed_here else " or ".join(allowed_here))

    # The autotuner may choose other kernels for other values than the probe's.
    a, b = _normal(rng, 128, precision.TERMS), _normal(rng, precision.TERMS, precision.WIDEST)
    for way, formula in (("in force", precision.in_force), ("with argument HIGHEST", precision.highest)):
        for form, out in zip(FORMS, machine.first(formula, *precision.forms_of(a, b)), strict=False):
            _two_sided(check, f"{form} {way}", out, a, b, found[way])


def _two_sided(
    check: Check, what: str, out: np.ndarray[Any, Any], a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], name: str
) -> None:
    """An error of the class `name`: not above its bound, nor below a tenth of what cutting the operands makes."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    cut = 0.0 if name == "float32" else UNIT[name]
    bound, scale = bounds_derived.product_norm(a64, b64, operand=cut)
    check.close(what, out, a64 @ b64, bound, scale=scale)
    if cut:
        error = check.comparisons[-1].error
        check.at_least(f"the error of {what}", error, bound.noise / 10, f"a tenth of what {name} operands make")


@pytest.mark.law("operators.low_precision")
def test_low_precision(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """bfloat16 and float16 products with float32 sums, as float32 and rounded once."""
    machine = Machine(check, devices)

    def holds(g: np.random.Generator, shape: tuple[int, int, int] = (32, 768, 48)) -> None:
        m, k, n = shape
        for dtype in (ml_dtypes.bfloat16, np.float16):
            name = np.dtype(dtype).name
            # No subnormal numbers: some matrix units take them as zero.
            a, b = (_away_from_zero(g, *size).astype(dtype) for size in ((m, k), (k, n)))
            a64, b64 = a.astype(np.float64), b.astype(np.float64)
            want, limit = a64 @ b64, bounds_derived.product(a64, b64)
            # Twice: some machines round the product to the format and a second time on the way out.
            rounded = limit + 2 * UNIT[name] * np.abs(want) + bounds_derived.TINY[name]
            for where, (wide, narrow) in machine.run(operators.low_precision_forms, a, b):
                what = f"{name} {m} x {k} x {n}{where}"
                check.same(f"the format of {what}", (str(wide.dtype), str(narrow.dtype)), ("float32", name))
                check.within(f"{what} in float32", wide, want, limit, allowed(f"float32 sums of {k} exact products"))
                check.within(f"{what} rounded", narrow, want, rounded, allowed("the same, rounded to the format"))
                error = float(np.linalg.norm(narrow.astype(np.float64) - want) / np.linalg.norm(want))
                check.at_least(
                    f"the error of {what} rounded", error, 0.1 * UNIT[name], "rounding makes 0.4 u on average"
                )
            ones = np.ones(2**17 if name == "bfloat16" else 2**15, dtype)
            total = machine.first(operators.total, ones)
            check.same(f"the sum of {ones.size} ones of {name}", float(total), float(ones.size))

    for_all(check, holds, g=generators())
    if check.at("standard"):
        holds(rng, (64, 3072, 256))


def _away_from_zero(g: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    sign = np.where(g.random(shape, np.float32) < 0.5, np.float32(-1), np.float32(1))
    return sign * (np.float32(0.125) + np.abs(g.standard_normal(shape, np.float32)))
