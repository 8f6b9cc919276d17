"""The model against the kit's oracle in NumPy float64; padded against packed rows; numerics."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util
from helpers import LENGTH, by_example, model_config, parameters, precision_scope, ragged
from kit import oracle_logits

from sftref.config import ConfigError, ModelConfig, OptimConfig
from sftref.data.batches import Batch, pad, padded_layout
from sftref.data.packing import pack, packed_layout
from sftref.model.bert import BertForSequenceClassification
from sftref.model.layers import Dense, Module, Numerics
from sftref.train.step import Program, eval_step, masks

pytestmark = pytest.mark.jax

N, SEED, STEP = 9, 2**40 + 7, 12
MODEL = model_config()
TOKENS = ragged(N, seed=3)
PARAMS = parameters(MODEL)
# Unit round-off, and how many of them a logit may be off, relative to the largest logit. A logit passes some 20
# rounded operators a layer on the residual path, whose errors add up like a random walk: sqrt(40) = 6, and as much
# again for the spread of the largest of 27. Measured: 1.4 to 4.2.
UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float64": 2.0**-53}
UNITS = 12


def padded() -> Batch:
    return pad(TOKENS, np.arange(N), padded_layout(N, LENGTH, 3))


def packed() -> Batch:
    order = np.random.default_rng(0).permutation(N)
    return pack(TOKENS, order, packed_layout(TOKENS, N, LENGTH, 1), 1)


def program(dropout: Any = "off", precision: Any = "float32", model: ModelConfig = MODEL) -> Program:
    return Program.of(model, OptimConfig(), total_steps=20, dropout=dropout, precision=precision)


@jax.jit
def plain(params: Any, micro: Batch) -> jax.Array:
    return program().model.apply({"params": params}, micro)


@jax.jit
def dropped(params: Any, micro: Batch, seed: jax.Array) -> jax.Array:
    p = program("addressed")
    source = masks(p, p.state({"w": jnp.zeros(1)}, 0, STEP).replace(seed=seed), jnp.int32(0), None)
    return p.model.apply({"params": params}, micro, source)


def logits(batch: Batch, params: Any = PARAMS, *, dropout: bool = False) -> np.ndarray:
    """[K, R, S, C], for K = 1."""
    micro = jax.tree.map(lambda a: jnp.asarray(a[0]), batch)
    seed = jnp.asarray([SEED >> 32, SEED & 0xFFFFFFFF], jnp.uint32)
    return np.asarray(dropped(params, micro, seed) if dropout else plain(params, micro))[None]


@pytest.fixture(scope="module")
def want() -> dict[bool, np.ndarray]:
    """With and without dropout: the oracle's logits [n, C], every layer at every token."""
    return {
        on: oracle_logits(PARAMS, MODEL, TOKENS, (SEED, STEP) if on else None) for on in (False, True)
    }  # fmt: skip


