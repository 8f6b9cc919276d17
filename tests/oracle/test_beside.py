"""The oracle beside a run judges each update alone, and its bounds allow what they say and no more."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from sftref.conformance.core.comparison import Bound
from sftref.conformance.oracle.bounds_measured import CLIPPED, FACTOR, Beside, Reference, Swing, stored
from sftref.conformance.oracle.cases import SMALL, start_params
from sftref.conformance.oracle.draws import batch_of
from sftref.conformance.oracle.model import value_and_gradient
from sftref.conformance.oracle.tape import Params
from sftref.conformance.oracle.updates import OracleTrainer

pytestmark = pytest.mark.once

CASE = dataclasses.replace(SMALL, precision="float64", clip_norm=0.5, eps=1.0, total_steps=9, warmup_steps=2)
UPDATES = 4


def margin(got: Params, want: Reference) -> float:
    """The largest error in units of its bound."""
    return max(
        float(np.linalg.norm(got[name] - leaf)) / want.bounds[name].value
        for name, leaf in want.want.items()
        if not name.endswith("key.bias")
    )


def run(more: float = 0.0, rate: float = 1.0, nudge: float = 0.0, clip_norm: float | None = 0.5) -> dict[str, float]:
    """Observable -> the largest margin of a run, with `more` in the norm that clips and a factor on each update.

    Before each update, parameters are moved by the relative length `nudge`.
    """
    rng = np.random.default_rng(3)
    case = dataclasses.replace(CASE, clip_norm=clip_norm)
    trainer, beside = OracleTrainer.start(case, start_params(case, rng)), Beside(case)
    margins = dict.fromkeys(("loss", "distance", "first", "second"), 0.0)
    for step in range(UPDATES):
        batch = batch_of(case, rng)
        trainer.params = {
            name: leaf * (1 + nudge * rng.normal(size=leaf.shape)) for name, leaf in trainer.params.items()
        }
        before = dict(trainer.params)
        want = beside.update(before, batch)
        loss, gradients = value_and_gradient(case, before, batch, step)
        trainer.apply(gradients, more)
        walked = {name: rate * (leaf - before[name]) for name, leaf in trainer.params.items()}
        got = {"loss": {"loss": np.array(loss)}, "distance": walked, "first": trainer.first, "second": trainer.second}
        margins |= {name: max(margins[name], margin(leaves, getattr(want, name))) for name, leaves in got.items()}
    return margins


def test_the_oracle_itself_is_right() -> None:
    assert max(run().values()) < 0.01


def test_an_update_is_judged_from_the_trainers_own_parameters() -> None:
    assert max(run(nudge=0.01).values()) < 0.01


def test_what_torch_adds_to_the_norm_is_right_and_more_is_not() -> None:
    assert max(run(more=CLIPPED).values()) <= 1
    tenfold = run(more=10 * CLIPPED)
    assert min(tenfold["first"], tenfold["second"], tenfold["distance"]) > 1
    assert max(run(more=CLIPPED, clip_norm=None).values()) < 0.01


@pytest.mark.parametrize(("off", "passes"), [(2.0**-24, True), (1e-5, False)])
def test_a_rate_in_float32_is_right_and_a_larger_error_is_not(off: float, passes: bool) -> None:
    assert (run(rate=1 + off)["distance"] <= 1) == passes


def test_an_element_whose_sign_may_be_noise_may_go_either_way() -> None:
    """Adam with a small epsilon makes a full step of it; in few draws no such element may change its sign."""
    case = dataclasses.replace(SMALL, eps=1e-8, clip_norm=None, learning_rate=0.01, warmup_steps=0)
    exact, start = {"leaf": np.array([3e-6, 1.0])}, {"leaf": np.zeros(2)}
    right = OracleTrainer.start(case, start)
    right.apply(exact)
    distance = Reference(right.params, {"leaf": Bound(1e-7, 1e-7 / FACTOR, "measured")})
    bounds = []
    for noise in (1e-9, 1e-6):
        swing = Swing(case, start)
        swing.apply([exact, *({"leaf": exact["leaf"] + noise * sign} for sign in (-1, 1, 1, -1))])
        bounds.append(swing.widened(distance, right.params).bounds["leaf"].value)
    assert bounds[0] < 0.01 * case.learning_rate
    assert 1.9 * case.learning_rate < bounds[1] < 2.1 * case.learning_rate


def test_noise_of_many_updates_adds_up_as_independent_noise() -> None:
    """With one sign for all updates, bounds of runs of 50 updates were up to 1.9 times as large."""
    case = dataclasses.replace(SMALL, eps=1.0, clip_norm=None, warmup_steps=0)
    exact, start, noise = {"leaf": np.full(400, 0.1)}, {"leaf": np.zeros(400)}, 1e-3
    swing, right, one_sign = Swing(case, start), OracleTrainer.start(case, start), OracleTrainer.start(case, start)
    for _ in range(16):
        swing.apply([exact, {"leaf": exact["leaf"] + noise}, {"leaf": exact["leaf"] - noise}])
        right.apply(exact)
        one_sign.apply({"leaf": exact["leaf"] + FACTOR * noise})
    widened = swing.widened(Reference(right.params, {"leaf": Bound(0.0, 0.0, "nothing")}), right.params)
    coherent = float(np.linalg.norm(one_sign.params["leaf"] - right.params["leaf"]))
    assert 0.1 * coherent < widened.bounds["leaf"].value < 0.5 * coherent


@pytest.mark.parametrize("b2", [0.9, 0.98, 0.999, 0.9999])
def test_corrections_in_float32_are_right(b2: float) -> None:
    """Adam's 1 - b^t in float32 errs by 1.3e-5 of itself with b = 0.999, and scales a whole update."""
    case = dataclasses.replace(SMALL, b1=0.9, b2=b2)
    distance = Reference({"leaf": np.ones(1)}, {"leaf": Bound(0.0, 0.0, "nothing")})
    bound = stored(case, {"leaf": np.zeros(1)}, distance, 1).bounds["leaf"].value

    def corrections(number: type[np.floating[Any]], t: int) -> float:
        first, second = (number(1) - number(b) ** number(t) for b in (case.b1, b2))
        return float(np.sqrt(second) / first)

    errors = [abs(corrections(np.float32, t) / corrections(np.float64, t) - 1) for t in range(1, 100)]
    assert max(errors) <= bound <= 1e3 * max(errors)
