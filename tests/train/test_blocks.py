"""Rows attended block by block: places of examples, micro-batches that qualify, and unchanged numbers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import LENGTH, model_config, parameters, precision_scope, relative_error, token_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from sftref.config import OptimConfig
from sftref.data import packing
from sftref.data.batches import Batch, Layout, fill
from sftref.data.packing import first_fit_decreasing, pack
from sftref.train.chunks import crossing
from sftref.train.step import Program, gradient_sums

BLOCK = LENGTH // 2
# Three rows: in the first an example crosses the middle, in the second one ends there and one begins.
LENGTHS = [LENGTH - 3, BLOCK, BLOCK - 2, 3, 3]
ROW, SLOT, START = np.array([0, 1, 1, 2, 2]), np.array([0, 0, 1, 0, 1]), np.array([1, 0, BLOCK, BLOCK - 3, BLOCK])
# Two orders of the same sums in float64, at most 16 terms each, through two layers of three such sums, there and back:
# less than a hundred roundings. Measured: 1.6e-16.
CLOSE = 100 * 2.0**-53


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 16 tokens are two blocks."""
    monkeypatch.setattr(packing, "BLOCK", BLOCK)


class TestPlaces:
    """Examples that fit in a block MUST be within one, each whole and apart, in no more rows than without blocks."""

    @settings(deadline=None)
    @given(lengths=st.lists(st.integers(1, 24), min_size=1, max_size=30), slots=st.integers(1, 8))
    def test_in_three_blocks(self, lengths: list[int], slots: int) -> None:
        sizes = np.asarray(lengths)
        row, slot, start = first_fit_decreasing(sizes, 24, slots, 8)
        taken = [(r, c) for r, s, n in zip(row, start, sizes, strict=True) for c in range(s, s + n)]
        assert len(set(taken)) == sizes.sum()
        assert max(c for _, c in taken) < 24
        assert len(set(zip(row.tolist(), slot.tolist(), strict=True))) == len(sizes)
        assert slot.max() < slots
        long_rows = set(row[sizes > 8].tolist())
        assert long_rows == set(range(len(long_rows)))
        for r, s, n in zip(row, start, sizes, strict=True):
            assert r in long_rows or s // 8 == (s + n - 1) // 8
        assert set(row.tolist()) == set(range(row.max() + 1))

    def test_a_row_of_two_longer_ones_leaves_no_row_empty(self) -> None:
        row, _, start = first_fit_decreasing(np.array([9, 9, 8]), 24, 4, 8)
        assert (row.tolist(), start.tolist()) == ([0, 0, 1], [0, 9, 0])

    @settings(deadline=None)
    @given(lengths=st.lists(st.integers(1, LENGTH), min_size=1, max_size=30))
    def test_no_more_rows(self, lengths: list[int]) -> None:
        sizes, tokens = np.asarray(lengths), token_arrays(lengths)
        batch = pack(tokens, np.arange(len(sizes)), Layout(1, 1, LENGTH, 5), 1)
        assert batch.weights.shape[1] == first_fit_decreasing(sizes, LENGTH, 5)[0].max() + 1

    def test_blocks_where_they_cost_nothing(self) -> None:
        def across(lengths: list[int]) -> bool:
            batch = pack(token_arrays(lengths), np.arange(len(lengths)), Layout(1, 2, LENGTH, 5), 1)
            return bool(crossing(batch, 2)[0])

        assert not across([6, 5, 5, 5, 3, 2])  # 6 + 5 + 5 crosses, 6 + 2 and 5 + 3 does not
        assert across([5, 5, 5, 5, 5, 5])  # three a row, two where they keep within blocks
        assert across([9, 5, 5])


def batch_of(rows: int, micro: int) -> Batch:
    """The examples of `LENGTHS`, one row a micro-batch, or all rows in one."""
    return fill(token_arrays(LENGTHS), np.arange(5), ROW, SLOT, START, Layout(micro, rows, LENGTH, 2))


def test_which_micro_batches_have_one_across() -> None:
    assert crossing(batch_of(1, 3), 2).tolist() == [True, False, False]
    assert crossing(batch_of(1, 3), 4).tolist() == [True, True, False]
    assert crossing(batch_of(3, 1), 2).tolist() == [True]


@functools.cache
def compiled() -> Any:
    """State, batch -> sums and gradients, and the state; compiled once for each number of micro-batches."""
    model = model_config()
    program = Program.of(model, OptimConfig(), total_steps=9, dropout="addressed", precision="float64")
    state = program.state(parameters(model, precision="float64"), seed=4, step=2)
    return jax.jit(lambda state, batch: gradient_sums(program, state, batch)), state


def gradient(batch: Batch) -> Any:
    """Sums and gradients in float64."""
    with precision_scope("float64"):
        function, state = compiled()
        return jax.device_get(function(state, batch))


@pytest.mark.once
class TestNumbers:
    """Sums and gradients MUST be those of whole rows, wherever among the micro-batches one crosses."""

    @pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
    def test_of_micro_batches(self, order: tuple[int, ...]) -> None:
        (want_sums, want), batch = gradient(batch_of(3, 1)), batch_of(1, 3)
        got_sums, got = gradient(jax.tree.map(lambda a: a[list(order)], batch))
        assert relative_error(got, want) < CLOSE
        assert abs(got_sums.loss - want_sums.loss) < CLOSE * want_sums.loss
        assert got_sums.weight == want_sums.weight == 5

    def test_where_one_crosses_blocks_would_be_wrong(self) -> None:
        """What `crossing` guards against, or the others would prove nothing."""
        model, batch = model_config(), batch_of(3, 1)
        module = Program.of(model, OptimConfig(), total_steps=9, dropout="off", precision="float32").model
        micro = jax.tree.map(lambda a: jnp.asarray(a[0]), batch)
        whole, halves = (np.asarray(module.apply({"params": parameters(model)}, micro, None, b)) for b in (1, 2))
        off = np.abs(halves - whole).max(axis=(1, 2)) / np.abs(whole).max()
        assert off[0] > 1e-2
        assert max(off[1:]) < 1e-5

    @pytest.mark.parametrize(("dropout", "blocks"), [("addressed", True), ("article", False)])
    def test_scores_are_those_of_blocks(self, dropout: Any, blocks: bool) -> None:
        """The saving itself; the article's masks have the shape of whole rows."""
        program = Program.of(model_config(), OptimConfig(), total_steps=9, dropout=dropout, precision="float32")
        state = program.state(parameters(model_config()), seed=4)
        text = str(jax.make_jaxpr(lambda batch: gradient_sums(program, state, batch))(batch_of(1, 3)))
        assert f"[1,3,{LENGTH},{LENGTH}]" in text
        assert (f"[2,3,{BLOCK},{BLOCK}]" in text) == blocks
