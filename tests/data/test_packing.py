"""Packing: first-fit decreasing, the content of packed rows, and shapes that do not change."""

import itertools
from typing import Any

import numpy as np
import pytest
from helpers import LENGTH, ragged, token_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batches import check_static, expected, median_ms, unpacked

from sftref.data.batches import Layout, epoch_order
from sftref.data.packing import first_fit_decreasing, pack, packed_layout

LENGTHS = st.lists(st.integers(1, LENGTH), min_size=1, max_size=30)
SLOTS = 5


def first_fit_by_hand(lengths: list[int], capacity: int, slots: int) -> list[tuple[int, int, int]]:
    """(row, slot, start) of each item, from the definition, with one list a bin."""
    bins: list[list[int]] = []
    place: dict[int, tuple[int, int, int]] = {}
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = (b for b, held in enumerate(bins) if sum(held) + lengths[item] <= capacity and len(held) < slots)
        row = next(fitting, len(bins))
        if row == len(bins):
            bins.append([])
        place[item] = (row, len(bins[row]), sum(bins[row]))
        bins[row].append(lengths[item])
    return [place[i] for i in range(len(lengths))]


class TestFirstFitDecreasing:
    """Bins MUST be those of first-fit decreasing, never too full, and as few as its theorem promises."""

    @settings(deadline=None)
    @given(lengths=LENGTHS, slots=st.integers(1, 8))
    def test_equals_the_definition(self, lengths: list[int], slots: int) -> None:
        got = first_fit_decreasing(np.asarray(lengths), LENGTH, slots)
        assert list(zip(*(a.tolist() for a in got), strict=True)) == first_fit_by_hand(lengths, LENGTH, slots)

    @settings(deadline=None)
    @given(cuts=st.lists(st.sets(st.integers(1, 59), max_size=6), min_size=1, max_size=25), data=st.data())
    def test_at_most_11_ninths_of_the_best(self, cuts: list[set[int]], data: Any) -> None:
        # Full bins cut into pieces: the best number of bins is known.
        pieces = [b - a for bin_ in cuts for a, b in itertools.pairwise([0, *sorted(bin_), 60])]
        pieces = data.draw(st.permutations(pieces))
        bins = int(first_fit_decreasing(np.asarray(pieces), 60, len(pieces))[0].max()) + 1
        assert len(cuts) <= bins <= (11 * len(cuts) + 6) // 9

    def test_nothing_to_pack(self) -> None:
        assert [len(a) for a in first_fit_decreasing(np.zeros(0, np.int64), LENGTH, 3)] == [0, 0, 0]


class TestPack:
    """Packed rows MUST have exactly the chosen examples, whole, without overlap, in a static shape."""

    @settings(deadline=None)
    @given(lengths=LENGTHS, data=st.data(), devices=st.integers(1, 4), micro=st.integers(1, 3))
    def test_content(self, lengths: list[int], data: Any, devices: int, micro: int) -> None:
        tokens = token_arrays(lengths)
        index = np.asarray(data.draw(st.permutations(range(len(lengths)))), np.int64)
        index = index[: data.draw(st.integers(1, len(index)))]
        wanted = Layout(micro, devices * 8, LENGTH, SLOTS)
        batch = pack(tokens, index, wanted, devices)
        layout = wanted._replace(rows=batch.weights.shape[1])
        check_static(batch, layout)
        assert unpacked(batch) == expected(tokens, index)
        assert int((batch.segments > 0).sum()) == int(tokens.lengths[index].sum())  # none overwritten
        assert int(batch.weights.sum()) == len(index)
        assert layout.rows % devices == 0
        assert layout.rows >= wanted.rows
        if layout.rows > wanted.rows:  # only where they are needed
            assert (
                micro * (layout.rows - devices) <= first_fit_decreasing(tokens.lengths[index], LENGTH, SLOTS)[0].max()
            )

    @pytest.mark.parametrize(("devices", "micro"), [(1, 1), (2, 1), (3, 2), (8, 1)])
    def test_a_batch_that_overflows_widens_the_layout(self, devices: int, micro: int) -> None:
        tokens = token_arrays([LENGTH] * 20)  # 20 rows, whatever one does
        wanted = Layout(micro, devices, LENGTH, SLOTS)
        batch = pack(tokens, np.arange(20), wanted, devices)
        check_static(batch, wanted._replace(rows=devices * -(-20 // (devices * micro))))
        assert unpacked(batch) == expected(tokens, np.arange(20))
        check_static(pack(tokens, np.arange(1), wanted, devices), wanted)  # the next batch does not depend on it

    def test_an_example_that_is_too_long_is_refused(self) -> None:
        with pytest.raises(ValueError, match="do not fit the layout"):
            pack(token_arrays([5, LENGTH]), np.arange(2), Layout(1, 4, LENGTH - 1, SLOTS), 1)

    def test_nothing_is_shared_between_batches_and_token_arrays(self) -> None:
        tokens, layout = ragged(9), Layout(1, 9, LENGTH, SLOTS)
        arrays = [leaf for _ in range(2) for leaf in pack(tokens, np.arange(9), layout, 1)]
        for a, b in itertools.combinations([*arrays, *vars(tokens).values()], 2):
            assert not np.shares_memory(a, b)


class TestLayout:
    """The layout MUST be a function of data, batch size and seed, and wide enough for the first epoch."""

    @pytest.mark.parametrize("micro", [1, 2])
    @pytest.mark.parametrize("devices", [1, 3, 8])
    def test_first_epoch_fits(self, devices: int, micro: int) -> None:
        tokens = ragged(100)
        layout = packed_layout(tokens, 16, LENGTH, devices, micro, seed=3)
        assert layout == packed_layout(tokens, 16, LENGTH, devices, micro, seed=3)
        assert layout.rows % devices == 0
        assert (layout.micro, layout.length) == (micro, LENGTH)
        order, needed = epoch_order(100, 3, 0), []
        for start in range(0, 100, 16):
            batch = pack(tokens, order[start : start + 16], layout, devices)
            check_static(batch, layout)
            needed.append(int((batch.weights > 0).any(-1).sum()))
        assert max(needed) <= layout.micro * layout.rows < max(needed) + devices * micro  # and no wider

    def test_slots_follow_the_lengths(self) -> None:
        assert packed_layout(token_arrays([LENGTH] * 9), 4, LENGTH, 1).slots == 1
        assert packed_layout(token_arrays([4] * 40), 8, LENGTH, 1).slots == LENGTH // 4
        assert 2 <= packed_layout(ragged(40), 8, LENGTH, 1).slots <= LENGTH // 3

    def test_packing_saves_rows(self) -> None:
        tokens = ragged(200)
        layout = packed_layout(tokens, 64, LENGTH, 1)
        assert layout.rows < 0.8 * 64  # the mean example fills 9.5 of 16 columns: 38 rows would be full ones


@pytest.mark.slow  # a timing, and the machine may be busy
def test_512_examples_within_8_ms(record_property: Any) -> None:
    """A batch MUST be ready long before a step is over."""
    lengths = np.clip(np.random.default_rng(0).normal(30, 10, 4096), 8, 128).astype(int)
    tokens = token_arrays(lengths)
    index = epoch_order(4096, 0, 0)[:512]
    layout = packed_layout(tokens, 512, 128, 8)
    took = median_ms(lambda: pack(tokens, index, layout, 8))
    record_property("pack_ms", took)
    assert took < 8.0, f"median {took:.2f} ms"
