"""The smallest error that a check sees: bisected, and known by hand for these."""

from __future__ import annotations

import numpy as np
import pytest
from sftref.conformance.core.check import Check
from sftref.conformance.core.comparison import Bound
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trainers import NumpyTrainer
from sftref.conformance.faults.trial import ask

pytestmark = pytest.mark.jax

BOUND = Bound(1e-3, 1e-4, "by hand")
VALUES = np.array([1.0, -2.0, 4.0, -8.0], np.float32)


def check() -> Check:
    return Check(laws()["operators.tanh"], "quick", 0)


def near(value: float) -> object:
    """As exact as the bisection: a step of a twentieth in the logarithm to the base 2, and one of rounding."""
    return pytest.approx(value, rel=0.04)


def test_all_is_the_bound_and_an_element_is_its_share_of_the_norm() -> None:
    made = check()
    made.close("a", VALUES, VALUES, BOUND)
    [found] = made.floors.found().values()
    assert found["all"] == found["tensor"] == near(1e-3)
    # The one of median size is 4: off by e of itself it moves the norm by 4 e of sqrt(85).
    assert found["element"] == near(1e-3 * np.sqrt(85) / 4)
    assert (found["noise"], found["least_sensitive"]) == (0.0, "a")


def test_the_least_and_the_most_sensitive_comparison_are_kept() -> None:
    made = check()
    for what, value in (("coarse", 1e-2), ("fine", 1e-4), ("middle", 1e-3)):
        made.close(what, VALUES * np.float32(1 + 2.0**-16), VALUES, Bound(value, 0.0, ""))
    [found] = made.floors.found().values()
    # What is there already, 1.5e-5, leaves that much less for the error injected.
    assert (found["all"], found["tensor"]) == (near(1e-4 - 2.0**-16), near(1e-2))
    assert (found["noise"], found["least_sensitive"]) == (pytest.approx(2.0**-16), "coarse")


def test_allowances_count_element_by_element() -> None:
    made = check()
    made.within("a", VALUES, VALUES, np.array([0.1, 0.1, 1.0, 8.0]), Bound(1.0, 0.1, ""))
    [found] = made.floors.found().values()
    assert found["all"] == near(0.1 / 2)
    assert found["element"] == near(1.0 / 4)


def test_trees_name_the_leaf_and_say_what_is_smaller_than_its_bound() -> None:
    made = check()
    want = {"large": VALUES.astype(np.float64), "zero": np.array([1e-9])}
    made.tree("gradient", want, want, dict.fromkeys(want, BOUND))
    [found] = made.floors.found().values()
    assert found["tensor"] == near(1e-3 / np.sqrt(85))
    assert found["least_sensitive"] == "gradient large"
    made.finish()
    assert made.facts["unseen"] == ["gradient zero"]


@pytest.mark.parametrize(("dtype", "spacing"), [("float32", 2.0**-23), ("float16", 2.0**-10), ("bfloat16", 2.0**-7)])
def test_the_same_bits_see_the_next_number(dtype: str, spacing: float) -> None:
    made = check()
    values = np.arange(5).astype(dtype)
    made.equal("a", values, values)
    made.equal("whole", np.arange(5), np.arange(5))
    assert made.floors.found() == {dtype: {"all": spacing, "tensor": spacing, "element": spacing, "noise": 0.0}}


def test_an_element_is_one_that_is_not_zero() -> None:
    made = check()
    values = np.array([0.0, 0.0, 0.0, 2.0])
    made.close("a", values, values, BOUND)
    assert made.floors.found()["float64"]["element"] == near(1e-3)


def test_infinities_are_left_as_they_are() -> None:
    made = check()
    values = np.array([np.inf, 1.0, -1.0, np.nan])
    made.close("a", values, values, BOUND)
    assert made.floors.found()["float64"]["all"] == near(1e-3)


def test_only_what_is_zero_but_for_rounding_is_out_of_sight_of_a_gradient_law() -> None:
    record = ask(laws()["step.gradients"], {"subject": NumpyTrainer()}, Settings(level="quick"))
    assert record.status == "pass"
    assert {name.rpartition("layer.")[2][2:] for name in record.facts["unseen"]} == {"attention.self.key.bias"}
    assert record.facts["floor"]["float64"]["all"] < 1e-5
    # Rounding is most where the embeddings' mean is large beside their deviation.
    assert "a large mean" in record.facts["floor"]["float64"]["least_sensitive"]
    assert record.facts["floor"]["float64"]["tensor"] < 0.02
