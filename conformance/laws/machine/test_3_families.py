"""Rung 3, every family of operators: eager and compiled results agree; NaN and infinities appear where they must."""

import jax
import numpy as np

from ...core.check import Check
from ...oracle.bounds_derived import allowed
from ...oracle.draws import for_all, generators
from ..support import operators
from ..support.families import FAMILIES
from ..support.operators import Machine
from ..support.running import law


@law("operators.eager_and_jit", draws=True)
def test_eager_and_jit(check: Check, machine: Machine, rng: np.random.Generator) -> None:
    """Compares each family with float64, run eagerly (one primitive at a time) and as one compiled program."""
    for family in FAMILIES:
        args = family.draw(rng)
        exact = family.exact(*args)
        eager = np.asarray(family.formula(*jax.device_put(args, machine.devices[0])))
        check.within(f"{family.name}, eager", eager, exact.value, exact.allowance, allowed("as when compiled"))
        for where, (got,) in machine.run(family.formula, *args):
            what, why = f"{family.name}, compiled{where}", allowed("as in the operator's own law")
            check.within(what, got, exact.value, exact.allowance, why)
            if not exact.allowance.any():
                check.equal(f"{family.name}, eager and compiled{where}", eager, got)


@law("operators.special_values")
def test_special_values(check: Check, machine: Machine) -> None:
    """Compares results for NaN and infinite arguments with IEEE 754 and with each function's limit."""

    def compare(rng: np.random.Generator) -> None:
        for family in FAMILIES:
            args = family.draw(rng)
            # A row that the operator reads: the row of an id in use, and not attention's last example, which is masked.
            row = int(args[1][0]) if family.by_id else int(rng.integers(len(args[0]) - 1))
            touched = np.flatnonzero(args[1] == row) if family.by_id else np.array([row])
            clean = machine.first(family.formula, *args)
            first = args[0].copy()
            first[(row, *(0,) * (first.ndim - 1))] = np.nan
            got = machine.first(family.formula, first, *args[1:])
            # A NaN reaches the rows that depend on its row; all other rows keep their bits.
            nan = [bool(np.isnan(got[i]).any()) for i in touched]
            check.same(f"{family.name}: NaN in row {row} stays", nan, [True] * len(touched))
            others = np.setdiff1d(np.arange(len(clean)), touched)
            check.equal(f"{family.name}: rows beside the NaN", got[others], clean[others])

    for_all(check, compare, rng=generators())
    inf, nan = np.float32(np.inf), np.float32(np.nan)
    x = np.zeros((9, 33), np.float32)
    x[0, 0], x[1, 0], x[2, :] = inf, -inf, -inf
    x[3, 0], x[3, 1] = inf, -inf
    tanh = machine.first(operators.tanh, x)
    check.equal("tanh of infinities", tanh, np.sign(x))
    p = machine.first(operators.softmax, x)
    rows = [bool(np.isnan(p[i]).any()) for i in range(5)]
    # exp(inf - inf) and exp(-inf - -inf) are NaN; one -inf beside finite logits has probability 0.
    nan_rows = [True, False, True, True, False]
    check.same("softmax of rows with +inf, one -inf, all -inf, both, none: NaN in them", rows, nan_rows)
    check.same("softmax gives -inf the probability", float(p[1, 0]), 0.0)
    check.same("gelu of +inf", float(machine.first(operators.gelu, x)[0, 0]), float(inf))
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
    reduced = machine.first(operators.reductions(("sum", "mean", "max")), values)
    check.same("NaN in a sum, a mean and a maximum", [bool(np.isnan(value)) for value in reduced], [True] * 3)
