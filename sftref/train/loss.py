"""Logits -> sums: the loss, the weight, and what the metrics count. Sums, never means: see `step.py`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class LossSums(NamedTuple):
    """Sums over the examples at hand (of one device, until they are reduced): scalars in at least float32."""

    loss: Array
    weight: Array


class EvalSums(NamedTuple):
    """`LossSums`, and counts that are exact however they are added up.

    `counts` is int32 [C, C], rows true and columns predicted. For regression it is float [6]: n, and the sums of
    x, y, x^2, y^2 and xy, with x the prediction and y the label, both less `REGRESSION_SHIFT`.
    """

    loss: Array
    weight: Array
    counts: Array


# The middle of STS-B's scale (0 to 5): moments about it do not cancel in float32 as those about 0 would.
REGRESSION_SHIFT = 2.5


def example_losses(logits: Array, labels: Array, *, regression: bool) -> Array:
    """Cross-entropy -log softmax(logits)[label], or the squared error (logit - label)^2.

    Args:
        logits: [..., C]; C = 1 for regression.
        labels: [...]; int32 in 0 .. C - 1, or real for regression.
        regression: which of the two.

    Returns:
        [...], the dtype of the logits.
    """
    if regression:
        return jnp.square(logits[..., 0] - labels.astype(logits.dtype))
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]


def loss_sums(logits: Array, labels: Array, weights: Array, *, regression: bool) -> LossSums:
    """sum_i w_i loss_i and sum_i w_i; where w_i = 0 neither logits nor label matter, whatever they are.

    Args:
        logits: [..., C].
        labels: [...].
        weights: float32 [...], 0 for padding.
        regression: see `example_losses`.
    """
    real = weights > 0
    logits = jnp.where(real[..., None], logits, 0)
    losses = example_losses(logits, jnp.where(real, labels, 0), regression=regression)
    w = weights.astype(losses.dtype)
    return LossSums(jnp.sum(w * losses), jnp.sum(w))


def eval_sums(logits: Array, labels: Array, weights: Array, *, regression: bool) -> EvalSums:
    """`loss_sums` with the counts of `EvalSums`; shapes as there."""
    sums = loss_sums(logits, labels, weights, regression=regression)
    real = weights > 0
    if regression:
        x = jnp.where(real, logits[..., 0] - REGRESSION_SHIFT, 0)
        y = jnp.where(real, labels.astype(logits.dtype) - REGRESSION_SHIFT, 0)
        n = real.astype(logits.dtype)
        return EvalSums(*sums, jnp.stack([jnp.sum(v) for v in (n, x, y, x * x, y * y, x * y)]))
    classes = logits.shape[-1]
    cell = jnp.where(real, labels * classes + jnp.argmax(logits, axis=-1).astype(labels.dtype), 0)
    counts = jnp.zeros(classes * classes, jnp.int32).at[cell.ravel()].add(real.ravel().astype(jnp.int32))
    return EvalSums(*sums, counts.reshape(classes, classes))
