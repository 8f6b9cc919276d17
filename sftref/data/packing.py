"""Examples -> packed rows: several examples a row, by first-fit decreasing, in a shape that never changes.

Packing is exact: attention is confined to segments, positions restart, and dropout is addressed by example, so a
packed step computes what the padded step computes, over fewer tokens.
"""

from __future__ import annotations

import math

import numpy as np

from sftref.data.batches import WHOLE, Batch, Layout, Part, epoch_order, fill
from sftref.data.tokens import TokenArrays

# How many batches are packed on trial to size the static layout.
TRIAL_BATCHES = 64
# Attention scores cost the square of a row's length, so rows whose length is a multiple of BLOCK are attended to block
# by block where no example crosses from one block into the next.
BLOCK = 64


def blocks_of(length: int) -> int:
    """The number of blocks in a row of `length` tokens; 1 where it is no multiple of `BLOCK`."""
    return length // BLOCK if length % BLOCK == 0 else 1


def first_fit_decreasing(
    lengths: np.ndarray, capacity: int, slots: int, block: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins for items: each item, longest first, goes to the first bin with room (and a free slot).

    Args:
        lengths: int [B], each at most `capacity`.
        capacity: tokens a row holds.
        slots: examples a row holds.
        block: a divisor of `capacity`; no example crosses a multiple of it, but in the rows, in front, that hold a
            longer one. None lets all cross.

    Returns:
        Row, slot and start column of each item, int64 [B] each. Without blocks a bin is a row, and first-fit
        decreasing needs at most 11/9 of the best number of bins plus 6/9 (Dosa 2007) where slots do not bind.
    """
    n, block = len(lengths), block or capacity
    each, longer = capacity // block, int((lengths > block).sum())
    # The bins in order: a whole row for each of the longer items, and rows of `each` blocks behind them.
    bin_row = np.concatenate([np.arange(longer), longer + np.arange(n * each) // each])
    start_of = np.concatenate([np.zeros(longer, np.int64), np.tile(np.arange(each) * block, n)])
    # Tokens left in each; 0 once the slots of its row are used up.
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
    free[:longer][used[:longer] == 0] = 0  # longer ones may have shared rows
    place(order[longer:])
    return np.unique(row, return_inverse=True)[1], slot, start


def packed_layout(
    tokens: TokenArrays, batch_size: int, length: int, devices: int, micro: int = 1, *, seed: int = 0
) -> Layout:
    """A layout wide enough for batches of these examples, found by packing up to 64 of them on trial.

    It is a function of the data, the batch size and the seed. A batch that needs more rows gets them from `pack`, at
    the price of one more compilation.
    """
    slots = slots_for(tokens, length)
    order = epoch_order(len(tokens), seed, 0)
    starts = range(0, min(len(order), TRIAL_BATCHES * batch_size), batch_size)
    needed = max(
        int(first_fit_decreasing(tokens.lengths[order[s : s + batch_size]], length, slots)[0].max()) + 1 for s in starts
    )
    return Layout(micro, rows_for(needed, devices, micro), length, slots)


def pack(tokens: TokenArrays, index: np.ndarray, layout: Layout, devices: int, part: Part = WHOLE) -> Batch:
    """The examples `index` int64 [B] in packed rows of `layout`, with more rows than that where they need them.

    The shape depends on these examples and not on the batches before, so that a resumed run computes the same bits.
    Examples are kept within blocks where that takes no more rows.
    """
    lengths = tokens.lengths[index]
    places = first_fit_decreasing(lengths, layout.length, layout.slots)
    if (blocks := blocks_of(layout.length)) > 1:
        within = first_fit_decreasing(lengths, layout.length, layout.slots, layout.length // blocks)
        places = min(within, places, key=lambda found: int(found[0].max()))
    row, slot, start = places
    needed = int(row.max()) + 1
    if needed > layout.micro * layout.rows:
        layout = layout._replace(rows=rows_for(needed, devices, layout.micro))
    return fill(tokens, index, row, slot, start, layout, part)


def slots_for(tokens: TokenArrays, length: int) -> int:
    """How many examples a row may hold: half as many again as the mean row needs.

    More slots would be computed in vain in the last layer; fewer would leave rows of short examples half empty.
    """
    mean = float(tokens.lengths.mean())
    return max(1, min(math.ceil(1.5 * length / mean), length // int(tokens.lengths.min())))


def rows_for(needed: int, devices: int, micro: int) -> int:
    """R such that `micro` times R rows are at least `needed`, and every device has as many of them."""
    return devices * -(-needed // (devices * micro))
