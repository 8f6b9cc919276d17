"""Rung 3: rows read and added by id; sums and maxima at sizes where kernels change."""

import itertools
from typing import Any

import numpy as np

from ...core.check import Check
from ...core.comparison import Array
from ...machine.meshes import FLOATS
from ...oracle import bounds_derived
from ...oracle.bounds_derived import DIVISION, U, allowed
from ...oracle.draws import Rng, for_all, generators
from ..support import families, operators
from ..support.operators import Machine
from ..support.running import at_level, law

# (V, D, number of ids): prime vocabulary sizes (1009 and 30,011), the table of the two token types, odd widths.
TABLES = {"quick": ((1009, 48, 1031), (2, 33, 257)), "standard": ((30_522, 16, 4096),), "full": ((30_011, 256, 8192),)}
# k for reductions of 2^k elements: a warp, a block, several blocks; at most 2^20, so that sums of integers are exact.
POWERS = {"quick": (5, 10, 17), "standard": (8, 13), "full": (3, 6, 11, 15, 20)}
# Lengths of sums at every level, and of all reductions from `standard` on.
LENGTHS = tuple(2**k + off for k in range(5, 18) for off in (-1, 0, 1))
MATRICES = {"quick": ((1024, 256), (513, 97)), "standard": ((4096, 768), (1000, 1500))}


def _ids(rng: Rng, rows: int, n: int) -> dict[str, np.ndarray[Any, Any]]:
    """Name -> n ids below `rows`, drawn from one id, from two ids, from the first and the last, and from all."""
    one, two = int(rng.integers(rows)), rng.integers(0, rows, 2)
    ids = {
        "one id": np.full(n, one),
        "two ids": two[rng.integers(0, 2, n)],
        "the ends": np.where(rng.random(n) < 0.5, 0, rows - 1),
        "all ids": rng.integers(0, rows, n),
    }
    return {what: drawn.astype(np.int32) for what, drawn in ids.items()}


@law("operators.gather", shapes=TABLES, most=2**27)
def test_gather(check: Check, machine: Machine, rng: Rng, shape: tuple[int, int, int]) -> None:
    """Compares rows read from a table by ids of 32 and 8 bits."""
    rows, width, n = shape
    table = rng.integers(0, 2**31, (rows, width), dtype=np.uint32)
    for what, ids in _ids(rng, rows, n).items():
        for where, (got,) in machine.run(operators.gather, table, ids):
            check.equal(f"{what} of {rows} x {width}{where}", got, table[ids])
    if shape == TABLES["quick"][0]:
        small = rng.integers(0, 128, n).astype(np.int8)
        check.equal("ids of 8 bits", machine.first(operators.gather, table, small), table[small])


@law("operators.scatter_add", shapes=TABLES, most=2**27)
def test_scatter_add(check: Check, machine: Machine, rng: Rng, shape: tuple[int, int, int]) -> None:
    """Compares rows added by id: integers exactly, floats within the rounding of the terms that share an id."""
    rows, width, n = shape
    start = rng.integers(-8, 9, (rows, width)).astype(np.float32)
    whole = rng.integers(-8, 9, (n, width)).astype(np.float32)
    parts = families.normal(rng, n, width)
    for what, ids in _ids(rng, rows, n).items():
        text = f"{what} of {rows} x {width}"
        want = families.added(start, ids, whole)
        for where, (got,) in machine.run(operators.scatter_add, start, ids, whole):
            check.equal(f"integers, {text}{where}", got, want)
        exact = families.scatter_add(start, ids, parts)
        got = machine.first(operators.scatter_add, start, ids, parts)
        why = "5 u sqrt(k) for a row whose id occurs k times; rows without an id are exact"
        check.within(f"floats, {text}", got, exact.value, exact.allowance, allowed(why))
        if what == "one id" and n >= 1000:
            _compare_in_half_precision(check, machine, rng, np.ones_like(ids), width)


def _compare_in_half_precision(check: Check, machine: Machine, rng: Rng, ids: Array, width: int) -> None:
    """Compare rows that are added to one row a thousand times or more, as in the gradient of an embedding.

    A machine may add in bfloat16 itself, one row after the other, as XLA does on a CPU: a thousand ones then give 256,
    since 256 + 1 is 256. So each column has 120 times 1 and 60 times -1, at other places than the other columns, and
    else 0: every partial sum, in any order, is an integer of at most 128, which is exact in every format. Ones alone
    give at least 256 in any order of additions, because rounding is monotonic and 256 is exact.
    """
    n, totals = len(ids), {}
    signs = rng.permuted(np.repeat([1.0, -1.0, 0.0], (120, 60, n - 180))[:, None].repeat(width, 1), axis=0)
    for dtype in FLOATS[1:]:
        start = rng.integers(-8, 9, (3, width)).astype(dtype)
        got = machine.first(operators.scatter_add, start, ids, signs.astype(dtype))
        want = families.added(start.astype(np.float32), ids, signs.astype(np.float32)).astype(dtype)
        check.equal(f"{n} {dtype} rows of 1, 0 and -1 for one id", got, want)
        ones = machine.first(operators.scatter_add, 0 * start, ids, np.ones((n, width), dtype))[1]
        totals[str(dtype)] = float(ones.min())
        check.at_least(
            f"the sum of {n} {dtype} rows of ones for one id", float(ones.min()), 256.0, "exact in any order"
        )
    check.facts["ones_added_to_one_row"] = totals


