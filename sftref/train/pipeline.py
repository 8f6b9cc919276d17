"""Token arrays, layout -> batches on the devices, one ahead of the step that runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np

from sftref.config import TrainConfig
from sftref.data.batches import Batch, Layout, chunked, fill, pad, padded_layout, plan
from sftref.data.packing import first_fit_decreasing, pack, packed_layout, rows_for, slots_for
from sftref.data.tokens import TokenArrays
from sftref.train.trainer import Trainer

Item = TypeVar("Item")

# Examples packed together for evaluation. Rows fill better from a larger pool (0.99 from 4,096 examples of QQP's
# lengths, 0.9 from 64), and first-fit is quadratic in it.
EVAL_POOL = 4096

# Tokens that one CPU device works on at a time, training and evaluating. The activations of 512 tokens of MiniLM take
# 3 MB a layer and stay in the cache: a step of 64 examples in chunks of 384 to 512 tokens took 2.05 s of processor
# time, 2.33 s in chunks of 768 and 2.60 s whole (2304 tokens; medians of 6, AMD EPYC, JAX 0.10.2). Smaller chunks leave
# fewer empty rows in the last one (0.88 of all tokens are real in chunks of 512, 0.92 of 256, 0.95 of 128; QQP's
# lengths), but each adds its gradients up: against 512, chunks of 256 took 0.93 to 0.99 of the time for MiniLM, 0.97 to
# 0.98 for 4 layers of width 256, 0.98 for BERT-base, chunks of 128 1.04 and 1.16 (AMD EPYC with 1 MB of L2 a core,
# pairs in turn), with a third less memory. Evaluation, which keeps no activations, took 32 ms a row in chunks of 512
# and 1024, 43 ms in chunks of 7680; on a Xeon with 2 MB of L2 a core, 1,024 examples took the small model 1.02 s in
# chunks of 512, 0.92 s of 1024 or 2048.
CPU_TRAIN_TOKENS = 256
CPU_EVAL_TOKENS = 1024


class Feed(NamedTuple):
    """A training batch on its way to the step."""

    epoch: int
    examples: np.ndarray  # int64 [B], rows of the token arrays
    tokens: int  # real ones
    placed: Batch


class EvalFeed(NamedTuple):
    """An evaluation batch, and where each of its examples stands."""

    examples: np.ndarray  # int64 [B]
    row: np.ndarray  # int64 [B]
    slot: np.ndarray  # int64 [B]
    placed: Batch


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, each computed in a thread while the one before it is in use."""
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
    """The batches of the updates `start_step` .. `total_steps` - 1: a function of data, seed and step."""
    n = trainer.shards
    shape = (config.batch_size, config.max_length, n, config.accumulate)
    layout = packed_layout(tokens, *shape, seed=config.seed) if config.pack else padded_layout(*shape)
    if on_one_cpu(trainer):
        layout = chunked(layout, 1, max(1, CPU_TRAIN_TOKENS // config.max_length))
    updates = plan(len(tokens), config.batch_size, config.seed, drop_last=config.drop_last, start_step=start_step)
    for epoch, examples in islice(updates, total_steps - start_step):
        if config.pack:
            batch = pack(tokens, examples, layout, n, trainer.part)
        else:
            batch = pad(tokens, examples, layout, trainer.part)
        yield Feed(epoch, examples, int(tokens.lengths[examples].sum()), trainer.put(batch))


def eval_feed(tokens: TokenArrays, config: TrainConfig, trainer: Trainer) -> Iterator[EvalFeed]:
    """Every example once, the last ones included, in batches of one shape."""
    n, size, length = trainer.shards, config.eval_batch_size, config.max_length
    if config.pack:
        slots = slots_for(tokens, length)
        rows = rows_for(int(np.ceil(size * tokens.lengths.mean() / length)), n, 1)
        layout = Layout(1, rows, length, slots)
    else:
        layout = padded_layout(size, length, n)
    if on_one_cpu(trainer):
        layout = layout._replace(rows=min(layout.rows, max(1, CPU_EVAL_TOKENS // length)))
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


def on_one_cpu(trainer: Trainer) -> bool:
    """Whether chunks for the cache pay: on several devices, `mesh` would reduce the gradients after each of them."""
    return len(trainer.devices) == 1 and trainer.devices[0].platform == "cpu"
