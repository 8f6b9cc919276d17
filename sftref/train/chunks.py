"""Batch [K, ...] -> one sum over its K micro-batches, computed in chunks and blocks that save time.

A micro-batch is one of those of `--accumulate` or, on CPU devices, a *chunk*: a few rows whose activations stay in the
cache. Sums do not depend on how rows are grouped, so this file changes results only by the order of additions.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from sftref.data.batches import Batch, Layout
from sftref.data.packing import blocks_of

Tree = TypeVar("Tree")

# Tokens in a chunk on a CPU device, measured with MiniLM on an AMD EPYC with 1 MB of L2 per core, JAX 0.10.2. A step
# of 64 examples (2304 tokens) took 2.60 s of processor time in one chunk, 2.33 s in chunks of 768 tokens, 2.05 s in
# chunks of 384 to 512. Chunks of 256 took 0.93 to 0.99 of these 2.05 s with a third less memory, chunks of 128 took
# 1.04. With smaller chunks, fewer rows are padding, but gradients are added more often. Evaluation keeps no
# activations: a row took 32 ms in chunks of 512 and 1024, 43 ms in chunks of 7680. With 2 MB of L2 (Xeon), chunks of
# 1024 to 2048 took 0.9 of the time of 512.
CPU_TRAIN_TOKENS = 256
CPU_EVAL_TOKENS = 1024


def chunked(layout: Layout, most_rows: int) -> Layout:
    """A layout with the rows of `layout` in micro-batches of at most `most_rows` rows, over all devices.

    If rows are split, there is one more micro-batch, for batches that need more rows. Empty micro-batches at the end
    are not computed.
    """
    rows = min(layout.rows, most_rows)
    if rows == layout.rows:
        return layout
    return layout._replace(micro=-(-layout.micro * layout.rows // rows) + 1, rows=rows)


def sum_over_micro_batches(one: Callable[[Batch, Array, int], Tree], batch: Batch, *, in_blocks: bool) -> Tree:
    """The sum of `one` over the micro-batches of a batch, up to the last micro-batch that has an example.

    Under `pmap` each device stops at its own last micro-batch, as the loop has no collective. With `in_blocks`, all
    micro-batches after the last with an example that crosses blocks are computed block by block, with fewer attention
    scores.

    Args:
        one: (micro-batch [R, ...], its index, the number of blocks in a row) -> a tree of sums.
        batch: leaves [K, R, ...]; micro-batches may have different numbers of examples.
        in_blocks: whether `one` may compute a row in blocks.
    """

    def at(k: Array, blocks: int = 1) -> Tree:
        return one(jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, k, keepdims=False), batch), k, blocks)

    if batch.weights.shape[0] == 1:
        return at(jnp.int32(0))
    stop = _last(jnp.any(batch.weights > 0, axis=(1, 2)))

    def add(total: Tree, first: Array, end: Array, blocks: int) -> Tree:
        return lax.fori_loop(first, end, lambda k, so_far: jax.tree.map(jnp.add, so_far, at(k, blocks)), total)

    zero = jnp.int32(0)
    # Made from `stop`, which varies over the devices under `shard_map`, as the sums do.
    zeros: Tree = jax.tree.map(lambda a: jnp.full(a.shape, 0 * stop, a.dtype), jax.eval_shape(at, zero))
    blocks = blocks_of(batch.segments.shape[2]) if in_blocks else 1
    if blocks == 1:
        return add(zeros, zero, stop, 1)
    whole = _last(crossing(batch, blocks))
    return add(add(zeros, zero, whole, 1), whole, stop, blocks)


def crossing(batch: Batch, blocks: int) -> Array:
    """Bool [K]: whether a micro-batch has an example in more than one of the `blocks` equal parts of its row."""
    parts = batch.segments.reshape(*batch.segments.shape[:2], blocks, -1)
    present = jnp.any(parts[..., None] == jnp.arange(1, batch.starts.shape[2] + 1), axis=3)  # [K, R, blocks, S]
    return jnp.any(present.sum(axis=2) > 1, axis=(1, 2))


def _last(flags: Array) -> Array:
    """The number, from 1, of the last true one of `flags` [K]; 0 if none is true."""
    return jnp.max(jnp.where(flags, jnp.arange(1, len(flags) + 1, dtype=jnp.int32), 0))
