"""Run, state -> a trained state: epochs, evaluations, checkpoints, and a record of each.

On simulated CPU devices JAX before 0.12 deadlocks when some hundred steps with a collective are started without waiting
for any. So at most `IN_FLIGHT` steps are unfinished here, enough to keep the host one batch ahead.
"""

import faulthandler
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sftref.config import NonFiniteError, TrainConfig
from sftref.data.batches import Batch
from sftref.data.tasks import Task
from sftref.data.tokens import TokenArrays
from sftref.model.pretrained import Pretrained
from sftref.train import interrupt
from sftref.train.checkpoint import Checkpoints
from sftref.train.metrics import task_metrics
from sftref.train.pipeline import EvalFeed, Feed, ahead, eval_feed, train_feed
from sftref.train.records import Evaluation, RunRecorder, StepRecord
from sftref.train.step import Program, TrainState
from sftref.train.trainer import Trainer

IN_FLIGHT = 2


@dataclass(frozen=True, eq=False)
class Run:
    """A configuration with its data, model, program and trainer, as `sftref.prepare.prepare` loads them."""

    config: TrainConfig
    task: Task
    model: Pretrained
    tokenizer: Any
    train: TokenArrays
    validation: Mapping[str, TokenArrays]
    program: Program
    trainer: Trainer
    steps_per_epoch: int
    total_steps: int


def fit(
    run: Run,
    state: TrainState,
    recorder: RunRecorder,
    checkpoints: Checkpoints | None = None,
    *,
    deadline: float | None = None,
    compare: Callable[[TrainState, Batch], None] | None = None,
) -> TrainState:
    """Train from `state` to the end of the run; returns the last state, on the host.

    Args:
        run: see `Run`.
        state: on the host; training starts after its step.
        recorder: gets a record of each update and epoch.
        checkpoints: where the state is saved, every `save_every` updates; None to save nothing.
        deadline: seconds without progress after which the process prints its stack and exits; None for no limit.
        compare: called with the placed state and the first batch, before the first update.

    Raises:
        NonFiniteError: the loss of a step is NaN or infinite. Up to `IN_FLIGHT` later steps may have been started.
    """
    trainer, config = run.trainer, run.config
    feeds = train_feed(run.train, config, trainer, start_step=int(state.step), total_steps=run.total_steps)
    waiting: deque[tuple[int, Feed, Any]] = deque()
    clock, last = time.perf_counter(), math.nan

    def finish_oldest() -> None:
        nonlocal clock, last
        step, feed, unread = waiting.popleft()
        _restart_deadline(deadline)
        metrics, now = trainer.read(unread), time.perf_counter()
        last = float(metrics.loss)
        if not math.isfinite(last):
            raise NonFiniteError(_non_finite(step, last, run.train.example_ids[feed.examples]))
        rate, size = float(metrics.learning_rate), len(feed.examples)
        recorder.step(StepRecord(step, last, rate, size, feed.tokens, now - clock))
        clock = now

    _restart_deadline(deadline)
    placed = trainer.place(state)
    for step, feed in enumerate(ahead(feeds), start=int(state.step) + 1):
        if compare is not None:
            compare(placed, feed.placed)
            compare = None
        placed, metrics = trainer.train_step(placed, feed.placed)
        waiting.append((step, feed, metrics))
        interrupt.check()
        ends = step % run.steps_per_epoch == 0 or step == run.total_steps
        saves = checkpoints is not None and config.save_every is not None and step % config.save_every == 0
        while waiting and (len(waiting) > IN_FLIGHT or ends or saves):
            finish_oldest()
        if ends:
            evaluations = [evaluate(run, placed, split, deadline=deadline) for split in run.validation]
            recorder.epoch(step, step / run.steps_per_epoch, last, evaluations)
        if saves and checkpoints is not None:
            checkpoints.save(trainer.read(placed))
        clock = time.perf_counter() if ends or saves else clock
    _restart_deadline(deadline)
    return trainer.read(placed)


def evaluate(
    run: Run,
    state: TrainState,
    split: str,
    *,
    progress: Callable[[int], None] | None = None,
    deadline: float | None = None,
) -> Evaluation:
    """Evaluate every example of a validation split once, the last partial batch included.

    Args:
        run: see `Run`.
        state: placed by the run's trainer; not changed.
        split: a name in `run.validation`.
        progress: called with the number of examples of each finished batch.
        deadline: see `fit`.

    Raises:
        NonFiniteError: a logit is NaN or infinite. Without this error, its example would count as one of class 0.
    """
    trainer, task, tokens = run.trainer, run.task, run.validation[split]
    began = time.perf_counter()
    logits = np.full((len(tokens), task.num_labels), np.nan)
    results: list[Any] = []
    waiting: deque[tuple[EvalFeed, Any, Any]] = deque()

    def finish_oldest() -> None:
        _restart_deadline(deadline)
        feed, sums, placed_logits = waiting.popleft()
        results.append(trainer.read(sums))
        logits[feed.examples] = trainer.read_logits(placed_logits)[feed.row, feed.slot]
        if progress is not None:
            progress(len(feed.examples))

    for feed in ahead(eval_feed(tokens, run.config, trainer)):
        waiting.append((feed, *trainer.eval_step(state, feed.placed)))
        interrupt.check()
        if len(waiting) > IN_FLIGHT:
            finish_oldest()
    while waiting:
        finish_oldest()
    odd = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(odd):
        raise NonFiniteError(
            f"logits of {len(odd)} of the {len(tokens)} examples of {split} are NaN or infinite, must be finite; their "
            f"ids are {_shown(tokens.example_ids[odd])}. Lower --learning-rate, or check the model's weights"
        )
    loss, weight = (math.fsum(float(sums[i]) for sums in results) for i in range(2))
    assert weight == len(tokens), f"{weight} examples evaluated, must be {len(tokens)}"
    if not math.isfinite(loss):  # differences of finite logits can be infinite
        raise NonFiniteError(
            f"loss of {split} = {loss}, must be finite; its logits are as large as {np.abs(logits).max():.3g}. Lower "
            "--learning-rate, or check the model's weights"
        )
    if task.regression:
        metrics = task_metrics(task, predictions=logits[:, 0], labels=tokens.labels)
    else:
        metrics = task_metrics(task, confusion=np.sum([sums.counts for sums in results], axis=0, dtype=np.int64))
    return Evaluation(split, loss / weight, metrics, logits, len(tokens), time.perf_counter() - began)


def _restart_deadline(seconds: float | None) -> None:
    """Restart the deadline. A C thread watches it, because Python does not run while JAX waits for another process."""
    if seconds is not None:
        faulthandler.dump_traceback_later(seconds, exit=True)


def _shown(ids: np.ndarray) -> str:
    return ", ".join(map(str, ids[:16])) + (f", … ({len(ids)} in all)" if len(ids) > 16 else "")


def _non_finite(step: int, loss: float, ids: np.ndarray) -> str:
    return (
        f"loss = {loss} at step {step}, must be finite; the examples of this update have ids {_shown(ids)}. "
        "Lower --learning-rate, add --warmup-steps or --clip-norm, or check these examples"
    )
