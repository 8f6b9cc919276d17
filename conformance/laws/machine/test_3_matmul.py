"""Rung 3: matrix products, and the precision in which they are computed."""

import functools
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax import lax

from ...core.check import Check
from ...core.comparison import Array
from ...oracle import bounds_derived
from ...oracle.bounds_derived import UNIT, allowed
from ...oracle.draws import Rng, for_all, generators
from ..support import operators
from ..support.families import normal
from ..support.operators import Formula, Machine
from ..support.running import law

# (M, K, N) of x [M, K] W [K, N]: BERT's feed-forward and two-class head, odd sizes, one size for all axes,
# one row, one term, one column.
SHAPES = {
    "quick": ((64, 768, 3072), (33, 65, 7), (33, 33, 33), (1, 64, 2), (5, 1, 3)),
    "standard": ((128, 3072, 768), (256, 768, 768), (128, 768, 2), (127, 129, 255), (128, 64, 1)),
    "full": ((4096, 768, 3072), (2500, 768, 768)),
}
LARGE = 2**23  # multiplications in a product; a larger product is drawn only once
# (B, L, H, D): two examples with BERT's heads, one size for all axes, one token, odd sizes.
HEADS = {
    "quick": ((2, 64, 12, 64), (9, 9, 9, 9)),
    "standard": ((1, 1, 2, 64), (2, 127, 3, 16)),
    "full": ((2, 512, 12, 64),),
}
FORMS = ("x W", "dy W^T", "x^T dy", "alpha (x W + b)")
# Precision -> the unit round-off of its operands, which are float32 numbers rounded to that precision.
CUT = UNIT | {"float32": 0.0}
# (bits, name): a product that keeps at least so many bits of the significand has that precision. One product computed
# as three bfloat16 products keeps 16 bits, one computed as three TF32 products keeps 22.
NAMES = ((22, "float32"), (14, "bfloat16_3x"), (10, "tensorfloat32"), (0, "bfloat16"))
WIDEST = 23
TERMS = 768
# Platform -> precisions that a float32 product may have if none is requested; on others any (TPUs use bfloat16).
UNDECLARED = {"cpu": {"float32"}, "gpu": {"float32", "tensorfloat32"}}
EVERY = frozenset(name for _, name in NAMES)
FULL, HIGH, LOW = {"float32"}, {"tensorfloat32", "bfloat16_3x"}, {"tensorfloat32", "bfloat16"}
DECLARED = {"highest": FULL, "float32": FULL, "high": HIGH, "tensorfloat32": HIGH, "bfloat16_3x": HIGH}
DECLARED |= {"default": LOW, "fastest": LOW, "bfloat16": LOW}


@law("operators.matmul", shapes=SHAPES, most=LARGE)
def test_matmul(check: Check, machine: Machine, rng: Rng, shape: tuple[int, int, int]) -> None:
    """Compares a linear layer's products and alpha (x W + b), at the highest precision and the precision in force."""
    name_in_force = precision_of(machine, in_force)
    formulas = {operators.linear_forms: "float32"}
    # If the precision in force is the highest, the second formula would repeat the first.
    if name_in_force != "float32":
        formulas[operators.linear_forms_by_default] = name_in_force
    m, k, n = shape
    x, w, dy = normal(rng, m, k), normal(rng, k, n), normal(rng, m, n)
    # The bias is larger than the product, so that a scale that misses the bias is seen, and no element is near zero.
    bias = np.where(rng.random(n) < 0.5, -1, 1) * (4 * np.sqrt(k) + rng.random(n)).astype(np.float32)
    bias, alpha = bias.astype(np.float32), np.float32(rng.uniform(0.1, 0.4))
    x64, w64, dy64 = (leaf.astype(np.float64) for leaf in (x, w, dy))
    pairs = ((x64, w64), (dy64, w64.T), (x64.T, dy64))
    want = [a @ b for a, b in pairs]
    shifted = float(alpha) * (want[0] + bias)
    for formula, name in formulas.items():
        cut = CUT[name]
        limits = [bounds_derived.product(a, b, operand=cut) for a, b in pairs]
        limits.append(float(alpha) * limits[0] + 3 * bounds_derived.U * np.abs(shifted))
        why = f"float32 sums of {k}, {n} and {m} terms, operands cut to {name}"
        for where, got in machine.run(formula, x, w, dy, bias, alpha, spread=max(m, k, n) < 1024):
            what = f"of {m} x {k} x {n}{where}"
            for form, out, exact, limit in zip(FORMS, got, [*want, shifted], limits, strict=True):
                check.within(f"{form} {what}", out, exact, limit, allowed(why))
            for form, out, exact, (a, b) in zip(FORMS[:3], got, want, pairs, strict=False):
                if exact.size >= 2**14:
                    bound, scale = bounds_derived.product_norm(a, b, operand=cut)
                    check.close(f"all of {form} {what}", out, exact, bound, scale=scale)


