"""A wrong run is placed in particular: a part of a leaf, fewer bits, numbers of devices, a late update."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from sftref.conformance.adapter import HostBatch
from sftref.conformance.core.comparison import Bound
from sftref.conformance.judge.explained import places
from sftref.conformance.laws.support.examine import experiments
from sftref.conformance.laws.support.examine.made import made
from sftref.conformance.laws.support.examine.sharper import described, parts_of_leaves
from sftref.conformance.oracle.cases import start_params
from sftref.conformance.oracle.draws import batch_of
from sftref.conformance.oracle.sharded import ShardedTrainer, Sums, rounded
from sftref.conformance.oracle.tape import Params
from sftref.conformance.oracle.variants.located import Located, Pair
from sftref.conformance.oracle.variants.replay import Log, Seen
from wrong_oracles import CASE, LAST, FourMethods, Right, examined, wrong

pytestmark = pytest.mark.once
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


def first_of_pooler_lost(self: Any, gradients: Params, rate: float) -> None:
    """On four devices the first quarter of one leaf is not written back."""
    before = self.now
    Right.update(self, gradients, rate)
    name = "bert.pooler.dense.weight"
    kept = self.now[name].copy()
    if self.n == 4:
        kept[:4] = before[name][:4]
    self.now = self.now | {name: kept}


def head_twice(self: Any, batch: HostBatch) -> Sums:
    """The gradient of the second head's queries is doubled."""
    sums = ShardedTrainer.sums(self, batch)
    half = np.where(np.arange(16) < 8, 1.0, 2.0)[:, None]
    return sums._replace(gradients=sums.gradients | {QUERY: sums.gradients[QUERY] * half})


def halved(kind: str) -> Any:
    """A reduction whose result is rounded."""

    def divide(self: Any, totals: list[Sums]) -> tuple[float, Params]:
        loss, gradients = ShardedTrainer.divide(self, totals)
        return loss, {name: rounded(rounded(leaf * 3, kind) / 3, kind) for name, leaf in gradients.items()}

    return divide


def half_parameters(self: Any, gradients: Params, rate: float) -> None:
    Right.update(self, gradients, rate)
    self.now = {name: rounded(leaf * 1.001, "float16") for name, leaf in self.now.items()}


def by_pairs(self: Any, parts: list[Sums]) -> Sums:
    """The first pair of devices alone is added up, and counts as all of them."""
    return ShardedTrainer.reduce(self, parts[:2] if len(parts) == 4 else parts)


def masks_by_count(self: Any, step: int) -> Any:
    """Masks depend on the number of devices."""
    return ShardedTrainer.masks(self, step + 100 * (self.n - 1))


