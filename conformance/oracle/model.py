"""Case, parameters, batch -> loss, logits and gradients: BERT, forward and backward, in NumPy float64.

Written by hand from Devlin et al. (2019), without JAX or automatic differentiation: slow, short, and to be checked by
reading. The operators are those of `tape.py`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..adapter import Arrays, Case, HostBatch
from .masks import ATTENTION, ATTENTION_OUTPUT, CLASSIFIER, EMBEDDING, FEED_FORWARD, SITES_PER_LAYER, Masks
from .tape import Array, Back, Params, Rounding, Tape, softmax, unrounded


class Network:
    """The model on one batch; rows of weight 0 are treated as padding.

    Parameters have Hugging Face's names; `masks` are the dropout of this step, None for evaluation.
    """

    def __init__(
        self, case: Case, params: Arrays, batch: HostBatch, masks: Masks | None, rounding: Rounding = unrounded
    ) -> None:
        self.case, self.batch, self.masks = case, batch, masks
        self.tape = Tape(params, rounding)
        # Padding and rows of weight 0 may have ids outside the tables. They are read as id 0, which affects no result.
        real = (batch.attention_mask > 0) & (batch.weights > 0)[:, None]
        self.visible = real[:, None, None, :]  # which keys a query sees, to be broadcast to [B, H, L, L]
        self.ids = np.where(real, batch.input_ids, 0), np.where(real, batch.token_type_ids, 0)
        self.residuals = 1.0, 1.0  # the share of the input that is added after attention, and after feed-forward
        self.softmax = softmax  # over the keys

    def _drop(self, x: Array, rate: float, site: int) -> tuple[Array, Back]:
        if self.masks is None or rate == 0.0:
            return x, lambda dy: dy
        ids = self.batch.example_ids
        if x.ndim == 4:
            factors = self.masks.attention(rate, site, ids, x.shape[2], x.shape[1])
        else:
            factors = self.masks.hidden(rate, site, ids, x.shape[1], x.shape[2])
        return x * factors, lambda dy: dy * factors

    def _embed(self) -> tuple[Array, Callable[[Array], None]]:
        ids, types = self.ids
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        tables = zip(("word", "token_type", "position"), (ids, types, positions), strict=True)
        parts = [self.tape.embedding(i, f"bert.embeddings.{kind}_embeddings") for kind, i in tables]
        total = np.sum([value for value, _ in parts], axis=0)
        x, norm_back = self.tape.layer_norm(total, "bert.embeddings.LayerNorm", self.case.layer_norm_eps)
        x, drop_back = self._drop(x, self.case.hidden_dropout, EMBEDDING)

        def back(dx: Array) -> None:
            d = norm_back(drop_back(dx))
            for _, part_back in parts:
                part_back(d)

        return x, back

    def _attention(self, x: Array, layer: int) -> tuple[Array, Back]:
        """Multi-head attention with its output projection and dropout, without the residual."""
        name, case = f"bert.encoder.layer.{layer}.attention", self.case
        (q, q_back), (k, k_back), (v, v_back) = (
            self.tape.linear(x, f"{name}.self.{part}") for part in ("query", "key", "value")
        )
        q, k, v = self.split(q), self.split(k), self.split(v)
        scores, scores_back = self.scores(q, k)
        p, p_back = self.softmax(scores)
        kept, kept_back = self._drop(p, case.attention_dropout, SITES_PER_LAYER * layer + ATTENTION)
        out, out_back = self.tape.linear(self.join(kept @ v), f"{name}.output.dense")
        out, drop_back = self._drop(out, case.hidden_dropout, SITES_PER_LAYER * layer + ATTENTION_OUTPUT)

        def back(dy: Array) -> Array:
            d = self.unjoin(out_back(drop_back(dy)))
            dq, dk = scores_back(p_back(kept_back(d @ v.swapaxes(-1, -2))))
            dv = kept.swapaxes(-1, -2) @ d
            return q_back(self.unsplit(dq)) + k_back(self.unsplit(dk)) + v_back(self.unsplit(dv))

        return out, back

    def split(self, z: Array) -> Array:
        """The heads' parts [B, H, L, K] of z [B, L, D]."""
        return z.reshape(*z.shape[:2], self.case.num_attention_heads, -1).transpose(0, 2, 1, 3)

    def join(self, z: Array) -> Array:
        """The heads' parts [B, H, L, K] side by side, [B, L, D]."""
        return z.transpose(0, 2, 1, 3).reshape(z.shape[0], z.shape[2], -1)

    def unsplit(self, z: Array) -> Array:
        """The gradient of what `split` got, from that of its result."""
        return self.join(z)

    def unjoin(self, z: Array) -> Array:
        """The gradient of what `join` got, from that of its result."""
        return self.split(z)

    def scores(self, q: Array, k: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        """Scores q k^T / sqrt(K) [B, H, L, L], and -1e30 for keys that a query does not see."""
        scale = 1 / math.sqrt(q.shape[-1])

        def back(ds: Array) -> tuple[Array, Array]:
            ds = np.where(self.visible, ds, 0.0) * scale
            return ds @ k, ds.swapaxes(-1, -2) @ q

        return np.where(self.visible, q @ k.swapaxes(-1, -2) * scale, -1e30), back

    def _layer(self, x: Array, layer: int) -> tuple[Array, Back]:
        name, case = f"bert.encoder.layer.{layer}", self.case
        past_attention, past_feed_forward = self.residuals
        a, attention_back = self._attention(x, layer)
        first, second = f"{name}.attention.output.LayerNorm", f"{name}.output.LayerNorm"
        y, first_back = self.tape.layer_norm(a + past_attention * x, first, case.layer_norm_eps)
        z, inner_back = self._feed_forward(y, layer)
        out, second_back = self.tape.layer_norm(z + past_feed_forward * y, second, case.layer_norm_eps)

        def back(dy: Array) -> Array:
            d = second_back(dy)
            d = first_back(past_feed_forward * d + inner_back(d))
            return past_attention * d + attention_back(d)

        return out, back

    def _feed_forward(self, y: Array, layer: int) -> tuple[Array, Back]:
        """Two linear layers with GELU between them, and dropout, without the residual."""
        name = f"bert.encoder.layer.{layer}"
        h, up_back = self.tape.linear(y, f"{name}.intermediate.dense")
        g, gelu_back = self.tape.gelu(h)
        z, down_back = self.tape.linear(g, f"{name}.output.dense")
        z, drop_back = self._drop(z, self.case.hidden_dropout, SITES_PER_LAYER * layer + FEED_FORWARD)
        return z, lambda dz: up_back(gelu_back(down_back(drop_back(dz))))

    def first(self, x: Array) -> tuple[Array, Back]:
        """What the pooler reads, [B, 1, D]: the first token of each row."""

        def back(dy: Array) -> Array:
            d = np.zeros_like(x)
            d[:, :1] = dy
            return d

        return x[:, :1], back

    def logits(self) -> tuple[Array, Callable[[Array], None]]:
        """Logits [B, C], and the backward pass, which takes the gradient of the logits and adds to `tape.gradients`."""
        x, embed_back = self._embed()
        backs = []
        for layer in range(self.case.num_hidden_layers):
            x, layer_back = self._layer(x, layer)
            backs.append(layer_back)
        first, first_back = self.first(x)
        pre, pool_back = self.tape.linear(first, "bert.pooler.dense")
        pooled, tanh_back = self.tape.tanh(pre)
        dropped, drop_back = self._drop(pooled, self.case.classifier_dropout, CLASSIFIER)
        out, head_back = self.tape.linear(dropped, "classifier")

        def back(d_logits: Array) -> None:
            d = first_back(pool_back(tanh_back(drop_back(head_back(d_logits[:, None])))))
            for layer_back in reversed(backs):
                d = layer_back(d)
            embed_back(d)

        return out[:, 0], back


class Gradient(NamedTuple):
    """The weighted mean loss of a batch, and its gradient by parameter."""

    loss: float
    gradients: Params


def example_losses(
    case: Case, logits: Array, labels: npt.NDArray[np.generic], rounding: Rounding = unrounded
) -> tuple[Array, Array]:
    """The loss of each example [B], cross-entropy or squared error, and d loss / d logits [B, C].

    `rounding` acts on the probabilities p before 1 is subtracted at the label, and on the logarithm of their sum before
    the logit is subtracted; it matters most if p is near 1.
    """
    if case.regression:
        error = logits[:, 0] - labels.astype(np.float64)
        return error**2, 2.0 * error[:, None]
    at = np.arange(len(labels)), labels.astype(np.int64)
    top = logits.max(axis=-1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=-1))
    slope = rounding(np.exp(logits - log_sum[:, None]))
    slope[at] -= 1.0
    return rounding(log_sum) - logits[at], slope


