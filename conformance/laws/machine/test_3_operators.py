"""Rung 3: softmax, LayerNorm, activations, the loss and attention, at values that are hard for them."""

from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.check import Check
from ...core.comparison import Array
from ...oracle.bounds_derived import DIVISION, U, allowed
from ..support import families, operators
from ..support.operators import Exact, Machine
from ..support.running import at_level, law

# (rows, columns): one column, a square, long rows. The first row has equal logits, the last one a single large logit.
ROWS = {"quick": ((5, 1), (33, 33), (6, 4099)), "standard": ((512, 128), (1, 65_537)), "full": ((12_288, 512),)}
HIDDEN = {"quick": ((24, 768), (33, 33)), "standard": ((512, 768), (3, 4099)), "full": ((16_384, 768),)}
LOGITS = {"quick": ((64, 2), (33, 33)), "standard": ((64, 3), (256, 2)), "full": ((64, 30_522),)}
# Lengths of all axes of an array: those of BERT's parts that can be equal, an odd one, and whole tiles of a kernel.
SQUARES = {"quick": (8,), "standard": (16, 32, 33, 128), "full": (64, 256)}
CHAINS = {"quick": (16, 32, 128), "standard": (24, 48, 64, 96, 256, 768), "full": ()}
HEADS = {"quick": ((3, 16, 2, 64), (9, 9, 9, 9)), "standard": ((2, 128, 4, 64),), "full": ((2, 512, 12, 64),)}


@law("operators.softmax", shapes=ROWS)
def test_softmax(check: Check, machine: Machine, rng: np.random.Generator, shape: tuple[int, int]) -> None:
    """Compares softmax of logits up to 10^4, of equal logits, and with one logit far above the others."""
    x = families.normal(rng, *shape) * (10 ** rng.uniform(-3, 4, (shape[0], 1))).astype(np.float32)
    x[0] = x[0, 0]
    x[-1, rng.integers(shape[1])] = 3e4
    why, exact = f"roundings of |x - max|, exp, a sum of {shape[1]} and a division", families.softmax(x)
    machine.compare(check, f"softmax of {shape}", operators.softmax, (x,), exact, why)
    total = machine.first(operators.softmax, x).astype(np.float64).sum(axis=-1)
    check.within(f"sums of {shape}", total, np.ones(len(x)), exact.allowance.sum(-1), allowed(why))


@law("operators.layer_norm", shapes=HIDDEN)
def test_layer_norm(check: Check, machine: Machine, rng: np.random.Generator, shape: tuple[int, int]) -> None:
    """Compares LayerNorm of rows with a mean of up to 10^4 standard deviations, and of rows of equal values."""
    rows, width = shape
    scale, bias = families.normal(rng, width), families.normal(rng, width)
    deviation = (10 ** rng.uniform(-2, 2, (rows, 1))).astype(np.float32)
    mean = (10 ** rng.uniform(-1, 4, (rows, 1))).astype(np.float32)
    x = (families.normal(rng, rows, width) + mean) * deviation
    what, why = f"layer_norm of {shape}", f"the mean's rounding over the deviation, sums of {width}"
    exact = families.layer_norm(x, scale, bias)
    machine.compare(check, what, operators.layer_norm, (x, scale, bias), exact, why)
    # Equal values differ from their computed mean by its rounding e only: |y - bias| <= |scale| e / sqrt(e^2 + eps).
    same = np.exp2(rng.integers(-40, 24, (rows, 1))) * np.where(rng.random((rows, 1)) < 0.5, -1.0, 1.0)
    same[0] = 0.0
    x = np.broadcast_to(same, shape).astype(np.float32)
    # Sums of equal powers of two are exact; 1 / n is rounded, and the sum times 1 / n is rounded again.
    shift = np.abs(same) * 2 * U
    allowance = np.abs(scale) * shift / np.sqrt(shift**2 + 1e-12) * (1 + 16 * U) + 2 * U * np.abs(bias)
    exact = Exact(np.broadcast_to(bias.astype(np.float64), shape), allowance)
    what, why = f"{what}, equal values", "the rounding of 1 / n"
    machine.compare(check, what, operators.layer_norm, (x, scale, bias), exact, why)


def _points(check: Check, rng: np.random.Generator, limit: float) -> np.ndarray[Any, Any]:
    """An odd number of points: all over [-limit, limit], near 0 at all magnitudes, and at both ends."""
    n = 16_001 if check.at("standard") else 2_001
    near = np.exp2(rng.uniform(-60, 4, n)) * np.where(rng.random(n) < 0.5, -1, 1)
    return np.concatenate([rng.uniform(-limit, limit, n), near, [0.0, limit, -limit]]).astype(np.float32)


@law("operators.gelu", draws=True)
def test_gelu(check: Check, machine: Machine, rng: np.random.Generator) -> None:
    """Compares GELU, computed with the error function, and its derivative over [-40, 40]."""
    x = _points(check, rng, 40.0)
    why = "erfc within 16 ulp of a rounded argument"
    machine.compare(check, "gelu", operators.gelu, (x,), families.gelu(x), why)
    slope = operators.vjp(operators.gelu, 1)
    machine.compare(check, "slope", slope, (np.ones_like(x), x), families.gelu_slope(x), "erfc 16 ulp, exp 3 ulp")


