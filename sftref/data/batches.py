"""Token arrays -> batches of NumPy arrays, in the order of an epoch, with padding of weight 0.

A batch consists of rows of tokens. Each row has *slots*, one for each example in the row: a padded row has one slot, a
packed row (`packing.py`) several. An empty slot has weight 0 and a padding token has segment 0; their other values do
not matter.

Every batch has new arrays that are not written to again, because on a CPU `jax.device_put` may use the NumPy buffer
itself instead of a copy (jax-ml/jax#37830).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from sftref.data.tokens import TokenArrays


class Batch(NamedTuple):
    """One update's data. The leaves are NumPy arrays here, and device arrays after `Trainer.put`."""

    input_ids: Any  # int32 [K, R, L]
    token_type_ids: Any  # int32 [K, R, L]
    positions: Any  # int32 [K, R, L], counted from the start of the example
    segments: Any  # int32 [K, R, L], 0 = padding, s + 1 = the example in slot s
    starts: Any  # int32 [K, R, S], the column of the example's [CLS]
    labels: Any  # int32 [K, R, S]; float32 for regression
    weights: Any  # float32 [K, R, S], 0 = empty slot
    example_ids: Any  # uint32 [K, R, S]


class Layout(NamedTuple):
    """The static shape of batches: K micro-batches of R rows (over all devices) of L tokens and S slots."""

    micro: int
    rows: int
    length: int
    slots: int


class Part(NamedTuple):
    """The part of a batch for one process: the shards `first` .. `stop` - 1 of all `shards` shards."""

    first: int
    stop: int
    shards: int

    @property
    def shard_count(self) -> int:
        """The number of shards in this part."""
        return self.stop - self.first

    def of_rows(self, rows: int) -> range:
        """The rows of this part, in a micro-batch of `rows` rows (a multiple of `shards`)."""
        each = rows // self.shards
        return range(self.first * each, self.stop * each)


WHOLE = Part(0, 1, 1)


class Update(NamedTuple):
    """One update: its epoch, and the indices of its examples in `TokenArrays`."""

    epoch: int
    examples: np.ndarray  # int64 [B]; fewer in the last update of an epoch


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `n` examples in an epoch, int64 [n]: a function of (seed, epoch) only.

    Examples are sorted by random 64-bit words of the Philox counter generator, because NumPy guarantees a generator's
    bits across versions, but not the results of `permutation`.
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n)
    return np.argsort(words, kind="stable")


def steps_per_epoch(n: int, batch_size: int, *, drop_last: bool) -> int:
    """The number of updates of an epoch over `n` examples."""
    return n // batch_size if drop_last else -(-n // batch_size)


def plan(n: int, batch_size: int, seed: int, *, drop_last: bool, start_step: int = 0) -> Iterator[Update]:
    """The updates from `start_step` on, epoch after epoch, without end."""
    per_epoch = steps_per_epoch(n, batch_size, drop_last=drop_last)
    epoch, step = divmod(start_step, per_epoch)
    while True:
        order = epoch_order(n, seed, epoch)
        for k in range(step, per_epoch):
            yield Update(epoch, order[k * batch_size : (k + 1) * batch_size])
        epoch, step = epoch + 1, 0


def padded_layout(batch_size: int, length: int, devices: int, micro: int = 1) -> Layout:
    """The layout with one example per row; R is rounded up to a multiple of `devices`."""
    return Layout(micro, devices * -(-batch_size // (devices * micro)), length, 1)


def pad(tokens: TokenArrays, index: np.ndarray, layout: Layout, part: Part = WHOLE) -> Batch:
    """A batch of the examples `index`, int64 [B], one example per row, in that order."""
    rows = np.arange(len(index))
    return fill(tokens, index, rows, np.zeros_like(rows), np.zeros_like(rows), layout, part)


def fill(
    tokens: TokenArrays,
    index: np.ndarray,
    row: np.ndarray,
    slot: np.ndarray,
    start: np.ndarray,
    layout: Layout,
    part: Part = WHOLE,
) -> Batch:
    """A batch with each example at the given row, slot and column.

    Args:
        tokens: the tokens of the whole split.
        index: int64 [B], the examples of the batch.
        row: int64 [B], the row of each example, 0 .. K*R - 1.
        slot: int64 [B], the slot of each example.
        start: int64 [B], the first column of each example.
        layout: K, R, L and S.
        part: the rows to make; R of the result is their number, and no other tokens are read.

    Raises:
        ValueError: an example is outside the layout.
    """
    k, r, length, slots = layout
    sizes = tokens.lengths[index]
    if len(index) and (row.max() >= k * r or slot.max() >= slots or (start + sizes).max() > length):
        raise ValueError(f"{len(index)} examples do not fit the layout {layout}")
    own = part.of_rows(r)
    here = (row % r >= own.start) & (row % r < own.stop)
    index, slot, start, sizes = index[here], slot[here], start[here], sizes[here]
    row, r = row[here] // r * len(own) + row[here] % r - own.start, len(own)
    # All tokens end to end: token p of example b is read at offset[b] + p and written to column start[b] + p.
    owner = np.repeat(np.arange(len(index)), sizes)
    position = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    source = tokens.offsets[index][owner] + position
    target = (row * length + start)[owner] + position

    def scatter(values: np.ndarray, at: np.ndarray, width: int, dtype: Any) -> np.ndarray:
        out = np.zeros(k * r * width, dtype)
        out[at] = values
        return out.reshape(k, r, width)

    per_token = (tokens.input_ids[source], tokens.token_type_ids[source], position, (slot + 1)[owner])
    ones = np.ones(len(index), np.float32)
    per_slot = (start.astype(np.int32), tokens.labels[index], ones, tokens.example_ids[index])
    return Batch(
        *(scatter(values, target, length, np.int32) for values in per_token),
        *(scatter(values, row * slots + slot, slots, values.dtype) for values in per_slot),
    )