@law("operators.batched_matmul", shapes=HEADS)
def test_batched_matmul(check: Check, machine: Machine, rng: Rng, shape: tuple[int, int, int, int]) -> None:
    """Compares attention's two products over examples and heads."""
    b, length, h, d = shape
    q, k, v = (normal(rng, *shape) for _ in range(3))
    p = rng.random((b, h, length, length), np.float32)
    by_head = [leaf.astype(np.float64).transpose(0, 2, 1, 3) for leaf in (q, k, v)]
    first = by_head[0], by_head[1].swapaxes(-1, -2)
    second = p.astype(np.float64), by_head[2]
    mixed = (second[0] @ second[1]).transpose(0, 2, 1, 3)
    limit = bounds_derived.product(*second).transpose(0, 2, 1, 3)
    for where, (scores, out) in machine.run(operators.attention_products, q, k, p, v):
        text, why = f"of B, L, H, D = {shape}{where}", f"float32 sums of {d} and {length} terms"
        check.within(f"q k^T {text}", scores, first[0] @ first[1], bounds_derived.product(*first), allowed(why))
        check.within(f"p v {text}", out, mixed, limit, allowed(why))


def _forms(*operands: Any, precision: Any) -> tuple[Any, ...]:
    pairs = zip(operands[::2], operands[1::2], ((1, 0), (1, 1), (0, 0)), strict=True)
    return tuple(operators.dot(a, b, over, precision) for a, b, over in pairs)


# A linear layer's products: without a precision argument, as in BERT, so that the context or the default decides; at
# the highest precision; at the lowest that the hardware has.
in_force = functools.partial(_forms, precision=None)
highest = functools.partial(_forms, precision=lax.Precision.HIGHEST)
fastest = functools.partial(_forms, precision=lax.Precision.DEFAULT)


def precision_of(machine: Machine, formula: Formula, rows: int = 128) -> str:
    """The lowest precision that `formula` has among a linear layer's three products, with `rows` rows.

    One operand has 1 + 2^-j in column j, the other has ones and zeros, so that each result is one number 1 + 2^-j,
    rounded. The left operand is measured first, then the right one.
    """
    least = WIDEST
    steps = (1 + 0.5 ** np.arange(1, WIDEST + 1)).astype(np.float32)
    eye = np.eye(TERMS, WIDEST, dtype=np.float32)
    ones = np.ones((rows, TERMS), np.float32)
    for a, b in ((ones * np.resize(steps, TERMS), eye), (ones, eye * steps)):
        for out in machine.first(formula, *forms_of(a, b)):
            kept = (np.asarray(out) == steps).all(axis=0)
            least = min(least, WIDEST if kept.all() else int(kept.argmin()))
    return next(name for bits, name in NAMES if least >= bits)


def forms_of(a: Array, b: Array) -> tuple[Array, ...]:
    """The operands of x W, dy W^T and x^T dy, arranged so that each of these products is a @ b."""
    return a, b, a, np.ascontiguousarray(b.T), np.ascontiguousarray(a.T), b


