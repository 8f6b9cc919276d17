"""A wrong run beside the oracle's: where they part, which rows count how often, and how far each leaf moved."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from sftref.conformance.adapter import Case, HostBatch
from sftref.conformance.judge.explained import places
from sftref.conformance.laws.support.examine import confirming
from sftref.conformance.laws.support.examine.made import made
from sftref.conformance.oracle.cases import L, start_params
from sftref.conformance.oracle.draws import batch_of, rows_of
from sftref.conformance.oracle.model import Network
from sftref.conformance.oracle.sharded import ShardedTrainer, Sums, rounded
from sftref.conformance.oracle.tape import Params, Tape
from sftref.conformance.oracle.variants.located import Located
from sftref.conformance.oracle.variants.network import relu
from sftref.conformance.oracle.variants.replay import Log
from sftref.conformance.oracle.variants.table import variants
from wrong_oracles import CASE, LAST, FourMethods, Right, examined, nearly_right, wrong

pytestmark = pytest.mark.once

BIAS = "classifier.bias"
EARLIER = "all results are right for b1 = 0.8, total_steps = 6, of an earlier run"


def without_last(leaf: str) -> Any:
    """A reduction that loses the last device's part of a leaf."""

    def reduce(self: Any, parts: list[Sums]) -> Sums:
        if len(parts) > 1:
            gradients = parts[-1].gradients | {leaf: parts[-1].gradients[leaf] * 0}
            parts = [*parts[:-1], parts[-1]._replace(gradients=gradients)]
        return ShardedTrainer.reduce(self, parts)

    return reduce


def last_less(self: Any, parts: list[Sums]) -> Sums:
    """A reduction in which the last device counts 1e-2 less."""
    return ShardedTrainer.reduce(self, [*parts[:-1], parts[-1].scaled(0.99)] if len(parts) > 1 else parts)


def moving(ends: tuple[str, ...], by: float) -> Any:
    """An update in which these leaves move `by` times as far."""

    def update(self: Any, gradients: Params, rate: float) -> None:
        before = self.now
        Right.update(self, gradients, rate)
        self.now = {k: before[k] + by * (p - before[k]) if k.endswith(ends) else p for k, p in self.now.items()}

    return update


def decay_twice(self: Any, gradients: Params, rate: float) -> None:
    before = self.now
    Right.update(self, gradients, rate)
    more = rate * self.case.weight_decay
    self.now = {k: p - more * before[k] * self.decays(k) for k, p in self.now.items()}


def scaled_norms(self: Any, totals: list[Sums]) -> tuple[float, Params]:
    loss, gradients = ShardedTrainer.divide(self, totals)
    return loss, {k: g / self.n if "LayerNorm" in k else g for k, g in gradients.items()}


def last_micro_batch(self: Any, totals: list[Sums]) -> tuple[float, Params]:
    return ShardedTrainer.divide(self, totals)[0], totals[-1].mean().gradients


def head_twice(self: Any, name: str) -> bool:
    return name == BIAS or ShardedTrainer.decays(self, name)


@pytest.mark.parametrize("base", [pytest.param(Right, marks=pytest.mark.slow), FourMethods])
def test_a_right_run_has_no_place(base: type[Right]) -> None:
    found = examined(base())
    assert found is None or found.place == "history"


@pytest.mark.parametrize(
    ("trainer", "changes", "place", "words"),
    [
        (wrong(FourMethods, reduce=without_last(BIAS)), {}, "device", "device 3 do not count in classifier.bias"),
        (wrong(FourMethods, update=moving(("classifier.weight", BIAS), 10)), {}, "leaves", "moved 10 times"),
        (wrong(Right, update=decay_twice), {}, "decay", "the step is right, with 2 times the decay"),
        (wrong(FourMethods, decays=head_twice), {}, "decay", "classifier.bias: the step is right, with 1 times"),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                (wrong(Right, reduce=without_last(BIAS)), {}, "device", "device 3 do not count in class"),
                (wrong(Right, reduce=last_less), {}, "device", "right on one device"),
                (wrong(Right, divide=scaled_norms), {}, "reduction", "all rows count 0.25 times in bert"),
                (wrong(Right, divide=last_micro_batch), {"accumulate": 2}, "micro-batch", "without micro-batches"),
                (wrong(FourMethods, update=moving(("query.weight",), 0)), {}, "leaves", "weight: did not move"),
                (wrong(Right, update=moving((".weight", ".bias"), 2)), {}, "rate-applied", "leaves move 2, 2 times"),
                (wrong(Right, rate=lambda self: 0.01), {}, "schedule", "learning rates are 0.01, 0.01"),
            )
        ),
    ],
)  # fmt: skip
def test_what_a_wrong_run_shows(trainer: Any, changes: dict[str, Any], place: str, words: str) -> None:
    found = examined(trainer, **changes)
    assert found is not None
    assert (found.place, words in "; ".join(found.words)) == (place, True), found
    assert place in places()


