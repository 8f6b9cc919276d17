"""Examples -> packed rows: several examples per row, placed by first-fit decreasing, in one static shape.

Packing changes no result: attention stays within an example, positions restart with each example, and dropout is
addressed by example. So a packed step computes the same numbers as the padded step, over fewer tokens.
"""

import math

import numpy as np

from sftref.data.batches import WHOLE, Batch, Layout, Part, epoch_order, fill
from sftref.data.tokens import TokenArrays

# The number of batches that are packed to find the static layout.
TRIAL_BATCHES = 64
# The cost of attention scores grows with the square of the row length. So a row whose length is a multiple of BLOCK is
# computed block by block, if no example crosses from one block into the next.
BLOCK = 64


def blocks_of(length: int) -> int:
    """The number of blocks in a row of `length` tokens; 1 if `length` is not a multiple of `BLOCK`."""
    return length // BLOCK if length % BLOCK == 0 else 1


def first_fit_decreasing(
    lengths: np.ndarray, capacity: int, slots: int, block: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places for examples: the longest first, each goes to the first bin with room and a free slot.

    Args:
        lengths: int [B], each at most `capacity`.
        capacity: most tokens in a row.
        slots: most examples in a row.
        block: tokens in a block, a divisor of `capacity`. No example crosses into another block, except in the first
            rows, which have the examples that are longer than a block. None: examples may cross.

    Returns:
        Row, slot and start column of each example, int64 [B] each. Without blocks a bin is a row, and first-fit
        decreasing needs at most 11/9 of the best number of bins plus 6/9 (Dosa 2007), if slots are not the limit.
    """
    n, block = len(lengths), block or capacity
    each, longer = capacity // block, int((lengths > block).sum())
    # The bins in order: a whole row for each example longer than a block, then rows of `each` blocks.
    bin_row = np.concatenate([np.arange(longer), longer + np.arange(n * each) // each])
    start_of = np.concatenate([np.zeros(longer, np.int64), np.tile(np.arange(each) * block, n)])
    # Tokens left in each bin; 0 once the slots of its row are used.
    free = np.repeat([capacity, block], [longer, n * each])
    used = np.zeros(longer + n, np.int64)
    row, slot, start = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)

    def place(items: np.ndarray) -> None:
        for item in items:
            size = lengths[item]
            bin_ = int((free >= size).argmax())
            r = bin_row[bin_]
            row[item], slot[item], start[item] = r, used[r], start_of[bin_]
            start_of[bin_] += size
            free[bin_] -= size
            used[r] += 1
            if used[r] == slots:
                free[bin_row == r] = 0

    order = np.argsort(-lengths, kind="stable")
    place(order[:longer])
    free[:longer][used[:longer] == 0] = 0  # rows left empty, because their examples fit into others
    place(order[longer:])
    return np.unique(row, return_inverse=True)[1], slot, start


def packed_layout(
    tokens: TokenArrays, batch_size: int, length: int, devices: int, micro: int = 1, *, seed: int = 0
) -> Layout:
    """A layout for batches of these examples, with as many rows as the fullest of the first 64 batches needs.

    It depends only on the data, the batch size and the seed. `pack` adds rows to a batch that needs more; this costs
    one more compilation.
    """
    slots = slots_for(tokens, length)
    order = epoch_order(len(tokens), seed, 0)
    starts = range(0, min(len(order), TRIAL_BATCHES * batch_size), batch_size)
    needed = max(
        int(first_fit_decreasing(tokens.lengths[order[s : s + batch_size]], length, slots)[0].max()) + 1 for s in starts
    )
    return Layout(micro, rows_for(needed, devices, micro), length, slots)


def pack(tokens: TokenArrays, index: np.ndarray, layout: Layout, devices: int, part: Part = WHOLE) -> Batch:
    """A batch of the examples `index`, int64 [B], in packed rows of `layout`, with more rows if needed.

    The shape does not depend on earlier batches, so that a resumed run computes the same bits. Examples are kept within
    blocks if that takes no more rows.
    """
    lengths = tokens.lengths[index]
    places = first_fit_decreasing(lengths, layout.length, layout.slots)
    if (blocks := blocks_of(layout.length)) > 1:
        within = first_fit_decreasing(lengths, layout.length, layout.slots, layout.length // blocks)
        places = min(within, places, key=lambda rows_slots_starts: int(rows_slots_starts[0].max()))
    row, slot, start = places
    needed = int(row.max()) + 1
    if needed > layout.micro * layout.rows:
        layout = layout._replace(rows=rows_for(needed, devices, layout.micro))
    return fill(tokens, index, row, slot, start, layout, part)


def slots_for(tokens: TokenArrays, length: int) -> int:
    """S, the most examples in a row: 1.5 times the number of examples of mean length that fit into a row.

    More slots would cost time, because the last layer computes empty slots too; with fewer, rows of short examples
    would not be full.
    """
    mean = float(tokens.lengths.mean())
    return max(1, min(math.ceil(1.5 * length / mean), length // int(tokens.lengths.min())))


def rows_for(needed: int, devices: int, micro: int) -> int:
    """The least R, a multiple of `devices`, for which `micro` times R is at least `needed`."""
    return devices * -(-needed // (devices * micro))