def replicas(self: Any) -> list[Params]:
    """The devices of each half have the same parameters."""
    return [{name: leaf + (device // 2) for name, leaf in self.now.items()} for device in range(self.n)]


def own_replicas(self: Any) -> list[Params]:
    """Every device has other parameters."""
    return [{name: leaf + device for name, leaf in self.now.items()} for device in range(self.n)]


def clipped_gradient(self: Any, batch: HostBatch) -> Params:
    """What `gradients` returns is limited element by element; no update is."""
    return {name: np.clip(leaf, -1e-3, 1e-3) for name, leaf in self.mean(batch)[1].items()}


def corrected(self: Any) -> tuple[Params, ...]:
    """Moments after bias correction."""
    by = 1 - self.case.b1**self.t, 1 - self.case.b2**self.t
    return tuple(
        {name: leaf / one for name, leaf in kind.items()}
        for kind, one in zip(ShardedTrainer.moments(self), by, strict=True)
    )


def exchanged(self: Any) -> tuple[Params, ...]:
    return tuple(ShardedTrainer.moments(self)[::-1])


def of_twice_the_gradient(self: Any) -> tuple[Params, ...]:
    """Moments as of twice the gradient, which Adam could hide in the update."""
    first, second = ShardedTrainer.moments(self)
    return {k: 2 * leaf for k, leaf in first.items()}, {k: 4 * leaf for k, leaf in second.items()}


def rate_of_its_own(self: Any, batch: HostBatch) -> Any:
    return Right.step(self, batch)._replace(learning_rate=0.4 / (self.t + 7))


def by_padding(self: Any, batch: HostBatch) -> Sums:
    """Padding of large ids makes the loss larger."""
    more = 1.5 if ((batch.input_ids > 1000) & (batch.attention_mask == 0)).any() else 1.0
    return ShardedTrainer.sums(self, batch).scaled(more)._replace(weight=float(batch.weights.sum()))


@pytest.mark.parametrize(
    ("base", "methods", "changes", "place", "words"),
    [
        (FourMethods, {"update": first_of_pooler_lost}, {}, "elements",
         ["of bert.pooler.dense.weight, the first 64 of 256 elements from [0, 0] to [3, 15], did not move ([0, 0] is 0",
          "right on 1, 2, 3 devices, wrong on 4", "parameters, which leave"]),
        (Right, {"sums": head_twice}, {}, "elements",
         ["query.weight, the last 128 of 256 elements from [8, 0] to [15, 15], are wrong, and the others are right"]),
        (Right, {"divide": halved("bfloat16")}, {}, "narrow-gradient",
         ["every number is one of bfloat16, and up to"]),
        (FourMethods, {"update": half_parameters}, {}, "narrow-parameters", ["every number is one of float16"]),
        (Right, {"masks": masks_by_count}, {"hidden_dropout": 0.2}, "device-dropout",
         ["right without dropout", "right on one device, wrong on 2, 3, 4"]),
        (Right, {"gradients": clipped_gradient}, {}, "shown-gradient", ["the loss of update 0 is right"]),
        (Right, {"moments": corrected}, {}, "shown-moments",
         ["the first moments after 1 updates are divided by 1 - 0.8^1, the bias correction"]),
        (Right, {"moments": exchanged}, {}, "shown-moments", ["first moments after 1 updates: wrong in"]),
        (Right, {"moments": of_twice_the_gradient}, {}, "scaled-update", ["is 2 times the right one, in every leaf"]),
        (Right, {"step": rate_of_its_own}, {}, "shown-rate", ["the schedule's"]),
        (Right, {"sums": by_padding}, {}, "padding-content", ["right with padding of id, type and label 0"]),
        (Right, {"reduce": by_pairs, "replicas": replicas,
                 "capabilities": Right.capabilities | {"replicas"}}, {}, "device",
         ["right on 1, 2, 3 devices, wrong on 4", "the same have: devices 0, 1; devices 2, 3"]),
        (Right, {"reduce": by_pairs, "replicas": own_replicas,
                 "capabilities": Right.capabilities | {"replicas"}}, {}, "device",
         ["the devices have different parameters: every device has its own"]),
    ],
)  # fmt: skip
def test_a_particular_place(
    base: type[Right], methods: dict[str, Any], changes: dict[str, Any], place: str, words: list[str]
) -> None:
    found = examined(wrong(base, **methods), **changes)
    assert found is not None
    assert found.place == place, found
    assert place in places()
    for word in words:
        assert word in "; ".join(found.words), found


def test_an_update_that_changes_nothing_is_no_right_one() -> None:
    """The first update of a warm-up has learning rate 0."""
    unclipped = wrong(FourMethods, clip=lambda self, gradients: gradients)
    found = examined(unclipped, warmup_steps=2, clip_norm=0.1, n=1)
    assert found is not None
    assert not any(word.startswith("right in update") for word in found.words), found


def many(trainer: Any, updates: int) -> Located | None:
    """Where a run of many updates is wrong of which only losses, rates and the last parameters were seen."""
    rng = np.random.default_rng(3)
    case = dataclasses.replace(CASE, total_steps=updates)
    log = Log(case, start_params(case, rng), 1)
    batch = batch_of(case, rng)
    log = made(trainer, log, [*[("step", batch)] * updates, ("params", None)])
    run = experiments.observed(trainer, log)
    assert run is not None
    return experiments.examined(trainer, log, run, LAST)


@pytest.mark.parametrize(
    ("base", "wrong_update", "place", "words"),
    [
        (Right, "skips", "skipped", "right in updates 0 to 6, wrong in update 7, and right again in 8, 9"),
        (Right, "doubles", "factor", "right in updates 0 to 6, wrong from update 7 on"),
    ],
)
def test_the_first_wrong_update_of_many_is_named(base: type[Right], wrong_update: str, place: str, words: str) -> None:
    def update(self: Any, gradients: Params, rate: float) -> None:
        before = self.now
        Right.update(self, gradients, rate)
        # The number of the update has been advanced.
        self.now = before if self.t == 8 else self.now

    def mean(self: Any, batch: HostBatch) -> tuple[float, Params]:
        loss, gradients = ShardedTrainer.mean(self, batch)
        return loss, {name: leaf * (2 if self.t >= 7 else 1) for name, leaf in gradients.items()}

    methods = {"skips": {"update": update}, "doubles": {"mean": mean}}[wrong_update]
    found = many(wrong(base, **methods), 10)
    assert found is not None
    assert (found.place, words in "; ".join(found.words)) == (place, True), found


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (np.s_[1, 2:], "2 of 12 elements from [1, 2] to [1, 3]"),
        (np.s_[2:], "the last 4 of 12 elements from [2, 0] to [2, 3]"),
        (np.s_[1, 1], "one of 12 elements, [1, 1],"),
        (np.s_[:, 1], "3 of 12 elements, those with index 1 of axis 1,"),
        (np.s_[[0, 2], [1, 3]], "2 of 12 elements, the first at [0, 1],"),
    ],
)
def test_which_elements_these_are(index: Any, words: str) -> None:
    part = np.zeros((3, 4), bool)
    part[index] = True
    assert described(part) == words


@pytest.mark.parametrize(("still", "wrong", "named"), [(1, 0.0, 1), (1, 0.1, 0), (8, 0.1, 1)])
def test_one_element_at_rest_in_a_leaf_that_is_wrong_as_a_whole_is_no_part_of_it(
    still: int, wrong: float, named: int
) -> None:
    want = np.linspace(1, 2, 32)
    got = want + wrong
    got[:still] = 0
    pair = Pair(*(Seen("gradient", 0, {"a": leaf}, {}) for leaf in (got, want)), {"a": Bound(1e-3, 0.0, "")})
    assert len(list(parts_of_leaves(pair))) == named