def error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference over the largest logit."""
    worst = float(np.abs(got.astype(np.float64) - want).max() / np.abs(want).max())
    return worst if math.isfinite(worst) else math.inf


@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
class TestReference:
    """Logits MUST be those of the published model, example by example, whatever the layout; masks by their addresses.

    The model computes the last layer at [CLS] only, the oracle at every token.
    """

    def test_logits(self, layout: str, dropout: bool, want: dict[bool, np.ndarray]) -> None:
        batch = packed() if layout == "packed" else padded()
        got = logits(batch, dropout=dropout)
        assert got.dtype == np.float32
        assert np.isfinite(got).all()  # in empty slots as well
        assert error(by_example(got, batch, TOKENS.example_ids), want[dropout]) < UNITS * UNIT["float32"]
        assert error(want[not dropout], want[dropout]) > 0.1  # the comparison can tell the two apart

    def test_garbage_in_padding_changes_nothing(self, layout: str, dropout: bool, want: dict[bool, np.ndarray]) -> None:
        batch = packed() if layout == "packed" else padded()
        real, used = batch.segments > 0, batch.weights > 0
        assert not real.all()
        dirty = batch._replace(
            input_ids=np.where(real, batch.input_ids, 2**31 - 1),
            token_type_ids=np.where(real, batch.token_type_ids, -5),
            positions=np.where(real, batch.positions, -(2**31)),
            labels=np.where(used, batch.labels, 10**9),
            example_ids=np.where(used, batch.example_ids, np.uint32(2**32 - 1)),
        )
        clean, got = (logits(b, dropout=dropout) for b in (batch, dirty))
        np.testing.assert_array_equal(got[used], clean[used])
        assert np.isfinite(got).all()

    def test_an_example_of_weight_0_is_padding_too(
        self, layout: str, dropout: bool, want: dict[bool, np.ndarray]
    ) -> None:
        """Found by the kit's law equivalence.padding: its NaN passed the zero weight in the backward pass."""
        batch = packed() if layout == "packed" else padded()
        at = tuple(np.argwhere(batch.weights > 0)[2])
        hidden = batch.segments == at[2] + 1
        hidden &= np.indices(hidden.shape)[1] == at[1]
        weights = batch.weights.copy()
        weights[at] = 0
        dirty = batch._replace(weights=weights, input_ids=np.where(hidden, -(2**31), batch.input_ids))
        got = logits(dirty, dropout=dropout)
        assert np.isfinite(got).all()
        np.testing.assert_array_equal(got[weights > 0], logits(batch, dropout=dropout)[weights > 0])

    def test_order_of_rows_plays_no_part(self, layout: str, dropout: bool, want: dict[bool, np.ndarray]) -> None:
        batch = packed() if layout == "packed" else padded()
        order = np.random.default_rng(1).permutation(batch.weights.shape[1])
        moved = jax.tree.map(lambda a: a[:, order], batch)
        # A matrix product may sum a row in another order at another place.
        np.testing.assert_allclose(
            logits(moved, dropout=dropout), logits(batch, dropout=dropout)[:, order], rtol=0, atol=2e-6
        )


class TestPacking:
    """Examples in one row MUST NOT see each other."""

    def test_a_neighbour_has_no_influence(self) -> None:
        batch = packed()
        row = int(((batch.weights[0] > 0).sum(-1) > 1).argmax())
        assert (batch.weights[0, row] > 0).sum() > 1
        before = logits(batch)
        ids = np.where((batch.segments == 2) & (np.arange(batch.weights.shape[1])[:, None] == row), 7, batch.input_ids)
        after = logits(batch._replace(input_ids=ids))
        changed = ((before != after).any(-1) & (batch.weights > 0))[0]
        assert np.argwhere(changed).tolist() == [[row, 1]]  # bit for bit in every other example

    def test_position_of_the_row_plays_no_part(self, want: dict[bool, np.ndarray]) -> None:
        # The same example at column 0 and behind another: positions restart.
        batch = packed()
        late = (batch.starts > 0) & (batch.weights > 0)
        assert late.any()
        got = by_example(logits(batch), batch, TOKENS.example_ids)
        chosen = np.isin(TOKENS.example_ids, batch.example_ids[late])
        assert error(got[chosen], want[False][chosen]) < UNITS * UNIT["float32"]


class TestRegression:
    """The head of a regression MUST be one real number, and its evaluation the squared error."""

    def test_logits_and_loss(self) -> None:
        model = model_config(num_labels=1, regression=True, num_hidden_layers=1)
        tokens, params = ragged(N, seed=4, regression=True), parameters(model)
        p, batch = program(model=model), pad(tokens, np.arange(N), padded_layout(N, LENGTH, 2))
        sums, got = jax.jit(lambda s, b: eval_step(p, s, b, lambda tree: tree))(p.state(params, 0), batch)
        want = oracle_logits(params, model, tokens)
        by_id = by_example(np.asarray(got)[None], batch, tokens.example_ids)
        assert by_id.shape == want.shape == (N, 1)
        assert error(by_id, want) < UNITS * UNIT["float32"]
        assert float(sums.loss) == pytest.approx(((want[:, 0] - tokens.labels.astype(np.float64)) ** 2).sum(), rel=1e-5)
        assert float(sums.weight) == N

    def test_a_regression_has_one_label(self) -> None:
        with pytest.raises(ConfigError, match="num_labels = 3, must be 1 for regression"):
            model_config(regression=True)


