"""Examples -> packed rows: several examples a row, by first-fit decreasing, in a shape that never changes.

Packing is exact: attention is confined to segments, positions restart, and dropout is addressed by example, so a
packed step computes what the padded step computes, over fewer tokens.
"""

from __future__ import annotations

import math

import numpy as np

from sftref.batches import WHOLE, Batch, Layout, Part, epoch_order, fill
from sftref.tokens import TokenArrays

# How many batches are packed on trial to size the static layout.
TRIAL_BATCHES = 64


def first_fit_decreasing(lengths: np.ndarray, capacity: int, slots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins for items: each item, longest first, goes to the first bin with room (and a free slot).

    Args:
        lengths: int [B], each at most `capacity`.
        capacity: tokens a row holds.
        slots: examples a row holds.

    Returns:
        Row, slot and start column of each item, int64 [B] each. First-fit decreasing needs at most 11/9 of the best
        number of bins plus 6/9 (Dosa 2007) where slots do not bind.
    """
    n = len(lengths)
    row, slot, start = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    free = np.full(n, capacity, np.int64)  # tokens left in each bin; 0 once the slots are used up
    used = np.zeros(n, np.int64)
    filled = np.zeros(n, np.int64)
    for item in np.argsort(-lengths, kind="stable"):
        size = lengths[item]
        bin_ = int((free >= size).argmax())
        row[item], slot[item], start[item] = bin_, used[bin_], filled[bin_]
        filled[bin_] += size
        used[bin_] += 1
        free[bin_] = capacity - filled[bin_] if used[bin_] < slots else 0
    return row, slot, start


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
    """
    row, slot, start = first_fit_decreasing(tokens.lengths[index], layout.length, layout.slots)
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
