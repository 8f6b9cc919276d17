"""Benchmarks of a trainer behind the border: its update, evaluation, gradient, their parts, its first step, scaling."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ...adapter import Case, HostBatch
from ...core.check import Check, LawBroken
from ...core.law import laws
from ...laws.support.compilation import heard, stages
from ...laws.support.trainer_checks import check_distance, check_logits, check_loss
from ...oracle.bounds_measured import logits_reference, loss_reference, walk
from ...oracle.draws import with_weights
from .bench import Bench, Benchmark, bracketed
from .counts import operations
from .timing import Prepared, WrongResultError

# Examples that the oracle computes too, before a trainer is timed; the other rows have weight 0 then.
CHECKED = 4
# Above so many parameters the oracle's update, in float64 and several times over, would not fit a small machine.
MOST_WALKED = 10_000_000
# Updates after the first, in which nothing may be compiled and no array may stay behind.
LATER = 3
DEVICES = (1, 2, 4, 8)
# Part of an update -> the calibration kernel of its kind.
PARTS = {
    "forward": "matmul",
    "forward_backward": "matmul",
    "all_reduce": "matmul",
    "optimizer": "matmul",
    "input": "host",
}


def benchmarks(bench: Bench, label: str) -> Iterator[Benchmark]:
    """All of one trainer's."""
    claimed = bench.trainer(label).capabilities

    def one(stem: str, group: str, kernel: str, level: str, build: Callable[..., Prepared], **more: Any) -> Benchmark:
        build = functools.partial(build, label=label, **more)
        inside = label if not more else f"{label}-{'-'.join(map(str, more.values()))}"
        return Benchmark(bracketed(stem, inside), group, kernel, level, build, label)

    yield one("step", "training", "matmul", "quick", _step)
    yield one("evaluation", "evaluation", "matmul", "quick", _evaluation)
    if "gradients" in claimed:
        yield one("gradients", "training", "matmul", "standard", _gradients)
    if "parts" in claimed:
        for part, kernel in PARTS.items():
            yield one(f"part.{part}", "parts of the update", kernel, "standard", functools.partial(_part, name=part))
    if "jax" in claimed:
        yield one("first_step", "compilation", "host", "standard", _first_step)
    for n in DEVICES if "devices" in claimed else ():
        if n <= len(bench.devices):
            yield one("scaling.strong", "scaling", "matmul", "full", _scaled, n=n)
            yield one("scaling.weak", "scaling", "matmul", "full", functools.partial(_scaled, weak=True), n=n)


def begin(bench: Bench, label: str, n: int, rows: int) -> tuple[Any, Case, HostBatch]:
    """Start a trainer that computes what it should.

    Raises:
        WrongResultError: it computes something else.
    """
    checked(bench, label, n, rows)
    trainer, case = bench.trainer(label), bench.case(label)
    trainer.start(case, bench.params(), n)
    return trainer, case, bench.batch(case, rows)


@functools.cache
def checked(bench: Bench, label: str, n: int, rows: int) -> None:
    """Hold an evaluation and two updates of a trainer on n devices against the oracle, once for all its benchmarks.

    Raises:
        WrongResultError: it computes something else.
    """
    trainer, case = bench.trainer(label), bench.case(label)
    params, batch = bench.params(), bench.batch(case, rows)
    few = with_weights(batch, np.where(np.arange(rows) < CHECKED, batch.weights, 0).astype(np.float32))
    asked = HostBatch(*(np.asarray(leaf[:CHECKED]) for leaf in few))
    check = Check(laws()["step.update"], "quick", bench.seed)
    small = sum(leaf.size for leaf in params.values()) <= MOST_WALKED
    try:
        trainer.start(case, params, n)
        check_logits(check, "logits", trainer.evaluate(few), few, logits_reference(case, params, asked))
        check_loss(check, "loss", trainer.step(few).loss, loss_reference(case, params, asked))
        if small:  # twice, as the first update of a warm-up has a learning rate of 0
            trainer.step(few)
            want = walk(case, params, [asked, asked]).distance
            check_distance(check, "after two updates", case, params, trainer.params(), want)
    except LawBroken as broken:
        raise WrongResultError(f"{label} on {n} devices is wrong, and what is wrong has no speed: {broken}") from broken


def work_of(batch: HostBatch) -> dict[str, float]:
    """Examples of a batch, and their tokens."""
    return {"examples": float(len(batch.weights)), "tokens": float(batch.attention_mask.sum())}


def exact_of(trainer: Any, batch: HostBatch) -> Mapping[str, float]:
    """Counts of the compiled update, and what later updates compile and leave behind, which must be nothing."""
    found: dict[str, float] = {}
    if "costs" in trainer.capabilities:
        found |= trainer.costs(batch)
    if "program" in trainer.capabilities:
        found |= operations(trainer.program(batch))
    if "jax" in trainer.capabilities:
        trainer.step(batch)
        before = len(jax.live_arrays())
        with heard() as programs:
            for _ in range(LATER):
                trainer.step(batch)
        found |= {"compilations later": len(programs), "arrays left": len(jax.live_arrays()) - before}
    return found


def _step(bench: Bench, label: str) -> Prepared:
    trainer, _, batch = begin(bench, label, bench.widest(label), bench.rows())
    exact = exact_of(trainer, batch)
    return Prepared(lambda: trainer.step(batch), work_of(batch), exact)


def _evaluation(bench: Bench, label: str) -> Prepared:
    trainer, _, batch = begin(bench, label, bench.widest(label), bench.rows())
    return Prepared(lambda: trainer.evaluate(batch), work_of(batch))


def _gradients(bench: Bench, label: str) -> Prepared:
    trainer, _, batch = begin(bench, label, bench.widest(label), bench.rows())
    return Prepared(lambda: trainer.gradients(batch), work_of(batch))


def _part(bench: Bench, label: str, name: str) -> Prepared:
    trainer, _, batch = begin(bench, label, bench.widest(label), bench.rows())
    return Prepared(trainer.parts(batch)[name], work_of(batch))


def _scaled(bench: Bench, label: str, n: int, weak: bool = False) -> Prepared:
    """All rows on n devices (strong), or on each as many as one of all has (weak)."""
    rows = bench.rows() if not weak else max(bench.rows() // len(bench.devices), CHECKED) * n
    trainer, _, batch = begin(bench, label, n, rows)
    return Prepared(lambda: trainer.step(batch), work_of(batch))


def _first_step(bench: Bench, label: str) -> Prepared:
    """From a start to the end of the first update, with nothing compiled before: trace, lower, compile, run."""
    trainer, case, batch = begin(bench, label, bench.widest(label), bench.rows())
    seconds: dict[str, float] = {}

    def run() -> None:
        jax.clear_caches()
        with stages() as took:
            trainer.start(case, bench.params(), bench.widest(label))
            trainer.step(batch)
        if not took["compile"]:
            raise WrongResultError(f"{label}: a first step compiled nothing after jax.clear_caches(); it was not one")
        seconds.update(took)

    return Prepared(run, parts=lambda: dict(seconds), once=True)