class TestPrecision:
    """Each precision MUST show an error of its own size: not more, and, if it is reduced, not much less."""

    @pytest.mark.parametrize("precision", ["bfloat16", "float64"])
    def test_logits_at_the_scale_of_the_round_off(self, precision: Any, want: dict[bool, np.ndarray]) -> None:
        with precision_scope(precision):
            p, batch = program(precision=precision), padded()
            params = jax.tree.map(lambda a: a.astype(np.float64), PARAMS) if precision == "float64" else PARAMS
            micro = jax.tree.map(lambda a: jnp.asarray(a[0]), batch)
            got = jax.jit(lambda params, micro: p.model.apply({"params": params}, micro))(params, micro)
            assert got.dtype == {"bfloat16": jnp.float32, "float64": jnp.float64}[precision]
            got = np.asarray(got)[None]
        off = error(by_example(got, batch, TOKENS.example_ids), want[False])
        assert UNIT[precision] / 16 < off < UNITS * UNIT[precision]

    def test_parameters_stay_float32_under_bfloat16(self) -> None:
        micro = jax.tree.map(lambda a: a[0], padded())
        module = BertForSequenceClassification(MODEL, Numerics.of("bfloat16"))
        shapes = jax.eval_shape(module.init, jax.random.key(0), micro)
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}

    def test_float32_products_ask_for_the_highest_precision(self) -> None:
        # On a CPU every setting computes alike, so the program is read: elsewhere the default is TF32 or bfloat16.
        micro = jax.tree.map(lambda a: jnp.asarray(a[0]), padded())
        text = jax.jit(lambda p, b: program().model.apply({"params": p}, b)).lower(PARAMS, micro).as_text()
        products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
        # A layer has six products with weights, scores, context, and who sees whom.
        assert len(products) == MODEL.num_hidden_layers * 9 + 2
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)

    def test_layer_norm_with_a_large_mean(self) -> None:
        class Probe(Module):
            @nn.compact
            def __call__(self, x: jax.Array) -> jax.Array:
                return self.layer_norm("LayerNorm")(x)

        # Deviation 1 around 1e4, exact in float32: E[x^2] - E[x]^2 would lose all of it (1e8 * 2^-24 = 6).
        x = (1e4 + np.random.default_rng(0).normal(size=(4, 256))).astype(np.float32)
        got = Probe(MODEL, Numerics.of("float32")).apply(
            {"params": {"LayerNorm": {"scale": np.ones(256, np.float32), "bias": np.zeros(256, np.float32)}}}, x
        )
        exact = x.astype(np.float64)
        want = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
        # What is left is the round-off of the mean itself: 1e4 * 2^-24 times a few.
        np.testing.assert_allclose(got, want, rtol=0, atol=8 * 1e4 * UNIT["float32"])

    def test_the_gradient_of_a_bias_in_bfloat16_is_the_whole_sum(self) -> None:
        layer = Dense(4, Numerics.of("bfloat16"), nn.initializers.ones_init())
        x = jnp.ones((1 << 15, 8))
        params = layer.init(jax.random.key(0), x)
        gradient = jax.jit(jax.grad(lambda params: layer.apply(params, x).astype(jnp.float32).sum()))
        bias = gradient(params)["params"]["bias"]
        # Whole numbers below 2^24 are exact in float32; a sum of ones in bfloat16 stops at 256.
        np.testing.assert_array_equal(bias, np.full(4, 1 << 15, np.float32))


def test_parameters_of_the_helpers_are_those_of_the_model() -> None:
    micro = jax.tree.map(lambda a: a[0], padded())
    shapes = jax.eval_shape(program().model.init, jax.random.key(0), micro)["params"]
    mine = traverse_util.flatten_dict(PARAMS)
    assert {k: (v.shape, v.dtype) for k, v in traverse_util.flatten_dict(shapes).items()} == {
        k: (v.shape, v.dtype) for k, v in mine.items()
    }
    assert all(np.unique(leaf).size == leaf.size for leaf in mine.values())  # no leaf is constant
