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


def first_fit_decreasing(lengths: np.ndarray, capacity: int, slots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places for examples: the longest first, each goes to the first row with room and a free slot.

    Args:
        lengths: int [B], each at most `capacity`.
        capacity: most tokens in a row.
        slots: most examples in a row.

    Returns:
        Row, slot and start column of each example, int64 [B] each. First-fit decreasing needs at most 11/9 of the best
        number of rows plus 6/9 (Dosa 2007), if slots are not the limit.
    """
    n = len(lengths)
    free, used = np.full(n, capacity, np.int64), np.zeros(n, np.int64)  # tokens left, and slots used, in each row
    row, slot, start = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    order = np.argsort(-lengths, kind="stable")
    for item in order:
        size = lengths[item]
        r = int(((free >= size) & (used < slots)).argmax())
        row[item], slot[item], start[item] = r, used[r], capacity - free[r]
        free[r] -= size
        used[r] += 1
    return row, slot, start


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

    The shape does not depend on earlier batches, so that a resumed run computes the same bits.
    """
    row, slot, start = first_fit_decreasing(tokens.lengths[index], layout.length, layout.slots)
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
