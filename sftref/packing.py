"""Examples -> packed rows: several examples a row, by first-fit decreasing, in a shape that never changes.

Packing is exact: attention is confined to segments, positions restart, and dropout is addressed by example, so a
packed step computes what the padded step computes, over fewer tokens.
"""

from __future__ import annotations

import numpy as np

from sftref.batches import Batch, Layout, epoch_order, fill
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

    It is a function of the data, the batch size and the seed. A later batch that needs more rows makes `pack` widen
    it, at the price of one more compilation; the numbers do not change.
    """
    mean = max(1.0, float(tokens.lengths.mean()))
    # Half as many slots again as the mean row needs: more would be computed in vain in the last layer, fewer would
    # leave rows of short examples half empty.
    slots = max(1, min(int(np.ceil(1.5 * length / mean)), length // int(tokens.lengths.min())))
    order = epoch_order(len(tokens), seed, 0)
    starts = range(0, min(len(order), TRIAL_BATCHES * batch_size), batch_size)
    needed = max(
        int(first_fit_decreasing(tokens.lengths[order[s : s + batch_size]], length, slots)[0].max()) + 1 for s in starts
    )
    return Layout(micro, _rows(needed, devices, micro), length, slots)


def pack(tokens: TokenArrays, index: np.ndarray, layout: Layout, devices: int) -> tuple[Batch, Layout]:
    """The examples `index` int64 [B] in packed rows, and the layout used (wider than asked for where needed)."""
    row, slot, start = first_fit_decreasing(tokens.lengths[index], layout.length, layout.slots)
    needed = int(row.max()) + 1 if len(index) else 1
    if needed > layout.micro * layout.rows:
        layout = layout._replace(rows=_rows(needed, devices, layout.micro))
    return fill(tokens, index, row, slot, start, layout), layout


def _rows(needed: int, devices: int, micro: int) -> int:
    return devices * -(-needed // (devices * micro))
