"""Rung 3: rows read and added by id; sums and maxima at sizes where kernels change."""

from typing import Any

import numpy as np

from ...core.check import Check
from ...oracle import bounds_derived
from ...oracle.bounds_derived import allowed
from ..support import families, operators
from ..support.operators import Machine
from ..support.running import at_level, law

# (V, D, number of ids): prime vocabulary sizes (1009 and 30,011), the table of the two token types, odd widths.
TABLES = {"quick": ((1009, 48, 1031), (2, 33, 257)), "standard": ((30_522, 16, 4096),), "full": ((30_011, 256, 8192),)}
# k for reductions of 2^k elements: a warp, a block, several blocks; at most 2^20, so that sums of integers are exact.
POWERS = {"quick": (5, 10, 17), "standard": (8, 13), "full": (3, 6, 11, 15, 20)}
MATRICES = {"quick": ((1024, 256), (513, 97)), "standard": ((4096, 768), (1000, 1500))}


def _ids(rng: np.random.Generator, rows: int, n: int) -> dict[str, np.ndarray[Any, Any]]:
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
def test_gather(check: Check, machine: Machine, rng: np.random.Generator, shape: tuple[int, int, int]) -> None:
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
def test_scatter_add(check: Check, machine: Machine, rng: np.random.Generator, shape: tuple[int, int, int]) -> None:
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


@law("operators.reductions", draws=True)
def test_reductions(check: Check, machine: Machine, rng: np.random.Generator) -> None:
    """Compares sums, maxima and their positions, for 2^k - 1, 2^k and 2^k + 1 elements, and along two axes.

    Margins of float sums are small, because the bound is for adding term by term, and machines add in blocks.
    """
    sizes = [2**k + off for k in sorted(at_level(check, POWERS)) for off in (-1, 0, 1)]
    n = sizes[-1]
    # Sums of these integers are exact in float32, in any order, if every partial sum is below 2^24.
    whole = rng.integers(-64, 65, n).astype(np.int32)
    parts = families.normal(rng, n)
    for where, outputs in machine.run(operators.reductions(tuple(sizes)), whole.astype(np.float32), whole, parts):
        for i, size in enumerate(sizes):
            as_float, as_int, top, place, total = (outputs[5 * i + j] for j in range(5))
            what = f"of {size} elements{where}"
            check.same(f"the sum of float integers {what}", float(as_float), float(whole[:size].sum()))
            check.same(f"the sum of integers {what}", int(as_int), int(whole[:size].sum()))
            check.same(f"the maximum {what}", float(top), float(parts[:size].max()))
            check.same(f"its place {what}", int(place), int(parts[:size].argmax()))
            wide = parts[:size].astype(np.float64)
            limit = bounds_derived.random_signs((wide**2).sum(), size)
            check.within(f"the sum {what}", total, wide.sum(), limit, allowed(f"{size} terms of random signs"))
    # Sums of columns, as in a bias gradient, and of rows, as in LayerNorm; sizes that fill whole blocks, and others.
    for shape in at_level(check, MATRICES):
        x = rng.integers(-64, 65, shape).astype(np.float32)
        for axis, got in enumerate(machine.first(operators.sums_by_axis, x)):
            check.equal(f"sums of {shape[0]} x {shape[1]} over axis {axis}", got, x.sum(axis=axis, dtype=np.float32))
