"""Detection floors, found by bisection: the values of these checks are known by hand."""

import numpy as np
import pytest
from sftref.conformance.core.check import Check
from sftref.conformance.core.comparison import Bound
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trainers import NumpyTrainer
from sftref.conformance.faults.trial import run_law

pytestmark = pytest.mark.jax

BOUND = Bound(1e-3, 1e-4, "by hand")
VALUES = np.array([1.0, -2.0, 4.0, -8.0], np.float32)


def check() -> Check:
    return Check(laws()["operators.tanh"], "quick", 0)


def near(value: float) -> object:
    """As exact as the bisection: 0.05 in log2, and rounding."""
    return pytest.approx(value, rel=0.04)


def test_all_is_the_bound_and_an_element_is_its_share_of_the_norm() -> None:
    made = check()
    made.close("a", VALUES, VALUES, BOUND)
    [floor] = made.floors.table().values()
    assert floor["all"] == floor["tensor"] == near(1e-3)
    # The element of median size is 4: an error of e changes the norm, sqrt(85), by 4 e.
    assert floor["element"] == near(1e-3 * np.sqrt(85) / 4)
    assert (floor["noise"], floor["least_sensitive"]) == (0.0, "a")


def test_the_least_and_the_most_sensitive_comparison_are_kept() -> None:
    made = check()
    for what, value in (("coarse", 1e-2), ("fine", 1e-4), ("middle", 1e-3)):
        made.close(what, VALUES * np.float32(1 + 2.0**-16), VALUES, Bound(value, 0.0, ""))
    [floor] = made.floors.table().values()
    # The error that is there already, 1.5e-5, leaves that much less for the injected one.
    assert (floor["all"], floor["tensor"]) == (near(1e-4 - 2.0**-16), near(1e-2))
    assert (floor["noise"], floor["least_sensitive"]) == (pytest.approx(2.0**-16), "coarse")


def test_allowances_count_element_by_element() -> None:
    made = check()
    made.within("a", VALUES, VALUES, np.array([0.1, 0.1, 1.0, 8.0]), Bound(1.0, 0.1, ""))
    [floor] = made.floors.table().values()
    assert floor["all"] == near(0.1 / 2)
    assert floor["element"] == near(1.0 / 4)


def test_trees_name_the_leaf_and_list_leaves_smaller_than_their_bound() -> None:
    made = check()
    want = {"large": VALUES.astype(np.float64), "zero": np.array([1e-9])}
    made.tree("gradient", want, want, dict.fromkeys(want, BOUND))
    [floor] = made.floors.table().values()
    assert floor["tensor"] == near(1e-3 / np.sqrt(85))
    assert floor["least_sensitive"] == "gradient large"
    made.finish()
    assert made.facts["unseen"] == ["gradient zero"]


@pytest.mark.parametrize(("dtype", "spacing"), [("float32", 2.0**-23), ("float16", 2.0**-10), ("bfloat16", 2.0**-7)])
def test_the_same_bits_see_the_next_number(dtype: str, spacing: float) -> None:
    made = check()
    values = np.arange(5).astype(dtype)
    made.equal("a", values, values)
    made.equal("whole", np.arange(5), np.arange(5))
    assert made.floors.table() == {dtype: {"all": spacing, "tensor": spacing, "element": spacing, "noise": 0.0}}


def test_an_element_is_one_that_is_not_zero() -> None:
    made = check()
    values = np.array([0.0, 0.0, 0.0, 2.0])
    made.close("a", values, values, BOUND)
    assert made.floors.table()["float64"]["element"] == near(1e-3)


def test_infinities_are_left_as_they_are() -> None:
    made = check()
    values = np.array([np.inf, 1.0, -1.0, np.nan])
    made.close("a", values, values, BOUND)
    assert made.floors.table()["float64"]["all"] == near(1e-3)


def test_a_gradient_law_sees_every_leaf_except_the_one_that_is_zero_up_to_rounding() -> None:
    record = run_law(laws()["step.gradients"], {"subject": NumpyTrainer()}, Settings(level="quick"))
    assert record.status == "pass"
    assert {name.rpartition("layer.")[2][2:] for name in record.facts["unseen"]} == {"attention.self.key.bias"}
    assert record.facts["floor"]["float64"]["all"] < 1e-5
    # Rounding is largest where the mean of the embeddings is much larger than their deviation.
    assert "a large mean" in record.facts["floor"]["float64"]["least_sensitive"]
    assert record.facts["floor"]["float64"]["tensor"] < 0.02