@law("operators.tanh", draws=True)
def test_tanh(check: Check, machine: Machine, rng: np.random.Generator) -> None:
    """Compares tanh over [-40, 40] and near 0, and of arrays of every length from 1 to 17."""
    x = _points(check, rng, 40.0)
    machine.compare(check, "tanh", operators.tanh, (x,), families.tanh(x), "5 ulp, as OpenCL demands")
    short = families.normal(rng, 17)
    for n, got in enumerate(machine.first(operators.tanh_of_prefixes, short), start=1):
        exact = families.tanh(short[:n])
        check.within(f"tanh of {n} numbers", got, exact.value, exact.allowance, allowed("5 ulp"))


@law("operators.broadcasting")
def test_broadcasting(check: Check, machine: Machine, rng: np.random.Generator) -> None:
    """Compares operators, reductions and transposes of arrays whose axes all have one length, along each axis."""

    def compare(what: str, formulas: tuple[operators.Formula, operators.Formula], *args: Array) -> None:
        ours, numpys = formulas
        got, want = machine.first(ours, *args), numpys(*(leaf.astype(np.float64) for leaf in args))
        for name in want:
            exact, text = np.asarray(want[name]), f"{name}, {what}"
            if exact.dtype == bool or name.startswith("argmax"):
                check.equal(text, got[name], exact.astype(got[name].dtype))
                continue
            # Only quotients are rounded: all other results are integers below 2^24.
            limit, why = (DIVISION * U, "a quotient") if name.startswith(("divide", "a chain")) else (0.0, "exact")
            check.within(text, got[name], exact, limit * np.abs(exact), allowed(why))

    for form, sizes in ((operators.on_squares, SQUARES), (operators.chains_on_squares, CHAINS)):
        for n in at_level(check, sizes):
            x, y = (rng.integers(1, 65, (2, n, n)) * rng.choice([-1, 1], (2, n, n))).astype(np.float32)
            row = rng.permutation(np.where(np.arange(n) < n // 2, -1, 1) * (1 + np.arange(n) // 2)).astype(np.float32)
            compare(f"{n} x {n}", (form(jnp), form(np)), x, y, row)
    kept = tuple((rank, axes) for rank, several in operators.AXES.items() for axes in several)
    reduced: tuple[tuple[int, int], ...] = (3, 2), (4, 3)
    if check.at("standard"):
        kept = tuple((rank, axes) for rank in (3, 4) for r in range(1, rank) for axes in combinations(range(rank), r))
        reduced = tuple((rank, axis) for rank in (3, 4) for axis in range(rank))
    cubes = operators.on_cubes(kept, reduced)
    compare("8 of each", (cubes, cubes), rng.integers(-(2**20), 2**20, (8,) * 4).astype(np.float32))


@law("operators.cross_entropy", shapes=LOGITS)
def test_cross_entropy(check: Check, machine: Machine, rng: np.random.Generator, shape: tuple[int, int]) -> None:
    """Compares losses of logits up to 10^4, where the log of a probability may be infinite; no loss may be negative."""
    rows, classes = shape
    logits = families.normal(rng, *shape) * (10 ** rng.uniform(-3, 3.5, (rows, 1))).astype(np.float32)
    logits = np.clip(logits, -1e4, 1e4)
    logits[0] = np.where(np.arange(classes) == 0, 1e4, -1e4)
    labels = rng.integers(0, classes, rows).astype(np.int32)
    labels[0] = classes - 1
    exact, why = families.cross_entropy(logits, labels), f"roundings of |max - x|, exp, a sum of {classes} and log"
    machine.compare(check, f"losses of {shape}", operators.cross_entropy, (logits, labels), exact, why)
    lowest = float(machine.first(operators.cross_entropy, logits, labels).min())
    check.at_least(f"the least loss of {shape}", lowest + 1e-5, 0.0, "cross-entropy is not negative")


@law("operators.attention", shapes=HEADS, most=2**15)
def test_attention(check: Check, machine: Machine, rng: np.random.Generator, shape: tuple[int, int, int, int]) -> None:
    """Compares attention with ragged masks, one example fully masked; then changes masked values, to no effect."""
    q, k, v, visible = args = families.draw_attention(rng, *shape)
    what, why = f"attention of {shape}", f"scores of {shape[3]} terms through exp, sums of {shape[1]}"
    machine.compare(check, what, operators.attention, args, families.attention(*args), why)
    out = machine.first(operators.attention, *args)
    hidden = ~visible[:, :, None, None] & np.asarray(visible.any(axis=1))[:, None, None, None]
    k, v = (np.where(hidden, np.float32(1e3), leaf) for leaf in (k, v))
    again = machine.first(operators.attention, q, k, v, visible)
    check.equal(f"{what} with other content where it is masked", again, out)
    gradients = machine.first(operators.vjp(operators.attention, 3), np.ones_like(q), *args)
    finite = [bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves((out, gradients))]
    check.same(f"{what} and its gradients are finite", finite, [True] * 4)
