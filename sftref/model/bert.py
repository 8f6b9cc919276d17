"""Batch -> logits: BERT for sequence classification and regression, over padded or packed rows."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from sftref.data.batches import Batch
from sftref.model.dropout import CLASSIFIER, Address, Dropout
from sftref.model.layers import Embeddings, Layer, Module, Tokens


class BertForSequenceClassification(Module):
    """BERT, its pooler and a linear head.

    Only the [CLS] output of the last layer is used, so the last layer computes nothing else: its queries are the [CLS]
    tokens of the S slots, its keys and values all L tokens. The gradients equal those of the full layer.

    With `remat` the backward pass recomputes each layer's activations from its input instead of keeping them.
    """

    remat: bool = False

    @nn.compact
    def __call__(self, batch: Batch, dropout: Dropout | None = None) -> Array:
        """One micro-batch -> logits.

        Args:
            batch: token arrays [R, L] and slot arrays [R, S], without the axis K.
            dropout: the source of masks; None computes without dropout (evaluation).

        Returns:
            Logits [R, S, C] in at least float32. They are finite for any tokens, in slots of weight 0 too.
        """
        c = self.config
        # An example of weight 0 counts as padding: otherwise a NaN in it would reach the gradients, because 0 * NaN is
        # NaN.
        slot = jnp.maximum(batch.segments - 1, 0)  # [R, L]: each token's example, as an index into the slots
        real = (batch.segments > 0) & (jnp.take_along_axis(batch.weights, slot, axis=1) > 0)
        one_hot = (batch.segments[..., None] - 1 == jnp.arange(batch.starts.shape[1])) & real[..., None]  # [R, L, S]
        tokens = Tokens(one_hot.astype(jnp.float32), _addresses(batch, slot, real))
        slot_tokens = _slots(batch)
        # Padding tokens may have any ids. Ids outside the tables, for which JAX would read NaN, become 0 here.
        layer_of = nn.remat(Layer) if self.remat else Layer
        ids = jnp.where(real, batch.input_ids, 0), jnp.where(real, batch.token_type_ids, 0)
        x = Embeddings(c, self.numerics, self.places, name="embeddings")(*ids, tokens, dropout)  # [R, L, D]
        for layer in range(c.num_hidden_layers - 1):
            one = layer_of(c, self.numerics, self.places, layer=layer, name=f"layer_{layer}")
            x = one(x, tokens, x, tokens, dropout)
        last = c.num_hidden_layers - 1
        cls = jnp.take_along_axis(x, batch.starts[..., None], axis=1)  # [R, S, D]
        one = layer_of(c, self.numerics, self.places, layer=last, name=f"layer_{last}")
        cls = one(x, tokens, cls, slot_tokens, dropout)
        pooled = jnp.tanh(self.shard(self.dense(c.hidden_size, "pooler")(cls), "inner"))
        if dropout is not None:
            pooled = dropout.hidden(pooled, c.head_dropout, CLASSIFIER, slot_tokens.address)
        logits = self.dense(c.num_labels, "classifier")(pooled)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _addresses(batch: Batch, slot: Array, real: Array) -> Address:
    example = jnp.take_along_axis(batch.example_ids, slot, axis=1)
    return Address(example, jnp.where(real, batch.positions, 0).astype(jnp.uint32))


def _slots(batch: Batch) -> Tokens:
    """The [CLS] token of each slot, at position 0."""
    rows, slots = batch.starts.shape
    segment = jnp.broadcast_to(jnp.eye(slots, dtype=jnp.float32), (rows, slots, slots))
    return Tokens(segment, Address(batch.example_ids, jnp.zeros_like(batch.example_ids)))
