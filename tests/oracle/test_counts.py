"""How often each row counts in a wrong gradient -> its place; and places that a setting makes more particular."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sftref.conformance.judge.explained import places
from sftref.conformance.oracle.cases import B
from sftref.conformance.oracle.draws import batch_of, rows_of
from sftref.conformance.oracle.sharded import ShardedTrainer, Sums, rounded
from sftref.conformance.oracle.variants.fit import Counts, said
from sftref.conformance.oracle.variants.replay import Log
from wrong_oracles import CASE, Right, examined, wrong

pytestmark = pytest.mark.once
ROWS, N, NOISE = 23, 8, 2e-6


def places_of(times: Any, accumulate: int, weights: Any = 1.0, n: int = N) -> list[tuple[str, str]]:
    """What is said of a batch of 23 rows that count so often, known within a rounding."""
    rng = np.random.default_rng(0)
    batch = rows_of(batch_of(CASE, rng), np.arange(ROWS) % B)
    batch = batch._replace(weights=np.broadcast_to(weights, ROWS).astype(np.float32))
    found = Counts(times + NOISE * rng.standard_normal(ROWS), np.full(ROWS, NOISE), ("a",), whole=True)
    return list(said(found, Log(replace(CASE, accumulate=accumulate), {}, n), batch))


def means(part: Any, weights: Any) -> Any:
    """The counts of rows if each part is divided by its own weight."""
    totals = np.bincount(part, weights)
    return (weights.sum() / len(totals) / totals)[part]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "accumulate", "place"), [(1, 3, "micro-batch-means"), (4, 1, "device-means")])
def test_means_of_parts_are_seen_however_rows_are_dealt(seed: int, n: int, accumulate: int, place: str) -> None:
    rng = np.random.default_rng(seed)
    parts = n * accumulate
    part, weights = rng.permutation(np.arange(ROWS) % parts), rng.choice([0.5, 1.0, 2.0], ROWS)
    [first, *_] = places_of(means(part, weights), accumulate, weights, n)
    assert first == (place, f"every {place[:-6]} counts the same, whatever the weight of its rows")


def test_rows_that_count_at_random_are_no_means() -> None:
    rng = np.random.default_rng(0)
    found = places_of(rng.permutation(np.repeat([0.9, 1.1], (10, 13))), 2)
    assert [place for place, _ in found] == ["row-weights", "row-weights"]


def test_repeated_rows_are_no_lost_parts_of_devices() -> None:
    # 23 rows are filled up to 32 with the first nine, which count twice; the kit's share of a device is three rows.
    times = np.where(np.arange(ROWS) < 9, 2.0, 1.0) * ROWS / 32
    [(place, words)] = places_of(times, 2)
    assert place == "device-rows"
    assert words.startswith("rows 0, 1, 2, 3, 4, 5, 6, 7, 8 count 1.44 times; rows 9, 10,")


def test_a_part_that_is_scaled_on_the_way_is_one_of_a_device() -> None:
    times = np.where(np.arange(ROWS) < 3, 0.7, 1.0)
    [(place, words)] = places_of(times, 2)
    assert (place, words) == ("device", "rows 0, 1, 2 count 0.7 times")


def halved_with_padding(self: Any, batch: Any) -> Sums:
    """In the second update only, examples with padding get half the gradient."""
    sums = ShardedTrainer.sums(self, batch)
    half = self.t == 1 and not batch.attention_mask.all()
    return sums._replace(gradients={k: g * 0.5 for k, g in sums.gradients.items()}) if half else sums


def test_what_right_updates_have_too_is_no_cause_of_a_later_wrong_one() -> None:
    found = examined(wrong(Right, sums=halved_with_padding), n=1)
    assert found is not None
    words = "; ".join(found.words)
    assert "right in update 0, wrong in update 1" in words
    assert "padding" not in words + found.place


def narrow_parts(self: Any, parts: list[Sums]) -> Sums:
    """Devices send bfloat16."""
    sent = [part._replace(gradients={k: rounded(g) for k, g in part.gradients.items()}) for part in parts]
    return ShardedTrainer.reduce(self, sent if len(parts) > 1 else parts)


def looks_up_padding(self: Any, batch: Any) -> Any:
    """Ids of padding tokens that are not 0 become NaN."""
    logits = ShardedTrainer.evaluate(self, batch)
    return logits * np.nan if batch.input_ids[batch.attention_mask == 0].any() else logits


def clipped_on_several(self: Any, gradients: Any, rate: float) -> None:
    """With several devices, the optimizer gets elements of at most 1e-3."""
    Right.update(self, {k: np.clip(g, -1e-3, 1e-3) if self.n > 1 else g for k, g in gradients.items()}, rate)


@pytest.mark.parametrize(
    ("methods", "place"),
    [
        ({"reduce": narrow_parts}, "rounded-reduction"),
        ({"evaluate": looks_up_padding}, "padding-content"),
        ({"update": clipped_on_several}, "moments-by-device"),
    ],
)
def test_a_setting_makes_a_place_more_particular(methods: dict[str, Any], place: str) -> None:
    found = examined(wrong(Right, **methods))
    assert found is not None
    assert (found.place, place in places()) == (place, True)
    assert "the same logits" not in "; ".join(found.words), "rows of NaN have no logits"
