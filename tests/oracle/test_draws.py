"""Hypothesis draws the same values for a seed in any process; the error that ends a draw keeps its message."""

import subprocess
import sys
from pathlib import Path

import pytest
from sftref.conformance.core.check import Check
from sftref.conformance.core.law import laws
from sftref.conformance.oracle.draws import for_all, generators, permutations

DRAWN = """
from sftref.conformance.core.check import Check
from sftref.conformance.core.law import laws
from sftref.conformance.oracle.draws import for_all, generators, permutations
values = []
for seed in range(20):
    check = Check(laws()["operators.gelu"], "full", seed)
    holds = lambda g, order: values.append((int(g.integers(2**32)), *order))
    for_all(check, holds, g=generators(), order=permutations(5))
print(hash(tuple(values)))
"""


def test_values_do_not_depend_on_what_else_is_imported(tmp_path: Path) -> None:
    """Hypothesis also draws integers that occur in loaded local modules, so another module could change the values."""
    (tmp_path / "theirs.py").write_text("NUMBERS = " + repr([7**n for n in range(2, 12)]))
    seen = {
        subprocess.run(
            [sys.executable, "-c", head + DRAWN], check=True, capture_output=True, text=True, timeout=120, cwd=tmp_path
        ).stdout
        for head in ("", "import theirs")
    }
    assert len(seen) == 1


def test_seeds_and_values_differ() -> None:
    values: list[int] = []
    for seed in (0, 1):
        check = Check(laws()["operators.gelu"], "full", seed)
        for_all(check, lambda g: values.append(int(g.integers(2**32))), g=generators())
    # Every run begins with the simplest values, so a few are equal.
    assert len(set(values)) > 0.9 * len(values)


def test_permutations_hold_everything_once() -> None:
    orders: list[tuple[int, ...]] = []
    check = Check(laws()["operators.gelu"], "full", 0)
    for_all(check, lambda order: orders.append(tuple(order)), order=permutations(6))
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len(set(orders)) > 1


def test_the_message_of_a_deadline_is_kept() -> None:
    """A deadline raises pytest's failure, not an Exception; Hypothesis reruns it and wraps it in an empty error."""
    ends = iter([False, True])

    def holds(g: object) -> None:
        if next(ends, False):
            pytest.fail("no answer within 60 s")

    with pytest.raises(pytest.fail.Exception, match="no answer within 60 s"):
        for_all(Check(laws()["operators.gelu"], "quick", 0), holds, g=generators())
