"""Compares our trainers with their peers: examples per second, memory, time to start, share of the matmul peak.

    tox -e peers -- speed.py --model small
    tox -e peers -- speed.py --model minilm

All peers train on the same examples in the same order, in one process on one device, from examples in memory to an
updated state. Machines are noisy, so the result is the ratio within a round, as a median over the rounds. Every second
round calls the peers in reverse order; one round in four has evaluations, whose order alternates too. Memory and time
to the first step are measured in a separate process for each peer (`alone.py`).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from alone import NAMES, make
from jax_peers import Ours, Peak
from onnx_peer import OnnxRuntime
from workload import BATCH, MODELS, Work, forward_flops

OURS, BARE, ARTICLE, TORCH = "ours, mesh, packed", "ours, bare jit, packed", "article, pmap", "PyTorch, loop"
IN_ORDER, ONNX = "PyTorch, loop, not sorted", "ONNX Runtime"
Seconds = dict[str, list[float]]


class Compilations:
    """The number of programs that each peer has compiled since `clear`, as reported by JAX."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()
        self.at_work = ""
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, _: float, **__: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.of[self.at_work] += 1


def timed(work: Callable[[], Any]) -> float:
    """Wall seconds of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rounds(work: Work, peers: dict[str, Any], count: int) -> tuple[Seconds, Seconds, Seconds, Counter[str]]:
    """Seconds of updates, of evaluations and of batches (with "peak" among the updates), and late compilations."""
    peak, compilations = Peak(), Compilations()
    training: dict[str, Callable[[], None]] = {"peak": peak} | {name: peer.train for name, peer in peers.items()}
    evaluation = {name: peer.evaluate for name, peer in peers.items()}
    evaluation[IN_ORDER], evaluation[ONNX] = peers[TORCH].evaluate_in_order, OnnxRuntime(peers[TORCH]).evaluate
    train: Seconds = defaultdict(list)
    evaluate: Seconds = defaultdict(list)
    pipeline: Seconds = defaultdict(list)

    def go(calls: dict[str, Callable[[], None]], into: Seconds, *, backwards: bool) -> None:
        for name in list(calls)[:: -1 if backwards else 1]:
            compilations.at_work = name
            into[name].append(timed(calls[name]))

    def batches() -> None:
        spare = Ours(work, "bare jit")
        pipeline[OURS].extend(timed(spare.feed) for _ in range(count))

    for number in range(-1, count + 1):  # the article compiles its step twice: its first state is placed differently
        if number == 1:
            compilations.of.clear()
            for into in (train, evaluate):
                into.clear()
        go(training, train, backwards=number % 2 == 0)
        if number < 2 or number % 4 == 1:
            go(evaluation, evaluate, backwards=number // 4 % 2 == 1)
        print(f"round {number}: {', '.join(f'{k} {v[-1]:.3f} s' for k, v in train.items())}", flush=True)
    # The last batch of the epoch is incomplete.
    go({name: call for name, call in training.items() if name.startswith("ours")}, defaultdict(list), backwards=False)
    late = compilations.of.copy()
    batches()
    return train, evaluate, pipeline, late


def ratios(base: list[float], mine: list[float]) -> str:
    """The median, the least and the greatest of base / mine, as text."""
    found = [b / m for b, m in zip(base, mine, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f}, {max(found):.2f})"


def table(title: str, seconds: Seconds, examples: int, flops: float, peak: list[float]) -> None:
    """Print a row for each peer; ratios are medians with the least and the most of the rounds."""
    print(f"\n| {title} | examples/s | times the article | times PyTorch | of the matmul peak |\n|---|---|---|---|---|")
    for name, mine in seconds.items():
        if name == "peak":
            continue
        share = statistics.median(flops * p / (Peak.flops * s) for s, p in zip(mine, peak, strict=True))
        print(
            f"| {name} | {examples / statistics.median(mine):.1f} | {ratios(seconds[ARTICLE], mine)} "
            f"| {ratios(seconds[TORCH], mine)} | {100 * share:.0f} % |"
        )


def alone(model: str, name: str) -> dict[str, float]:
    """One peer in a process of its own: see `alone.py`."""
    command = [sys.executable, str(Path(__file__).with_name("alone.py")), model, name, str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure and print Markdown tables."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--model", choices=MODELS, default="small")
    cli.add_argument("--rounds", type=int, default=16)
    cli.add_argument("--eval-examples", type=int, default=1024)
    cli.add_argument("--no-alone", action="store_true", help="leave out memory and the time to the first step")
    args = cli.parse_args()

    work = Work.of(args.model, args.rounds + 2, args.eval_examples)
    peers = {name: make(name, work) for name in NAMES}
    train, evaluate, pipeline, late = rounds(work, peers, args.rounds)
    peers["PyTorch, Trainer"].close()

    peak = train["peak"]
    print(f"\n{MODELS[args.model]}; batches of {BATCH}; ratios: median (least, most) of {args.rounds} rounds")
    print(f"matmul peak: {Peak.flops / statistics.median(peak) / 1e9:.0f} GFLOP/s")
    order = work.order()[2 : args.rounds + 2]
    needed = 3 * statistics.mean(forward_flops(work.config, work.tokens.lengths[rows]) for rows in order)
    table("training", train, BATCH, needed, peak)
    needed = forward_flops(work.config, work.held_out.lengths)
    slow = [statistics.median(peak)] * len(evaluate[OURS])
    table("evaluation", evaluate, len(work.held_out), needed, slow)
    print(f"\nevaluation of {OURS}, times ONNX Runtime: {ratios(evaluate[ONNX], evaluate[OURS])}")

    print(
        "\na step, in those of a bare jit: "
        + ", ".join(f"{n} {ratios(train[n], train[BARE])}" for n in NAMES if "packed" in n)
    )
    batch, step = (statistics.median(s[OURS]) for s in (pipeline, train))
    print(f"input pipeline: {BATCH / batch:.0f} examples/s, {100 * batch / step:.2f} % of the step")
    print(f"programs compiled after the first round: {dict(late) or 'none'}")
    if args.no_alone:
        return
    print("\n| alone | peak memory, MiB | process to first step, s | of which the step, s |\n|---|---|---|---|")
    for name in NAMES:
        found = alone(args.model, name)
        print(f"| {name} | {found['mib']:.0f} | {found['start']:.1f} | {found['step']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