def rounded_linear(self: Any, params: Params) -> Tape:
    """Products with operands of bfloat16."""
    tape = ShardedTrainer.tape(self, params)
    right = tape.linear
    tape.linear = lambda x, name: right(rounded(x), name)  # type: ignore[method-assign]
    return tape


def by_own_generator(self: Any, batch: HostBatch) -> Any:
    return ShardedTrainer.evaluate(self, batch) + np.random.default_rng().standard_normal((len(batch.weights), 1))


def weighted_at_random(self: Any, batch: HostBatch) -> Sums:
    return ShardedTrainer.sums(self, batch).scaled(np.random.default_rng().random())._replace(weight=1.0)


def kept_moments(self: Any, case: Case, params: Params, n_devices: int) -> None:
    """A start that keeps the moments of the run before."""
    before = getattr(self, "first", None), getattr(self, "second", None)
    ShardedTrainer.start(self, case, params, n_devices)
    self.first, self.second = (
        new if old is None else old for old, new in zip(before, (self.first, self.second), strict=True)
    )


@pytest.mark.parametrize(
    ("methods", "place"),
    [
        ({"start": kept_moments}, "left-over"),
        ({"tape": rounded_linear}, "rounding"),
        ({"evaluate": by_own_generator}, "random-evaluation"),
        ({"sums": weighted_at_random}, "random-run"),
    ],
)
def test_what_a_run_made_again_shows(methods: dict[str, Any], place: str) -> None:
    found = examined(wrong(Right, **methods), n=1)
    assert found is not None
    assert (found.place, place in places()) == (place, True), found


def last_block_lost(self: Any, batch: HostBatch) -> list[list[HostBatch]]:
    """The last of `accumulate` blocks of consecutive rows has the weight of its rows, and no gradient."""
    rows = np.arange(len(batch.weights))
    kept = rows < len(rows) - len(rows) // self.case.accumulate
    return [self.shards(rows_of(batch, rows[kept]))] if self.case.accumulate > 1 else [self.shards(batch)]


@pytest.mark.slow
def test_rows_of_a_lost_micro_batch_are_not_those_of_lost_devices() -> None:
    found = examined(wrong(Right, micro_batches=last_block_lost), accumulate=2)
    assert found is not None
    assert found.place.startswith("micro-batch"), found
    assert "block of consecutive rows 1 do not count" in "; ".join(found.words)


def rolled(self: Any, batch: HostBatch) -> Sums:
    return ShardedTrainer.sums(self, batch._replace(labels=np.roll(batch.labels, 3)))


def without_last_class(self: Any, logits: Any, batch: HostBatch) -> Any:
    most = logits.shape[1] - 1
    labels = np.minimum(batch.labels, most - 1)
    losses, slopes = ShardedTrainer.losses(self, logits[:, :most], batch._replace(labels=labels))
    return losses, np.concatenate([slopes, np.zeros((len(slopes), 1))], axis=1)


def by_class(self: Any, logits: Any, batch: HostBatch) -> Any:
    losses, slopes = ShardedTrainer.losses(self, logits, batch)
    return losses * (1 + batch.labels), slopes * (1 + batch.labels)[:, None]


def shorter(self: Any, batch: HostBatch) -> Sums:
    """Training sees eight tokens."""
    return ShardedTrainer.sums(self, batch._replace(attention_mask=batch.attention_mask * (np.arange(L) < 8)))


@pytest.mark.parametrize(
    ("base", "methods", "place", "words"),
    [
        (FourMethods, {"sums": rolled}, "other-labels", "the gradient is that of other labels: row 1 has"),
        (FourMethods, {"losses": without_last_class}, "slopes", "the loss of row 0, of label 0, has the derivative ["),
        (FourMethods, {"losses": nearly_right}, "slopes", "the loss of update 0 is wrong too"),
        (Right, {"losses": by_class}, "class-weights", "the rows of label 1 count 2 times"),
        (Right, {"sums": shorter}, "training-network", "the loss of update 0 is wrong too"),
        (Right, {"update": moving((".weight", ".bias"), 0)}, "skipped", "all leaves move 0, 0 times as far"),
        (Right, {"params": lambda self: {k: x / 2 for k, x in self.now.items()}}, "shown-parameters", ""),
    ],
)
def test_a_wrong_gradient_is_that_of_other_slopes_or_of_another_network(
    base: type[Right], methods: dict[str, Any], place: str, words: str
) -> None:
    found = examined(wrong(base, **methods), n=1)
    assert found is not None
    assert (found.place, words in "; ".join(found.words)) == (place, True), found
    assert place in places()


