"""Rung 3: rows read and added by id, and sums and maxima at the sizes where kernels change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ...core.check import Check
from ...oracle import bounds_derived
from ...oracle.bounds_derived import allowed
from ...oracle.draws import for_all, for_shapes, generators
from ..support import families, operators
from ..support.operators import Machine

# (V, D, ids): vocabularies that nothing divides (1009 and 30,011 are prime), the table of token types, odd widths.
TABLES = {
    "quick": ((1009, 48, 1031), (2, 33, 257)),
    "standard": ((30_522, 16, 4096),),
    "full": ((30_011, 256, 8192),),
}
# Elements beside 2^k: a warp, a block, more than one block, the largest that float32 counts of ones stay far within.
POWERS = {"quick": (5, 10, 17), "standard": (8, 13), "full": (3, 6, 11, 15, 20)}


def _ids(g: np.random.Generator, rows: int, n: int) -> dict[str, np.ndarray[Any, Any]]:
    """One id, two ids, the first and the last row, and all: none is out of range."""
    one, two = int(g.integers(rows)), g.integers(0, rows, 2)
    drawn = {
        "one id": np.full(n, one),
        "two ids": two[g.integers(0, 2, n)],
        "the ends": np.where(g.random(n) < 0.5, 0, rows - 1),
        "all ids": g.integers(0, rows, n),
    }
    return {what: ids.astype(np.int32) for what, ids in drawn.items()}


@pytest.mark.law("operators.gather")
def test_gather(check: Check, devices: list[Any]) -> None:
    """Rows of a table, bit for bit, by ids of 32 and 8 bits."""
    machine = Machine(check, devices)

    def holds(g: np.random.Generator, shape: tuple[int, int, int]) -> None:
        rows, width, n = shape
        table = g.integers(0, 2**31, (rows, width), dtype=np.uint32)
        for what, ids in _ids(g, rows, n).items():
            for where, (got,) in machine.run(operators.gather, table, ids):
                check.equal(f"{what} of {rows} x {width}{where}", got, table[ids])
        if shape == TABLES["quick"][0]:
            small = g.integers(0, 128, n).astype(np.int8)
            check.equal("ids of 8 bits", machine.first(operators.gather, table, small), table[small])

    for_shapes(check, TABLES, holds, most=2**27)


@pytest.mark.law("operators.scatter_add")
def test_scatter_add(check: Check, devices: list[Any]) -> None:
    """Rows added up by id: integers exactly, in any order; floats within the rounding of the terms that share an id."""
    machine = Machine(check, devices)

    def holds(g: np.random.Generator, shape: tuple[int, int, int]) -> None:
        rows, width, n = shape
        start = g.integers(-8, 9, (rows, width)).astype(np.float32)
        whole = g.integers(-8, 9, (n, width)).astype(np.float32)
        parts = families.normal(g, n, width)
        for what, ids in _ids(g, rows, n).items():
            text = f"{what} of {rows} x {width}"
            want = start.copy()
            np.add.at(want, ids, whole)
            for where, (got,) in machine.run(operators.scatter_add, start, ids, whole):
                check.equal(f"integers, {text}{where}", got, want)
            exact = families.scatter_add(start, ids, parts)
            got = machine.first(operators.scatter_add, start, ids, parts)
            why = "5 u sqrt(k) of a sum of k terms, k as often as the id occurs; other rows exactly"
            check.within(f"floats, {text}", got, exact.value, exact.allowance, allowed(why))

    for_shapes(check, TABLES, holds, most=2**27)


@pytest.mark.law("operators.reductions")
def test_reductions(check: Check, devices: list[Any]) -> None:
    """Sums, maxima and their places, of 2^k - 1, 2^k and 2^k + 1 elements, along rows and along columns.

    Margins of the float sums are small: the bound is of one term after the other, and machines add many at a time.
    """
    machine = Machine(check, devices)
    powers = sorted(k for level, several in POWERS.items() if check.at(level) for k in several)
    sizes = [2**k + off for k in powers for off in (-1, 0, 1)]
    formula = operators.reductions(tuple(sizes))

    def holds(g: np.random.Generator) -> None:
        n = sizes[-1]
        # Below 2^24 every partial sum of these is exact in float32, in any order.
        whole = g.integers(-64, 65, n).astype(np.int32)
        parts = families.normal(g, n)
        for where, found in machine.run(formula, whole.astype(np.float32), whole, parts):
            for i, size in enumerate(sizes):
                as_float, as_int, top, place, total = (found[5 * i + j] for j in range(5))
                what = f"of {size} elements{where}"
                check.same(f"the sum of float integers {what}", float(as_float), float(whole[:size].sum()))
                check.same(f"the sum of integers {what}", int(as_int), int(whole[:size].sum()))
                check.same(f"the maximum {what}", float(top), float(parts[:size].max()))
                check.same(f"its place {what}", int(place), int(parts[:size].argmax()))
                wide = parts[:size].astype(np.float64)
                limit = bounds_derived.random_signs((wide**2).sum(), size)
                check.within(f"the sum {what}", total, wide.sum(), limit, allowed(f"{size} terms of random signs"))
        _by_axis(check, machine, g)

    for_all(check, holds, g=generators())


def _by_axis(check: Check, machine: Machine, g: np.random.Generator) -> None:
    """Columns as in a bias gradient, rows as in LayerNorm: sizes that are whole blocks, and that are not."""
    shapes = ((1024, 256), (513, 97)) + (((4096, 768), (1000, 1500)) if check.at("standard") else ())
    for shape in shapes:
        x = g.integers(-64, 65, shape).astype(np.float32)
        for axis, got in enumerate(machine.first(operators.sums_by_axis, x)):
            check.equal(f"sums of {shape[0]} x {shape[1]} over axis {axis}", got, x.sum(axis=axis, dtype=np.float32))
