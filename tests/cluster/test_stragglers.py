"""Slow hosts of a cluster: a tenth slower is named, a right host is not, whatever noise all of them share."""

import jax
import numpy as np
import pytest
from sftref.conformance.cluster.speed import workload
from sftref.conformance.cluster.speed.stragglers import BLOCKS, LIMIT, MATTERS, stragglers, summary

pytestmark = pytest.mark.once


def times(processes: int, seed: int, *, slow: int | None = None, noise: float = 0.03) -> dict[int, list[float]]:
    """Times with skewed noise of each process, a drift that all share, and some that take twice as long."""
    rng = np.random.default_rng(seed)
    drift = np.exp(np.cumsum(rng.normal(0, 0.05, BLOCKS)))
    values = 0.01 * drift * (1 + rng.exponential(noise, (processes, BLOCKS)))
    values *= rng.choice([1.0, 2.0], values.shape, p=[0.95, 0.05])
    values *= 1 + rng.normal(0, 0.005, (processes, 1))  # right hosts differ, too
    if slow is not None:
        values[slow] *= 1 + MATTERS
    return dict(enumerate(values.tolist()))


def test_a_slower_process_is_named_in_95_of_100_trials_and_a_right_one_in_none() -> None:
    named = [{one.process for one in stragglers({"compute": times(4, seed, slow=2)})} for seed in range(100)]
    assert sum(found == {2} for found in named) >= 95
    assert not [seed for seed in range(100) if stragglers({"compute": times(4, 1000 + seed)})]


def test_the_result_has_the_ratio_and_its_interval() -> None:
    [one] = stragglers({"compute": times(4, 1, slow=3)})
    assert (one.process, one.what, one.samples) == (3, "compute", BLOCKS)
    assert LIMIT < one.low < one.ratio < one.high
    assert one.low < 1 + MATTERS < one.high
    assert set(one.to_json()) == {"process", "what", "ratio", "low", "high", "samples"}


def test_of_two_processes_the_slower_one_is_named() -> None:
    assert [one.process for one in stragglers({"compute": times(2, 5, slow=0, noise=0.01)})] == [0]


def test_other_kinds_of_devices_are_not_compared() -> None:
    """Two older devices beside two new ones are no stragglers; a slow one among its own kind is."""
    values = times(4, 3) | {
        4: (1.5 * np.asarray(times(1, 4)[0])).tolist(),
        5: (1.5 * np.asarray(times(1, 4)[0])).tolist(),
    }
    kinds = dict.fromkeys(range(4), "new") | {4: "old", 5: "old"}
    assert {one.process for one in stragglers({"compute": values})} == {4, 5}
    assert stragglers({"compute": values}, kinds) == []
    values[5] = (1.2 * np.asarray(values[4])).tolist()
    assert [one.process for one in stragglers({"compute": values}, kinds)] == [5]


@pytest.mark.parametrize("bad", [[0.01] * (BLOCKS - 1), [], [0.01] * (BLOCKS - 1) + [float("nan")], [0.0] * BLOCKS])
def test_what_cannot_be_compared_is_left_out(bad: list[float]) -> None:
    assert stragglers({"compute": times(4, 1) | {4: bad}}) == []
    assert stragglers({"compute": {0: bad, 1: [0.01] * BLOCKS}}) == []
    assert stragglers({}) == []


def test_a_process_that_is_slow_for_a_third_of_the_time_is_not_named() -> None:
    """Noise that lasts for seconds on one host is no slow host."""
    values = times(4, 7, noise=0.01)
    values[1] = [value * (1.5 if block < BLOCKS // 3 else 1.0) for block, value in enumerate(values[1])]
    assert stragglers({"compute": values}) == []


def test_one_of_1024_hosts_is_named() -> None:
    several = {what: times(1024, seed, slow=700 if what == "memory" else None) for seed, what in
               enumerate(("compute", "memory", "copy"))}  # fmt: skip
    assert [(one.process, one.what) for one in stragglers(several)] == [(700, "memory")]


def test_the_summary_has_quartiles_and_gaps() -> None:
    assert summary({"compute": {0: [1.0, 2.0, 3.0], 2: []}}, 3) == {"compute": [[2.0, 1.5, 2.5], None, None]}


def test_each_measurement_has_a_time_for_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    found = workload.measure(jax.local_devices(), 0.0)
    assert set(found) == {"compute"}
    assert len(found["compute"]) == BLOCKS
    assert min(found["compute"]) > 0
    monkeypatch.setattr(workload, "repeat", lambda program: 7.0)  # as a seeded fault does
    assert workload.measure(jax.local_devices(), 0.0) == {"compute": [7.0] * BLOCKS}
