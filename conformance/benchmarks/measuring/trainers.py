"""Benchmarks of a trainer: its update, evaluation and gradient, the parts of an update, its first step, scaling."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ...adapter import Case, HostBatch
from ...core.check import Check, LawBroken
from ...core.law import check_id, laws
from ...laws.support.compilation import compiled, stages
from ...laws.support.trainer_checks import check_distance, check_logits, check_loss
from ...oracle.bounds_measured import logits_reference, loss_reference, walk
from ...oracle.draws import with_weights
from .bench import Bench, Benchmark
from .timing import Prepared, WrongResultError

# Number of examples in the comparison with the oracle before a trainer is timed; the other rows have weight 0.
CHECKED = 4
# With more parameters than this, the oracle's update in float64 would not fit in the memory of a small machine.
MOST_WALKED = 10_000_000
# Number of later updates, which must compile nothing and leave no array behind.
LATER = 3
DEVICES = (1, 2, 4, 8)
# Kinds of operations that are counted separately.
KINDS = (
    "fusion", "dot", "convolution", "custom-call", "while", "scatter", "gather", "all-reduce", "all-gather",
    "reduce-scatter", "collective-permute", "all-to-all",
)  # fmt: skip
OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (?:\([^=]*?\)|\S+) ([a-z][\w\-]*)\(", re.MULTILINE)
# Part of an update -> its calibration kernel.
PARTS = dict.fromkeys(("forward", "forward_backward", "all_reduce", "optimizer"), "matmul") | {"input": "host"}


def benchmarks(bench: Bench, label: str) -> Iterator[Benchmark]:
    """All benchmarks of one trainer."""
    claimed = bench.trainer(label).capabilities

    def one(
        stem: str, group: str, level: str, build: Callable[..., Prepared], kernel: str = "matmul", **how: Any
    ) -> Benchmark:
        inside = f"{label}-{how['n']}" if "n" in how else label
        return Benchmark(check_id(stem, inside), group, kernel, level, functools.partial(build, label=label, **how))

    yield one("step", "training", "quick", _call, counts=True)
    yield one("evaluation", "evaluation", "quick", _call, method="evaluate")
    if "gradients" in claimed:
        yield one("gradients", "training", "standard", _call, method="gradients")
    if "parts" in claimed:
        for part, kernel in PARTS.items():
            yield one(f"part.{part}", "parts of the update", "standard", _part, kernel, name=part)
    if "jax" in claimed:
        yield one("first_step", "compilation", "standard", _first_step, "host")
    each = max(bench.rows // len(bench.devices), CHECKED)  # rows on each device if all devices share a batch
    for n in DEVICES if "devices" in claimed else ():
        if n <= len(bench.devices):
            yield one("scaling.strong", "scaling", "full", _call, n=n)
            yield one("scaling.weak", "scaling", "full", _call, n=n, rows=each * n)


def begin(bench: Bench, label: str, n: int | None = None, rows: int | None = None) -> tuple[Any, Case, HostBatch]:
    """Check a trainer against the oracle, start it on n devices (default: all), and draw a batch of `rows` rows."""
    n, rows = n or bench.widest(label), rows or bench.rows
    checked(bench, label, n, rows)
    trainer, case = bench.trainer(label), bench.case(label)
    trainer.start(case, bench.params(label), n)
    return trainer, case, bench.batch(case, rows)


@functools.cache
def checked(bench: Bench, label: str, n: int, rows: int) -> None:
    """Compare an evaluation and two updates of a trainer on n devices with the oracle, once for all its benchmarks.

    Raises:
        WrongResultError: a result is wrong.
    """
    trainer, case = bench.trainer(label), bench.case(label)
    params, batch = bench.params(label), bench.batch(case, rows)
    few = with_weights(batch, np.where(np.arange(rows) < CHECKED, batch.weights, 0).astype(np.float32))
    counted = HostBatch(*(np.asarray(leaf[:CHECKED]) for leaf in few))
    if not case.padding_rows:
        # All rows count and divide among the devices.
        few = counted = HostBatch(*(np.asarray(leaf[: -(-CHECKED // n) * n]) for leaf in batch))
    check = Check(laws()["step.update"], "quick", bench.seed)
    try:
        trainer.start(case, params, n)
        check_logits(check, "logits", trainer.evaluate(few), few, logits_reference(case, params, counted))
        check_loss(check, "loss", trainer.step(few).loss, loss_reference(case, params, counted))
        if sum(leaf.size for leaf in params.values()) <= MOST_WALKED:
            # A second update, because the first one of a warm-up has a learning rate of 0.
            trainer.step(few)
            want = walk(case, params, [counted, counted]).distance
            check_distance(check, "after two updates", case, params, trainer.params(), want)
    except LawBroken as broken:
        wrong = f"{label} on {n} devices computes wrong results, so it is not timed: {broken}"
        raise WrongResultError(wrong) from broken


def work_of(batch: HostBatch) -> dict[str, float]:
    """The number of examples and of tokens of a batch."""
    return {"examples": float(len(batch.weights)), "tokens": float(batch.attention_mask.sum())}


def operations(text: str) -> dict[str, int]:
    """The number of operations in an HLO text, in total and by kind; names vary with the order of compilation."""
    names = [name.removesuffix("-start") for name in OPERATION.findall(text)]
    return {"operations": len(names)} | {kind: names.count(kind) for kind in KINDS}


def exact_of(trainer: Any, batch: HostBatch) -> Mapping[str, float]:
    """Counts of the compiled update, and of the programs and arrays that later updates add, which must be 0."""
    counts: dict[str, float] = {}
    if "costs" in trainer.capabilities:
        counts |= trainer.costs(batch)
    if "program" in trainer.capabilities:
        counts |= operations(trainer.program(batch))
    if "jax" in trainer.capabilities:
        trainer.step(batch)
        before = len(jax.live_arrays())
        with compiled() as programs:
            for _ in range(LATER):
                trainer.step(batch)
        counts |= {"compilations later": len(programs), "arrays left": len(jax.live_arrays()) - before}
    return counts


def _call(
    bench: Bench, label: str, method: str = "step", n: int | None = None, rows: int | None = None, counts: bool = False
) -> Prepared:
    trainer, _, batch = begin(bench, label, n, rows)
    exact, call = exact_of(trainer, batch) if counts else {}, getattr(trainer, method)
    return Prepared(lambda: call(batch), work_of(batch), exact)


def _part(bench: Bench, label: str, name: str) -> Prepared:
    trainer, _, batch = begin(bench, label)
    return Prepared(trainer.parts(batch)[name], work_of(batch))


def _first_step(bench: Bench, label: str) -> Prepared:
    """A start and the first update after all compiled programs are dropped: trace, lower, compile, run."""
    trainer, case, batch = begin(bench, label)
    seconds: dict[str, float] = {}

    def run() -> None:
        jax.clear_caches()
        with stages() as spent:
            trainer.start(case, bench.params(label), bench.widest(label))
            trainer.step(batch)
        if not spent["compile"]:
            raise WrongResultError(f"{label}: the first step after jax.clear_caches() compiled nothing")
        seconds.update(spent)

    return Prepared(run, parts=lambda: dict(seconds), once=True)
