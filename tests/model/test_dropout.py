"""Dropout: the generator, the documented addresses bit for bit, and what masks may and may not depend on."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import LENGTH as LONGEST
from helpers import model_config, parameters, ragged, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.random import threefry_2x32
from sftref.conformance.oracle.masks import Masks
from sftref.conformance.oracle.masks import threefry_2x32 as oracle_threefry

from sftref.config import OptimConfig
from sftref.data.batches import Layout, pad
from sftref.model.dropout import Address, AddressedDropout, ArticleDropout
from sftref.train.step import Program, gradient_sums, masks
from sftref.trainers import PmapTrainer

pytestmark = pytest.mark.jax

UINT32 = st.integers(0, 2**32 - 1)
ROWS, LENGTH, WIDTH, HEADS = 2, 5, 7, 5
RATE = 0.3

# Random123, tests/kat_vectors, threefry2x32 with 20 rounds: key, counter, words.
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


def source(seed: int, step: int) -> AddressedDropout:
    return AddressedDropout((jnp.uint32(seed >> 32), jnp.uint32(seed & 0xFFFFFFFF)), jnp.uint32(step))


def address(examples: Any, positions: Any) -> Address:
    """Every token of a row belongs to one example here: [R] and [L], or both [R, L]."""
    e, p = np.asarray(examples, np.uint32), np.asarray(positions, np.uint32)
    shape = (len(e), p.shape[-1])
    return Address(
        jnp.asarray(np.broadcast_to(e[:, None] if e.ndim == 1 else e, shape)), jnp.asarray(np.broadcast_to(p, shape))
    )


# The site is static in the model, but any number does here, and one program serves all draws.
@jax.jit
def hidden(seed: Any, step: Any, site: Any, at: Address) -> jax.Array:
    return AddressedDropout(seed, step).hidden(jnp.ones((*at.example.shape, WIDTH)), RATE, site, at)


@jax.jit
def attention(seed: Any, step: Any, site: Any, query: Address, key: Address) -> jax.Array:
    ones = jnp.ones((ROWS, HEADS, query.example.shape[1], key.example.shape[1]))
    return AddressedDropout(seed, step).attention(ones, RATE, site, query, key)


def words(seed: int) -> tuple[np.uint32, np.uint32]:
    return np.uint32(seed >> 32), np.uint32(seed & 0xFFFFFFFF)


def u32(values: Any) -> np.ndarray:
    return np.asarray(values, np.uint32)


def hidden_factors(
    seed: int, step: int, site: int, examples: Any, position: np.ndarray, width: int, rate: float
) -> np.ndarray:
    """Factors [E, P, width] at the addresses of the docstring of `sftref/model/dropout.py`, by the kit's oracle."""
    group = np.arange(-(-width // 4), dtype=np.uint32)
    counter = u32(examples)[:, None, None], u32(position)[:, None] << np.uint32(16) | group
    return Masks(seed, step).factors(rate, site, counter, axis=2)[..., :width].astype(np.float32)


def attention_factors(
    seed: int, step: int, site: int, examples: Any, query: np.ndarray, key: np.ndarray, heads: int, rate: float
) -> np.ndarray:
    """Factors [E, heads, Q, P]; see `hidden_factors`."""
    group = np.arange(-(-heads // 4), dtype=np.uint32)[:, None, None] << np.uint32(24)
    counter = u32(examples)[:, None, None, None], group | u32(query)[:, None] << np.uint32(12) | u32(key)
    return Masks(seed, step).factors(rate, site, counter, axis=1)[:, :heads].astype(np.float32)


class TestThreefry:
    """JAX's Threefry MUST give the published words, so that masks can be reproduced anywhere."""

    @pytest.mark.parametrize(("key", "counter", "want"), KNOWN)
    def test_known_answers(self, key: Any, counter: Any, want: Any) -> None:
        with jax.numpy_dtype_promotion("standard"):
            got = threefry_2x32(jnp.asarray(key, jnp.uint32), jnp.asarray(counter, jnp.uint32))
        assert tuple(got.tolist()) == want

    @settings(deadline=None)
    @given(k0=UINT32, k1=UINT32, first=UINT32)
    def test_jax_equals_numpy(self, k0: int, k1: int, first: int) -> None:
        c0 = np.uint32(first) ^ np.arange(3, dtype=np.uint32)
        c1 = np.arange(7, 10, dtype=np.uint32) * np.uint32(0x9E3779B9)
        got = threefry_2x32((jnp.uint32(k0), jnp.uint32(k1)), jnp.stack([c0, c1]))
        np.testing.assert_array_equal(got, np.stack(oracle_threefry((u32(k0), u32(k1)), (c0, c1))))


class TestFormula:
    """The factors MUST be those of the formulas in the docstring of `sftref/model/dropout.py`, to the last bit."""

    @settings(deadline=None, max_examples=25)
    @given(
        seed=st.integers(0, 2**64 - 1),
        step=st.integers(0, 2**31 - 1),
        site=st.integers(0, 8 * 48),
        examples=st.lists(UINT32, min_size=ROWS, max_size=ROWS),
        start=st.integers(0, 4096 - LENGTH),
    )
    def test_hidden_and_attention(self, seed: int, step: int, site: int, examples: list[int], start: int) -> None:
        position = np.arange(start, start + LENGTH)
        at = address(examples, position)
        query = address(examples, position[::-1][:3].copy())
        got = hidden(words(seed), np.uint32(step), np.uint32(site), at)
        np.testing.assert_array_equal(got, hidden_factors(seed, step, site, examples, position, WIDTH, RATE))
        got = attention(words(seed), np.uint32(step), np.uint32(site), query, at)
        want = attention_factors(seed, step, site, examples, position[::-1][:3], position, HEADS, RATE)
        np.testing.assert_array_equal(got, want)

    @pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9])
    def test_widths_and_heads_of_any_size(self, size: int) -> None:
        at, position = address([9, 4], np.arange(3)), np.arange(3)
        got = source(5, 6).hidden(jnp.ones((2, 3, size)), RATE, 2, at)
        np.testing.assert_array_equal(got, hidden_factors(5, 6, 2, [9, 4], position, size, RATE))
        got = source(5, 6).attention(jnp.ones((2, size, 3, 3)), RATE, 1, at, at)
        np.testing.assert_array_equal(got, attention_factors(5, 6, 1, [9, 4], position, position, size, RATE))

    def test_kept_values_are_scaled_by_the_exact_probability(self) -> None:
        x = jnp.full((ROWS, LENGTH, WIDTH), 3.0)
        got = np.asarray(source(1, 2).hidden(x, 0.1, 0, address([1, 2], np.arange(LENGTH))))
        assert round(0.1 * 65536) == 6554
        assert set(np.unique(got)) == {np.float32(0), np.float32(3) * np.float32(65536 / (65536 - 6554))}

    def test_noise_equal_to_the_threshold_is_kept(self) -> None:
        # One lane in 65536 is at the threshold, one just below it: search for examples with such a lane.
        position, dropped = np.arange(LENGTH), round(RATE * 65536)
        key, examples = oracle_threefry(words(1), (u32(2), u32(0))), u32(np.arange(2**15))[:, None, None]
        first_word = oracle_threefry(key, (examples, u32((position[:, None] << 16) + np.arange(2))))[0]
        lane = first_word & np.uint32(0xFFFF)  # of features 0 and 1, each the first of its group
        for noise, kept in ((dropped, True), (dropped - 1, False)):
            example, row, feature = np.argwhere(lane == noise)[0]
            got = hidden(words(1), np.uint32(2), np.uint32(0), address([example] * ROWS, position))
            assert bool(got[0, row, feature] > 0) == kept

    def test_rate_0_is_the_identity(self) -> None:
        x = jnp.arange(24.0).reshape(2, 3, 4)
        at = address([1, 2], np.arange(3))
        assert source(1, 2).hidden(x, 0.0, 0, at) is x
        p = x.reshape(2, 1, 3, 4)
        assert source(1, 2).attention(p, 0.0, 0, at, at) is p
        article = ArticleDropout(jax.random.key(0))
        assert article.hidden(x, 0.0, 0, at) is x
        assert article.attention(p, 0.0, 0, at, at) is p


class TestIndependence:
    """A mask MUST depend on the address and on nothing else: not on row, column, order, batch or shard."""

    ARGS = (words(11), np.uint32(3), np.uint32(2))

    def test_a_token_keeps_its_mask_wherever_it_stands(self) -> None:
        rng = np.random.default_rng(0)
        examples, positions = np.repeat([21, 99], LENGTH), np.tile(np.arange(LENGTH), ROWS)
        want = np.asarray(hidden(*self.ARGS, address([21, 99], np.arange(LENGTH)))).reshape(-1, WIDTH)
        for _ in range(5):
            order = rng.permutation(ROWS * LENGTH)
            at = Address(*(v[order].astype(np.uint32).reshape(ROWS, LENGTH) for v in (examples, positions)))
            np.testing.assert_array_equal(np.asarray(hidden(*self.ARGS, at)).reshape(-1, WIDTH), want[order])

    def test_a_probability_keeps_its_mask_wherever_it_stands(self) -> None:
        at = address([21, 99], np.arange(LENGTH))
        want = np.asarray(attention(*self.ARGS, at, at))
        back = address([99, 21], np.arange(LENGTH)[::-1].copy())
        np.testing.assert_array_equal(attention(*self.ARGS, back, back), want[::-1, :, ::-1, ::-1])

    def test_a_shard_of_one_row_has_the_mask_of_the_whole(self) -> None:
        at = address([21, 99], np.arange(LENGTH))
        whole = np.asarray(hidden(*self.ARGS, at))
        for row in range(ROWS):
            shard = hidden(*self.ARGS, jax.tree.map(lambda a, row=row: a[row : row + 1], at))
            np.testing.assert_array_equal(shard, whole[row : row + 1])


class TestDistinction:
    """Masks MUST differ where any part of the address differs; equal ones would correlate what should be independent.

    Two independent masks of n entries agree everywhere with probability (p^2 + q^2)^n = 0.58^n, less than 1e-8 from
    n = 35 on; the seeds are fixed, so that a test that passes once passes always.
    """

    @staticmethod
    def both(seed: int = 11, step: int = 3, site: int = 2, example: int = 21, start: int = 0) -> list[np.ndarray]:
        at = address([example, example], np.arange(start, start + LENGTH))
        args = (words(seed), np.uint32(step), np.uint32(site))
        return [np.asarray(hidden(*args, at))[0], np.asarray(attention(*args, at, at))[0]]

    @pytest.mark.parametrize(
        "change",
        [
            {"seed": 12}, {"seed": 11 + (1 << 32)}, {"step": 4}, {"site": 1}, {"site": 10},
            {"example": 22}, {"example": 21 + (1 << 31)}, {"start": LENGTH},
        ],
        ids=str,
    )  # fmt: skip
    def test_another_address_has_another_mask(self, change: dict[str, int]) -> None:
        for one, other in zip(self.both(), self.both(**change), strict=True):
            assert one.size >= 35
            assert (one != other).mean() > 0.2

    def test_features_positions_heads_queries_and_keys_differ(self) -> None:
        position = np.arange(40)
        h = hidden_factors(1, 2, 0, [3], position, 40, 0.5)[0]
        a = attention_factors(1, 2, 1, [3], position, position, 9, 0.5)[0]
        views = [h, h.T, a.reshape(9, -1), a.swapaxes(0, 1).reshape(40, -1), a.swapaxes(0, 2).reshape(40, -1)]
        for slices in views:  # every two of them
            assert len(np.unique(slices, axis=0)) == len(slices)
        got = source(1, 2).hidden(jnp.ones((1, 40, 40)), 0.5, 0, address([3], position))[0]
        np.testing.assert_array_equal(got, h)
        at = address([3], position)
        got = source(1, 2).attention(jnp.ones((1, 9, 40, 40)), 0.5, 1, at, at)[0]
        np.testing.assert_array_equal(got, a)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_keep_rate(rate: float) -> None:
    """The mean of n independent bits has deviation sqrt(p q / n); 5 of them are exceeded once in 1.7 million draws."""
    at = address(np.arange(8), np.arange(64))
    h = np.asarray(source(7, 1).hidden(jnp.ones((8, 64, 64)), rate, 0, at)) > 0
    a = np.asarray(source(7, 1).attention(jnp.ones((8, 5, 64, 64)), rate, 1, at, at)) > 0
    for kept in (h, a, *np.moveaxis(a, 1, 0), *(h[..., lane::16] for lane in range(16))):
        deviation = math.sqrt(rate * (1 - rate) / kept.size)
        assert abs(kept.mean() - (1 - round(rate * 65536) / 65536)) < 5 * deviation


class TestArticle:
    """`--dropout article` MUST draw as the article's trainers do: by layout, one attention mask, a key a device."""

    AT = address([1, 2, 3], np.arange(6))

    def test_one_attention_mask_across_batch_and_heads(self) -> None:
        got = np.asarray(ArticleDropout(jax.random.key(3)).attention(jnp.ones((3, 4, 6, 6)), 0.4, 1, self.AT, self.AT))
        np.testing.assert_array_equal(got, np.broadcast_to(got[:1, :1], got.shape))
        np.testing.assert_array_equal(np.unique(got), np.float32([0, 1 / 0.6]))

    def test_hidden_masks_differ_between_rows_and_sites(self) -> None:
        article = ArticleDropout(jax.random.key(3))
        one, other = (np.asarray(article.hidden(jnp.ones((3, 6, 8)), 0.4, site, self.AT)) for site in (0, 2))
        assert (one != other).any()
        assert len(np.unique(one.reshape(18, 8), axis=0)) > 9

    def test_every_device_step_and_micro_batch_has_its_own_key(self) -> None:
        program = Program.of(model_config(), OptimConfig(), total_steps=9, dropout="article", precision="float32")
        state = program.state({"w": np.zeros(1, np.float32)}, seed=4)
        draws = [
            masks(program, state.replace(step=jnp.int32(step)), jnp.int32(micro), device)
            for step in (0, 1)
            for micro in (0, 1)
            for device in (None, jnp.int32(0), jnp.int32(1))
        ]
        seen = {np.asarray(d.hidden(jnp.ones((3, 6, 8)), 0.5, 0, self.AT)).tobytes() for d in draws if d is not None}
        assert len(seen) == len(draws) == 12

    @pytest.mark.once
    def test_pmap_adds_up_what_each_device_draws_from_its_own_key(self) -> None:
        """The gradient of three devices is that of their shards, each computed alone with its device's key."""
        model = model_config(num_hidden_layers=1)
        program = Program.of(model, OptimConfig(), total_steps=9, dropout="article", precision="float32")
        state = program.state(parameters(model), seed=4, step=2)
        trainer = PmapTrainer(program, jax.devices()[:3])
        batch = pad(ragged(6), np.arange(6), Layout(1, 6, LONGEST, 1))
        got = trainer.read(trainer.gradient_step(trainer.place(state), trainer.put(batch)))
        alone = jax.jit(lambda shard, device: gradient_sums(program, state, shard, device))

        def by_hand(*keys: int) -> Any:
            shards = [jax.tree.map(lambda leaf, d=d: leaf[:, 2 * d : 2 * d + 2], batch) for d in range(3)]
            sums, gradients = zip(*[alone(s, jnp.int32(k)) for s, k in zip(shards, keys, strict=True)], strict=True)
            weight = sum(float(one.weight) for one in sums)
            return jax.tree.map(lambda *parts: np.sum(parts, axis=0) / weight, *gradients)

        assert relative_error(got, by_hand(0, 1, 2)) < 1e-6
        assert relative_error(got, by_hand(0, 0, 0)) > 0.1

    def test_the_program_says_which_dropout(self) -> None:
        for mode, kind in (("off", type(None)), ("addressed", AddressedDropout), ("article", ArticleDropout)):
            program = Program.of(model_config(), OptimConfig(), total_steps=9, dropout=mode, precision="float32")
            state = program.state({"w": np.zeros(1, np.float32)}, seed=4)
            assert isinstance(masks(program, state, jnp.int32(0), None), kind)
