"""Logits -> sums over examples: the loss, the weight, the counts for metrics. Why never means: see `step.py`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class LossSums(NamedTuple):
    """Sums over examples (of one device, until they are reduced): scalars in at least float32."""

    loss: Array
    weight: Array


class EvalSums(NamedTuple):
    """`LossSums`, and for classes the confusion matrix `counts`: int32 [C, C], rows true, columns predicted.

    `counts` is None for regression, whose metrics are computed from all predictions: ranks cannot be summed.
    """

    loss: Array
    weight: Array
    counts: Array | None


def example_losses(logits: Array, labels: Array, *, regression: bool) -> Array:
    """Cross-entropy -log softmax(logits)[label], or the squared error (logit - label)^2.

    Args:
        logits: [..., C]; C = 1 for regression.
        labels: [...]; int32 in 0 .. C - 1, or real for regression.
        regression: True for the squared error, False for cross-entropy.

    Returns:
        [...], the dtype of the logits.
    """
    if regression:
        return jnp.square(logits[..., 0] - labels.astype(logits.dtype))
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]


def loss_sums(logits: Array, labels: Array, weights: Array, *, regression: bool) -> LossSums:
    """sum_i w_i loss_i and sum_i w_i; where w_i = 0, logits and label have no influence, even if NaN.

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
    """The sums of `loss_sums` and the confusion matrix; Args: see `loss_sums`."""
    sums = loss_sums(logits, labels, weights, regression=regression)
    if regression:
        return EvalSums(*sums, None)
    real, classes = weights > 0, logits.shape[-1]
    cell = jnp.where(real, labels * classes + jnp.argmax(logits, axis=-1).astype(labels.dtype), 0)
    counts = jnp.zeros(classes * classes, jnp.int32).at[cell.ravel()].add(real.ravel().astype(jnp.int32))
    return EvalSums(*sums, counts.reshape(classes, classes))
