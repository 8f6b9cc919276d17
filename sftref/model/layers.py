"""Token arrays -> contextual vectors: the embeddings, attention and feed-forward of BERT, as Flax modules.

Layers see tokens, not examples. A token's `segment` is the example that it belongs to: tokens attend to each other if
their segments are equal and positive. So the same code computes padded rows (one example each) and packed rows
(several). The arithmetic is that of Hugging Face's BERT: post-LayerNorm, erf GELU, scores scaled by 1/sqrt(head size),
dropout on attention probabilities and before each residual sum.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from sftref.config import ModelConfig
from sftref.model.dropout import ATTENTION, ATTENTION_OUTPUT, EMBEDDING, FEED_FORWARD, SITES_PER_LAYER, Address, Dropout
from sftref.model.sharding import Places

# The score of a key that a query must not see. It is finite, so that a query without any visible key (padding) gets
# uniform probabilities instead of NaN, because NaN times a zero weight is NaN. It is so low that exp underflows to
# exactly 0 beside any real score, in bfloat16 too.
MASKED = -1e30


class Numerics(NamedTuple):
    """The dtypes of activations and of parameters, and the precision of matrix products.

    float32 uses `Precision.HIGHEST`, because the default is TF32 on recent NVIDIA GPUs and bfloat16 on TPUs.
    """

    compute: Any
    params: Any
    matmul: lax.Precision

    @classmethod
    def of(cls, precision: str) -> Numerics:
        """The numerics of a `--precision`: float32, bfloat16 (float32 parameters) or float64."""
        if precision == "bfloat16":
            return cls(jnp.bfloat16, jnp.float32, lax.Precision.DEFAULT)
        dtype = jnp.float64 if precision == "float64" else jnp.float32
        return cls(dtype, dtype, lax.Precision.HIGHEST)


class Tokens(NamedTuple):
    """The segment of each token, as a one-hot row, and its address.

    `segment` is float32 [R, L, S], all zeros for padding; the scalar product of two rows is positive if one token sees
    the other. If segments were numbers to compare, XLA would fuse the comparison, and the slicing of the micro-batch
    before it, into the softmax of every layer, unvectorised: a step of MiniLM took 4 % longer on a CPU.
    """

    segment: Array
    address: Address


class Dense(nn.Module):
    """An affine map of the last axis. Its parameters, and its results except in bfloat16, are those of `nn.Dense`.

    The bias is added in its own dtype. Its gradient is a sum over all tokens; in bfloat16, XLA on a CPU adds one term
    after another and stops at 256 times a term (`findings/jax-bfloat16-embedding-gradient.sh`).
    """

    features: int
    numerics: Numerics
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`x` [..., in] -> [..., features], in the compute dtype."""
        compute, params, precision = self.numerics
        kernel: Array = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), params)
        bias: Array = self.param("bias", nn.initializers.zeros_init(), (self.features,), params)
        product = jnp.matmul(x.astype(compute), kernel.astype(compute), precision=precision)
        return (product.astype(params) + bias).astype(compute)


class Module(nn.Module):
    """The base class of layers: configuration, numerics, sharding, and BERT's two basic operators with parameters."""

    config: ModelConfig
    numerics: Numerics
    places: Places | None = None

    def shard(self, x: Array, kind: str) -> Array:
        """The activation `x`, sharded by the table in `sharding.py`; unchanged unless a mesh shards the model."""
        return x if self.places is None else self.places.constrain(x, kind)

    def drop(self, dropout: Dropout | None, x: Array, site: int, at: Address) -> Array:
        """`x` [R, L, D] after dropout at the rate of hidden layers; `x` itself if `dropout` is None."""
        return x if dropout is None else dropout.hidden(x, self.config.hidden_dropout_prob, site, at)

    @property
    def dtypes(self) -> dict[str, Any]:
        """The dtypes of an operator, as keyword arguments for Flax."""
        return {"dtype": self.numerics.compute, "param_dtype": self.numerics.params}

    def dense(self, features: int, name: str) -> Dense:
        """An affine map to `features` outputs."""
        return Dense(features, self.numerics, nn.initializers.normal(self.config.initializer_range), name=name)

    def layer_norm(self, name: str) -> nn.LayerNorm:
        """LayerNorm over D, with the two-pass variance, because E[x^2] - E[x]^2 loses digits if the mean is large."""
        return nn.LayerNorm(epsilon=self.config.layer_norm_eps, use_fast_variance=False, name=name, **self.dtypes)


@jax.custom_jvp
def erf(x: Array) -> Array:
    """The error function.

    Its derivative is written out, because JAX 0.12.0.1 refuses that of `lax.erf` for an array that varies over devices
    under `shard_map` (`findings/jax-erf-shard-map.sh`). The formula is that of JAX before 0.12.
    """
    return lax.erf(x)