def value_and_gradient(
    case: Case, params: Arrays, batch: HostBatch, step: int = 0, rounding: Rounding = unrounded
) -> Gradient:
    """sum_i w_i loss_i / sum_i w_i and its gradient, with the dropout of (case.seed, `step`)."""
    network, back, loss, d_logits = _forward(case, params, batch, step, rounding)
    back(d_logits)
    return Gradient(loss, network.tape.gradients)


def mean_loss(case: Case, params: Arrays, batch: HostBatch, step: int = 0, rounding: Rounding = unrounded) -> float:
    """The loss of `value_and_gradient` alone, in half the time."""
    return _forward(case, params, batch, step, rounding)[2]


def _forward(
    case: Case, params: Arrays, batch: HostBatch, step: int, rounding: Rounding = unrounded
) -> tuple[Network, Callable[[Array], None], float, Array]:
    """The network, its backward pass, the mean loss, and its gradient with respect to the logits [B, C]."""
    network = Network(case, params, batch, Masks(case.seed, step) if case.dropout else None, rounding)
    logits, back = network.logits()
    losses, slopes = example_losses(case, logits, np.where(batch.weights > 0, batch.labels, 0), rounding)
    share = batch.weights.astype(np.float64) / batch.weights.sum(dtype=np.float64)
    return network, back, float((share * losses).sum()), share[:, None] * slopes


def evaluate(case: Case, params: Arrays, batch: HostBatch, masks: Masks | None = None) -> Array:
    """Logits [B, C], without dropout or with its masks."""
    return Network(case, params, batch, masks).logits()[0]
