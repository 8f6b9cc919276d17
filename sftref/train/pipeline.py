"""Token arrays, configuration -> batches on the devices, prepared one step ahead."""

import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np

from sftref.config import TrainConfig
from sftref.data.batches import Batch, Layout, fill, pad, padded_layout, plan
from sftref.data.packing import first_fit_decreasing, pack, packed_layout, rows_for, slots_for
from sftref.data.tokens import TokenArrays
from sftref.train.chunks import CPU_EVAL_TOKENS, CPU_TRAIN_TOKENS, chunked
from sftref.train.trainer import Trainer

Item = TypeVar("Item")

# The number of examples that are packed together for evaluation. With more examples, rows are fuller (0.99 with 4,096
# examples of QQP's lengths, 0.9 with 64), but the time for first-fit grows with the square.
EVAL_POOL = 4096


class Feed(NamedTuple):
    """A training batch on the devices."""

    epoch: int
    examples: np.ndarray  # int64 [B], rows of the token arrays
    tokens: int  # without padding
    placed: Batch


class EvalFeed(NamedTuple):
    """An evaluation batch on the devices, and the row and slot of each of its examples."""

    examples: np.ndarray  # int64 [B]
    row: np.ndarray  # int64 [B]
    slot: np.ndarray  # int64 [B]
    placed: Batch


def chunk_rows(trainer: Trainer, length: int, tokens: int) -> int:
    """The most rows of `length` tokens in a chunk, over all devices, of `tokens` tokens on each; a limit on CPUs only.

    If the gradients are reduced after each micro-batch, chunks would cost a message each, and there is no limit.
    """
    cpu = trainer.devices[0].platform == "cpu"
    return trainer.shards * max(1, tokens // length) if cpu and trainer.local_sums else sys.maxsize


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items of `items`; a thread computes the next item while the caller uses this one."""
    iterator = iter(items)
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="sftref-input") as pool:
        future = pool.submit(next, iterator, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]


def train_feed(
    tokens: TokenArrays, config: TrainConfig, trainer: Trainer, *, start_step: int, total_steps: int
) -> Iterator[Feed]:
    """The batches of updates `start_step` .. `total_steps` - 1; each depends only on data, configuration and step."""
    n = trainer.shards
    shape = (config.batch_size, config.max_length, n, config.accumulate)
    layout = packed_layout(tokens, *shape, seed=config.seed) if config.pack else padded_layout(*shape)
    layout = chunked(layout, chunk_rows(trainer, config.max_length, CPU_TRAIN_TOKENS))
    updates = plan(len(tokens), config.batch_size, config.seed, drop_last=config.drop_last, start_step=start_step)
    for epoch, examples in islice(updates, total_steps - start_step):
        part = trainer.part
        batch = pack(tokens, examples, layout, n, part) if config.pack else pad(tokens, examples, layout, part)
        yield Feed(epoch, examples, int(tokens.lengths[examples].sum()), trainer.put(batch))


def eval_feed(tokens: TokenArrays, config: TrainConfig, trainer: Trainer) -> Iterator[EvalFeed]:
    """Every example once, in batches of one shape; the last batch may be partly empty."""
    n, size, length = trainer.shards, config.eval_batch_size, config.max_length
    if config.pack:
        slots = slots_for(tokens, length)
        rows = rows_for(int(np.ceil(size * tokens.lengths.mean() / length)), n, 1)
        layout = Layout(1, rows, length, slots)
    else:
        layout = padded_layout(size, length, n)
    layout = layout._replace(rows=min(layout.rows, chunk_rows(trainer, length, CPU_EVAL_TOKENS)))
    for start in range(0, len(tokens), EVAL_POOL):
        examples = np.arange(start, min(start + EVAL_POOL, len(tokens)))
        if config.pack:
            row, slot, column = first_fit_decreasing(tokens.lengths[examples], length, layout.slots)
        else:
            row, slot, column = examples - start, np.zeros_like(examples), np.zeros_like(examples)
        for first in range(0, int(row.max()) + 1, layout.rows):
            here = (row >= first) & (row < first + layout.rows)
            place = (row[here] - first, slot[here])
            batch = fill(tokens, examples[here], *place, column[here], layout, trainer.part)
            yield EvalFeed(examples[here], *place, trainer.put(batch))