@law("operators.reductions")
def test_reductions(check: Check, machine: Machine, rng: Rng) -> None:
    """Compares sums, means, maxima and their positions for 2^k - 1, 2^k and 2^k + 1 elements, along every axis.

    Margins of float sums are small, because the bound is for adding term by term, and machines add in blocks.
    """
    some = [2**k + off for k in at_level(check, POWERS) for off in (-1, 0, 1)]
    lengths = sorted({*LENGTHS, *some})

    ends = itertools.cycle((-1, 0, None))

    def along_one_axis(g: Rng) -> None:
        whole, parts = _integers(g, lengths[-1]), families.normal(g, lengths[-1])
        end = next(ends)
        _compare_reductions(check, machine, ("sum",), [whole[:n] for n in lengths])
        _compare_reductions(check, machine, ("sum",), [whole[:n].astype(np.int32) for n in some])
        _compare_reductions(check, machine, ("mean",), [whole[:n] for n in some])
        _compare_reductions(check, machine, ("max", "argmax"), [_with_peaks(parts[:n], 0, end) for n in some])
        sums = machine.first(operators.reductions(("sum",)), *(parts[:n] for n in lengths))
        for n, got in zip(lengths, sums, strict=True):
            wide = parts[:n].astype(np.float64)
            limit, why = bounds_derived.random_signs((wide**2).sum(), n), f"{n} terms of random signs"
            check.within(f"the sum of {n} elements", got, wide.sum(), limit, allowed(why))
        # Sums of columns, as in a bias gradient, and of rows, as in LayerNorm; of whole blocks, and of others.
        for shape in at_level(check, MATRICES):
            for axis in (0, 1):
                _compare_reductions(check, machine, ("sum",), [_integers(g, *shape)], axis, spread=False)

    for_all(check, along_one_axis, g=generators())
    if check.at("standard"):
        for shape, axis in (((), 0), ((3,), 0), ((3,), 1), ((2, 3), 1)):
            whole = [_integers(rng, *shape[:axis], n, *shape[axis:]) for n in LENGTHS]
            _compare_reductions(check, machine, ("mean",), whole, axis, spread=False)
            parts = [_with_peaks(families.normal(rng, *array.shape), axis) for array in whole]
            _compare_reductions(check, machine, ("max", "argmax")[: 2 - bool(shape)], parts, axis, spread=False)


def _integers(rng: Rng, *shape: int) -> Array:
    """Integers whose sums are exact in float32, in any order, because every partial sum of 2^18 is below 2^24."""
    return rng.integers(-64, 65, shape).astype(np.float32)


def _with_peaks(x: Array, axis: int, end: int | None = -1) -> Array:
    """A copy whose largest value along an axis is at index `end` or, in every second row, at 0."""
    if end is None:
        return x
    rows = np.moveaxis(x.copy(), axis, -1)
    peak = np.abs(x).max() + 1
    for number, place in enumerate(np.ndindex(rows.shape[:-1])):
        rows[(*place, end if number % 2 == 0 else 0)] = peak
    return np.ascontiguousarray(np.moveaxis(rows, -1, axis))


def _compare_reductions(
    check: Check, machine: Machine, names: tuple[str, ...], arrays: list[Array], axis: int = 0, *, spread: bool = True
) -> None:
    """Compare reductions of arrays over one axis: exactly, except means, which divide."""
    for where, outputs in machine.run(operators.reductions(names, axis), *arrays, spread=spread):
        for (x, name), got in zip(itertools.product(arrays, names), outputs, strict=True):
            what = f"the {name} of {x.dtype} {x.shape} over axis {axis}{where}"
            if name == "mean":
                want, why = x.mean(axis, dtype=np.float64), allowed("a division")
                check.within(what, got, want, DIVISION * U * np.abs(want), why, control=want + 1)
            else:
                want = np.asarray(operators.reduced(name, x, axis), got.dtype)
                check.equal(what, got, want, control=want + 1)