@erf.defjvp
def _slope_of_erf(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    x, tangent = primals[0], tangents[0]
    return erf(x), jnp.asarray(2 / math.sqrt(math.pi), x.dtype) * (tangent * jnp.exp(-jnp.square(x)))


def gelu(x: Array) -> Array:
    """GELU by the error function, x/2 (1 + erf(x / sqrt 2)), as PyTorch and Hugging Face's BERT compute it.

    `jax.nn.gelu` computes the same function by erfc, which is three times slower on a CPU.
    """
    half, root_half = (jnp.asarray(v, x.dtype) for v in (0.5, math.sqrt(0.5)))
    return half * x * (1 + erf(x * root_half))


class Embeddings(Module):
    """The sum of the word, token type and position embeddings, then LayerNorm and dropout -> [R, L, D]."""

    @nn.compact
    def __call__(self, input_ids: Array, token_type_ids: Array, tokens: Tokens, dropout: Dropout | None) -> Array:
        """Ids int32 [R, L], which must be valid in padding too -> [R, L, D]."""
        c = self.config

        def read(rows: int, name: str, ids: Array) -> Array:
            init = nn.initializers.normal(c.initializer_range)
            table = nn.Embed(rows, c.hidden_size, embedding_init=init, param_dtype=self.numerics.params, name=name)
            # A sharded table is gathered first, like any parameter, because the rows of the batch use the same axis.
            return jnp.take(self.shard(table.embedding, "table"), ids, axis=0)

        # In the dtype of the tables up to the LayerNorm, because a table's gradient is a sum over all tokens (see
        # `Dense`): in bfloat16 that of a token type in 16,384 tokens was off by 71 %, now by 2 %.
        x = read(c.vocab_size, "word_embeddings", input_ids)
        x = x + read(c.type_vocab_size, "token_type_embeddings", token_type_ids)
        x = x + read(c.max_position_embeddings, "position_embeddings", tokens.address.position.astype(jnp.int32))
        x = self.shard(self.layer_norm("LayerNorm")(x), "hidden")
        return self.drop(dropout, x, EMBEDDING, tokens.address)


class Attention(Module):
    """Multi-head attention within segments, output projection, dropout, residual and LayerNorm."""

    layer: int = 0

    @nn.compact
    def __call__(self, x: Array, tokens: Tokens, y: Array, queries: Tokens, dropout: Dropout | None) -> Array:
        """Keys and values from `x` [R, L, D] (`tokens`), queries from `y` [R, Q, D] (`queries`) -> [R, Q, D]."""
        c, precision = self.config, self.numerics.matmul
        head_size = c.hidden_size // c.num_attention_heads

        def heads(source: Array, name: str) -> Array:
            z = self.dense(c.hidden_size, name)(source)
            split = z.reshape(*z.shape[:2], c.num_attention_heads, head_size).transpose(0, 2, 1, 3)
            return self.shard(split, "heads")

        query, key, value = heads(y, "query"), heads(x, "key"), heads(x, "value")
        query = query * jnp.asarray(head_size**-0.5, query.dtype)
        scores = jnp.einsum("rhqk,rhlk->rhql", query, key, precision=precision)
        visible = jnp.einsum("rqs,rls->rql", queries.segment, tokens.segment, precision=precision) > 0
        # The softmax uses at least float32, because a bfloat16 sum of L terms loses the small terms.
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        scores = jnp.where(visible[:, None], scores, MASKED)
        # softmax(s) v = (e v) / sum(e). Dividing the product, with K columns, instead of the probabilities, with L
        # columns, saves one pass over [R, H, Q, L] forward and two backward: 34 to 47 % of attention's time on a CPU.
        e = jnp.exp(scores - lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
        total = e.sum(axis=-1, keepdims=True)
        if dropout is not None:
            site = SITES_PER_LAYER * self.layer + ATTENTION
            e = dropout.attention(e, c.attention_probs_dropout_prob, site, queries.address, tokens.address)
        context = jnp.einsum("rhql,rhlk->rhqk", e.astype(value.dtype), value, precision=precision)
        context = (context / total.astype(value.dtype)).transpose(0, 2, 1, 3).reshape(y.shape)
        out = self.shard(self.dense(c.hidden_size, "output")(self.shard(context, "inner")), "hidden")
        out = self.drop(dropout, out, SITES_PER_LAYER * self.layer + ATTENTION_OUTPUT, queries.address)
        return self.layer_norm("LayerNorm")(out + y)


class Layer(Module):
    """One encoder layer: attention, then feed-forward with erf GELU."""

    layer: int = 0

    @nn.compact
    def __call__(self, x: Array, tokens: Tokens, y: Array, queries: Tokens, dropout: Dropout | None) -> Array:
        """Queries `y` [R, Q, D], keys and values from `x` [R, L, D] (`x` is `y` before the last layer) -> [R, Q, D]."""
        c = self.config
        attention = Attention(c, self.numerics, self.places, layer=self.layer, name="attention")
        y = attention(x, tokens, y, queries, dropout)
        z = gelu(self.shard(self.dense(c.intermediate_size, "intermediate")(y), "inner"))
        z = self.shard(self.dense(c.hidden_size, "output")(z), "hidden")
        z = self.drop(dropout, z, SITES_PER_LAYER * self.layer + FEED_FORWARD, queries.address)
        return self.layer_norm("LayerNorm")(z + y)
