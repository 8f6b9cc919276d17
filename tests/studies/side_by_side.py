"""Trainers, devices -> the lowered and the compiled update side by side, and the time of a step, in one run.

    python tests/studies/side_by_side.py [--devices 1 8] [--rounds 15] [--layers 4] [--width 256]

prints a Markdown table for each number of devices. Collectives are counted in the StableHLO text and in the compiled
program; copies and bytes are those of the compiled program on one device. Every trainer takes a step in turn, and so
does a bare `jax.jit` of the shared step on one device, so that each round compares them under the same load. Times are
medians over the rounds; beside them, median and quartiles of each round's quotient by the first row.
"""

import argparse
import collections
import functools
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from waits.ratios import Spent, in_turn, ratio, timed

from sftref.config import ModelConfig, OptimConfig
from sftref.data.batches import Batch
from sftref.train.step import Program, train_step
from sftref.trainers import make_trainer

COLLECTIVES = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
ROWS, LENGTH = 32, 64


def counted(pattern: str, text: str) -> str:
    """How often each match occurs in a text, in words."""
    found = collections.Counter(re.findall(pattern, text))
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items())) or "none"


def update(trainer: Any, program: Any, params: Any, batch: Any) -> tuple[Callable[[], None], list[str]]:
    """A function that takes a step and waits for it, and the cells of a trainer's texts."""
    state, placed = trainer.place(program.state(params, 0)), trainer.put(batch)
    lowered, compiled = trainer.step_text(state, placed), trainer.compiled(state, placed)
    text, memory = compiled.as_text(), compiled.memory_analysis()
    costs = compiled.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    cells = [
        counted(r"stablehlo\.(all_reduce|all_gather|all_to_all|collective_permute|reduce_scatter)", lowered),
        counted(rf"\s({COLLECTIVES})(?:-start)?\(", text),
        str(text.count(" copy(")),
        f"{costs['bytes accessed'] / 1e6:.1f}",
        f"{memory.alias_size_in_bytes / 1e6:.1f}",
        f"{memory.temp_size_in_bytes / 1e6:.1f}",
    ]

    def step() -> None:
        nonlocal state
        state, metrics = trainer.train_step(state, placed)
        jax.block_until_ready((state, metrics))

    return step, cells


def bare(program: Any, params: Any, batch: Any) -> Callable[[], None]:
    """A step by `jax.jit` of the shared step alone, without a trainer."""
    compiled = jax.jit(functools.partial(train_step, program, reduce=lambda tree: tree), donate_argnums=0)
    state, placed = jax.device_put((program.state(params, 0), batch), jax.devices()[0])

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, placed)
        jax.block_until_ready((state, metrics))

    return step


def times(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[str]]:
    """Name -> the median in ms, and the quotients by the first name, of the clock and of the processor."""
    for step in steps.values():
        step()
    seconds = in_turn({name: functools.partial(timed, step) for name, step in steps.items()}, rounds)
    first = next(iter(seconds.values()))

    def row(own: Sequence[Spent]) -> list[str]:
        quotients = [
            ratio([getattr(s, clock) for s in first], [getattr(s, clock) for s in own]) for clock in own[0]._fields
        ]
        return [f"{statistics.median(s.wall for s in own) * 1e3:.1f}", *quotients]

    return {name: row(own) for name, own in seconds.items()}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(args.devices))
    model = ModelConfig(
        vocab_size=4096, hidden_size=args.width, num_hidden_layers=args.layers, num_attention_heads=4,
        intermediate_size=4 * args.width, max_position_embeddings=LENGTH,
    )  # fmt: skip
    program = Program.of(model, OptimConfig(), total_steps=1000, dropout="addressed", precision="float32")
    rng, shape, slots = np.random.default_rng(0), (1, ROWS, LENGTH), (1, ROWS, 1)
    batch = Batch(
        input_ids=rng.integers(0, model.vocab_size, shape).astype(np.int32),
        token_type_ids=np.zeros(shape, np.int32),
        positions=np.broadcast_to(np.arange(LENGTH, dtype=np.int32), shape).copy(),
        segments=np.ones(shape, np.int32),
        starts=np.zeros(slots, np.int32),
        labels=rng.integers(0, 2, slots).astype(np.int32),
        weights=np.ones(slots, np.float32),
        example_ids=np.arange(ROWS, dtype=np.uint32).reshape(slots),
    )
    micro = jax.tree.map(lambda leaf: leaf[0], batch)
    params = jax.device_get(program.model.init(jax.random.key(0), micro)["params"])
    head = ["trainer", "StableHLO", "compiled", "copies", "MB moved", "MB aliased", "MB temporary"]
    head += ["ms", "over the first", "over the first, processor"]
    for n in args.devices:
        steps, cells = {}, {}
        if n == 1:
            steps["bare jit"], cells["bare jit"] = bare(program, params, batch), ["-"] * 6
        for name in (["single"] if n == 1 else []) + ["pmap", "mesh", "shard_map"]:
            trainer = make_trainer(name, program, jax.devices()[:n])
            steps[name], cells[name] = update(trainer, program, params, batch)
        timings = times(steps, args.rounds)
        print(f"\n{n} device(s), {sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6:.1f} million parameters\n")
        for row in (head, ["---"] * len(head), *([name, *cells[name], *timings[name]] for name in steps)):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