@law("operators.precision")
def test_precision(check: Check, rng: Rng, machine: Machine) -> None:
    """Measures how many bits of the operands reach a float32 product, and compares with the requested precision."""
    platform, value = machine.devices[0].platform, jax.config.values["jax_default_matmul_precision"]
    declared = "nothing" if value is None else str(value).lower()
    measured = {
        "in force": precision_of(machine, in_force),
        "of a row alone": precision_of(machine, in_force, rows=1),
        "with argument HIGHEST": precision_of(machine, highest),
        "with argument DEFAULT": precision_of(machine, fastest),
    }
    with jax.default_matmul_precision("highest"):
        measured["with context highest"] = precision_of(machine, in_force)
    has_less = measured["with argument DEFAULT"] != "float32"
    check.facts |= {"precision": measured, "declared": declared, "less_than_float32_exists_here": has_less}
    for way in ("with argument HIGHEST", "with context highest"):
        check.same(f"the precision {way}", measured[way], "float32")
    accepted = UNDECLARED.get(platform, EVERY) if value is None else DECLARED.get(declared, EVERY)
    if value is not None and not has_less:
        accepted = accepted | {"float32"}
    allowed_here = sorted(accepted)
    for way in ("in force", "of a row alone"):
        text = f"on {platform}, with {declared} declared, the precision {way}"
        check.same(text, measured[way], measured[way] if measured[way] in allowed_here else " or ".join(allowed_here))

    # The autotuner may choose other kernels for values unlike those above.
    a, b = normal(rng, 128, TERMS), normal(rng, TERMS, WIDEST)
    for way, formula in (("in force", in_force), ("with argument HIGHEST", highest)):
        for form, out in zip(FORMS, machine.first(formula, *forms_of(a, b)), strict=False):
            _two_sided(check, f"{form} {way}", out, a, b, measured[way])


def _two_sided(check: Check, what: str, out: Array, a: Array, b: Array, name: str) -> None:
    """Check that the error fits the precision `name`: below its bound, above a tenth of what rounded operands cause."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    cut = CUT[name]
    bound, scale = bounds_derived.product_norm(a64, b64, operand=cut)
    check.close(what, out, a64 @ b64, bound, scale=scale)
    if cut:
        error = check.comparisons[-1].error
        check.at_least(f"the error of {what}", error, bound.noise / 10, f"a tenth of the error of {name} operands")


@law("operators.low_precision")
def test_low_precision(check: Check, rng: Rng, machine: Machine) -> None:
    """Compares products of bfloat16 and float16 operands, in float32 and rounded to their format, and sums of ones."""

    def away_from_zero(g: Rng, *shape: int) -> Array:
        sign = np.where(g.random(shape, np.float32) < 0.5, np.float32(-1), np.float32(1))
        return sign * (np.float32(0.125) + np.abs(normal(g, *shape)))

    def compare(g: Rng, shape: tuple[int, int, int] = (32, 768, 48)) -> None:
        m, k, n = shape
        for dtype in (ml_dtypes.bfloat16, np.float16):
            name = np.dtype(dtype).name
            # No subnormal numbers, which some matrix units flush to zero.
            a, b = (away_from_zero(g, *size).astype(dtype) for size in ((m, k), (k, n)))
            a64, b64 = a.astype(np.float64), b.astype(np.float64)
            want, limit = a64 @ b64, bounds_derived.product(a64, b64)
            # Some machines round the product to the format twice.
            rounded = limit + 2 * UNIT[name] * np.abs(want) + bounds_derived.TINY[name]
            for where, (wide, narrow) in machine.run(operators.low_precision_forms, a, b):
                what = f"{name} {m} x {k} x {n}{where}"
                check.same(f"the format of {what}", (str(wide.dtype), str(narrow.dtype)), ("float32", name))
                check.within(f"{what} in float32", wide, want, limit, allowed(f"float32 sums of {k} exact products"))
                check.within(f"{what} rounded", narrow, want, rounded, allowed("float32 sums, rounded twice"))
                error = float(np.linalg.norm(narrow.astype(np.float64) - want) / np.linalg.norm(want))
                least = 0.1 * UNIT[name]
                check.at_least(f"the error of {what} rounded", error, least, "rounding errs by 0.4 u on average")
            ones = np.ones(2**17 if name == "bfloat16" else 2**15, dtype)
            total = machine.first(operators.total, ones)
            check.same(f"the sum of {ones.size} ones of {name}", float(total), float(ones.size))

    for_all(check, compare, g=generators())
    if check.at("standard"):
        compare(rng, (64, 3072, 256))