class Stale(FourMethods):
    """A trainer whose second run has the constants of the first."""

    def start(self, case: Case, params: Params, n_devices: int) -> None:
        self.constants = getattr(self, "constants", case)
        super().start(self.constants, params, n_devices)


def test_constants_of_an_earlier_run_are_named() -> None:
    trainer, rng = Stale(), np.random.default_rng(3)
    params, batch = start_params(CASE, rng), batch_of(CASE, rng)
    for case in (CASE, dataclasses.replace(CASE, b1=0.5, total_steps=9)):
        log = made(trainer, Log(case, params, 1), [("step", batch), ("step", batch), ("params", None)])
    found = confirming.as_earlier([CASE], log)
    assert found == Located("earlier-constants", (EARLIER,))
    assert confirming.as_earlier([dataclasses.replace(CASE, b1=0.7), log.case], log) is None


def test_a_call_that_changes_the_state_is_named() -> None:
    def gradients(self: Any, batch: HostBatch) -> Params:
        self.t += 1
        return self.mean(batch)[1]

    found = examined(wrong(Right, gradients=gradients), n=1)
    assert found is not None
    assert found.place == "observation"
    assert "right if `evaluate`, `params`, `moments` is called alone" in found.words[0]
    assert found.words[0].endswith("and wrong if `gradients` is")


def test_what_only_a_call_shows_is_not_blamed_on_the_call() -> None:
    """Wrong parameters are shown after an update, and right ones at the end: no call changes the state."""

    def params(self: Any) -> Params:
        return {name: leaf * (1.01 if self.t == 1 else 1.0) for name, leaf in Right.params(self).items()}

    found = examined(wrong(Right, params=params), n=1)
    assert found is not None
    assert found.place == "shown-parameters"


def test_the_part_of_a_wrong_forward_pass_is_named() -> None:
    def tape(self: Any, params: Params) -> Tape:
        tape = ShardedTrainer.tape(self, params)
        tape.gelu = relu  # type: ignore[method-assign]
        return tape

    found = examined(wrong(FourMethods, tape=tape), n=1)
    assert found is not None
    assert found.place == "forward"
    assert "right without the feed-forward layers" in "; ".join(found.words)


@pytest.mark.parametrize(
    ("second", "words"),
    [(True, "at least one of these is wrong: the look-up of embeddings (ids"), (False, "is wrong: LayerNorms, their")],
)
def test_what_reads_another_token_is_told_from_a_layer_norm(second: bool, words: str) -> None:
    class ThirdToken(Network):
        def first(self, x: Any) -> Any:
            return x[:, 2:3], lambda dy: np.concatenate([0 * x[:, :2], dy, 0 * x[:, 3:]], axis=1)

    def tape(self: Any, params: Params) -> Tape:
        return ShardedTrainer.tape(
            self, {k: p**2 if "LayerNorm.weight" in k and not second else p for k, p in params.items()}
        )

    def network(self: Any, batch: HostBatch, masks: Any) -> Network:
        right = ShardedTrainer.network(self, batch, masks)
        if second:
            right.__class__ = ThirdToken
        return right

    found = examined(wrong(FourMethods, tape=tape, network=network), n=1)
    assert found is not None
    assert words in "; ".join(found.words), found


def test_an_explanation_must_hold_on_one_device_too() -> None:
    def divide(self: Any, totals: list[Sums]) -> tuple[float, Params]:
        means = [total.mean() for total in totals]
        return float(np.mean([one.loss for one in means])), {
            name: np.mean([one.gradients[name] for one in means], axis=0) for name in means[0].gradients
        }

    trainer, rng = wrong(FourMethods, divide=divide), np.random.default_rng(3)
    case = dataclasses.replace(CASE, accumulate=2)
    log = Log(case, start_params(case, rng), 2)
    log = made(trainer, log, [("step", batch_of(case, rng, real=13)), ("params", None)])
    known = [(variants()[name],) for name in ("mean-of-micro-batches", "mean-of-means")]
    assert confirming.confirmed(trainer, log, (known[0], known[1]), LAST) == (known[0],)
