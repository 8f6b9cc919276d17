"""Rung 3: what every family of operators must do: eager and compiled alike, special values where they belong."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from ...core.check import Check
from ...oracle.bounds_derived import allowed
from ...oracle.draws import for_all, generators
from ..support import operators
from ..support.families import FAMILIES, Args, Family
from ..support.operators import Machine


@pytest.mark.law("operators.eager_and_jit")
def test_eager_and_jit(check: Check, devices: list[Any]) -> None:
    """Each family one primitive at a time, and as one program."""
    machine = Machine(check, devices)

    def holds(g: np.random.Generator) -> None:
        for family in FAMILIES:
            args = family.draw(g)
            exact = family.exact(*args)
            eager = np.asarray(family.formula(*jax.device_put(args, machine.devices[0])))
            check.within(f"{family.name}, eager", eager, exact.value, exact.allowance, allowed("as compiled"))
            for where, (got,) in machine.run(family.formula, *args):
                check.within(
                    f"{family.name}, compiled{where}", got, exact.value, exact.allowance, allowed("its own law's")
                )
                if not exact.allowance.any():
                    check.equal(f"{family.name}, eager and compiled{where}", eager, got)

    for_all(check, holds, g=generators())


def _spoilt(args: Args, row: int, value: float) -> Args:
    """The first argument with one element of one row replaced."""
    first = args[0].copy()
    first[(row, *(0,) * (first.ndim - 1))] = value
    return (first, *args[1:])


def _asks_nan(check: Check, machine: Machine, family: Family, args: Args, row: int) -> None:
    """A NaN in a row: in the rows that depend on it there is one, and no bit of any other changes."""
    clean = machine.first(family.formula, *args)
    touched = np.array([row]) if family.rows is None else family.rows(args, row)
    got = machine.first(family.formula, *_spoilt(args, row, np.nan))
    others = np.setdiff1d(np.arange(len(clean)), touched)
    check.same(
        f"{family.name}: NaN in row {row} stays", [bool(np.isnan(got[i]).any()) for i in touched], [True] * len(touched)
    )
    check.equal(f"{family.name}: rows beside the NaN", got[others], clean[others])


@pytest.mark.law("operators.special_values")
def test_special_values(check: Check, devices: list[Any]) -> None:
    """NaN in is NaN out, in its own row only; infinities give what IEEE 754 and the limit of each function give."""
    machine = Machine(check, devices)

    def holds(g: np.random.Generator) -> None:
        for family in FAMILIES:
            args = family.draw(g)
            # A row that is read: an id in use, and not the last example of attention, which is masked everywhere.
            row = int(args[1][0]) if family.rows is not None else int(g.integers(len(args[0]) - 1))
            _asks_nan(check, machine, family, args, row)

    for_all(check, holds, g=generators())
    inf, nan = np.float32(np.inf), np.float32(np.nan)
    x = np.zeros((9, 33), np.float32)
    x[0, 0], x[1, 0], x[2, :] = inf, -inf, -inf
    x[3, 0], x[3, 1] = inf, -inf
    tanh = machine.first(operators.tanh, x)
    check.equal("tanh of infinities", tanh, np.sign(x))
    p = machine.first(operators.softmax, x)
    rows = [bool(np.isnan(p[i]).any()) for i in range(5)]
    # exp(inf - inf) and exp(-inf - -inf) have no value; one -inf beside finite logits has probability 0.
    check.same(
        "softmax of rows with +inf, one -inf, all -inf, both, none: NaN in them", rows, [True, False, True, True, False]
    )
    check.same("softmax gives -inf the probability", float(p[1, 0]), 0.0)
    g = machine.first(operators.gelu, x)
    check.same("gelu of +inf", float(g[0, 0]), float(inf))
    w = np.zeros((48, 17), np.float32)
    w[0, :2] = 1, -1
    left = np.zeros((9, 48), np.float32)
    left[0, 0], left[1, 1] = inf, nan
    product = machine.first(operators.matmul, left, w)
    with np.errstate(invalid="ignore"):
        check.equal("a product with infinity", product[:1, :2], np.array([[inf, -inf]]))
    check.same("inf * 0 and NaN * 0 are NaN", bool(np.isnan(product[0, 2:]).all() and np.isnan(product[1]).all()), True)
    values = np.zeros(1025, np.float32)
    values[700] = nan
    found = machine.first(operators.reductions((1025,)), values, np.zeros(1025, np.int32), values)
    check.same("NaN in a sum and a maximum", [bool(np.isnan(found[i])) for i in (0, 2, 4)], [True] * 3)
