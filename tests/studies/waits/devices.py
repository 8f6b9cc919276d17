"""Updates on 8 simulated devices over those on 1: time in one process, peak memory in a process for each.

    PYTHONPATH=tests/studies python -m waits.devices --batch 32 --rounds 7

The model is MiniLM, the examples are the bundled pairs, packed as `sftref train` packs them.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import jax

from sftref.config import TrainConfig
from sftref.data.examples import load_examples
from sftref.data.tasks import get_task
from sftref.data.tokens import tokenize
from sftref.model.pretrained import load_pretrained
from sftref.train.pipeline import train_feed
from sftref.train.step import Program
from sftref.trainers import make_trainer
from waits.ratios import Spent, in_turn, peak_mib, table, timed

# Different batches that the timed updates cycle through.
BATCHES = 8


def updates(batch: int, sides: list[str]) -> dict[str, Callable[[], Any]]:
    """Side ("mesh-8") -> a function that makes one update and waits for it."""
    task = get_task("qqp")
    model = load_pretrained("demo", num_labels=2, task=task)
    texts = load_examples(task, "bundled", train_fraction=0.5, eval_fraction=0.1)
    config = TrainConfig(batch_size=batch)
    tokens = tokenize(texts.train, task, model.tokenizer(), config.max_length)
    program = Program.of(model.config, config.optim, total_steps=10_000, dropout="addressed", precision="float32")

    def side(name: str) -> Callable[[], Any]:
        kind, count = name.split("-")
        trainer = make_trainer(kind, program, jax.devices()[: int(count)])
        feeds = train_feed(tokens, config, trainer, start_step=0, total_steps=10_000)
        batches = cycle([feed.placed for feed in islice(feeds, BATCHES)])
        state = [trainer.place(program.state(model.params, seed=0))]

        def update() -> None:
            state[0], metrics = trainer.train_step(state[0], next(batches))
            jax.block_until_ready((state[0], metrics))

        return update

    return {name: side(name) for name in sides}


def main() -> None:
    """Measure, and print a table for each batch size."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--batch", type=int, nargs="+", default=[32, 64])
    cli.add_argument("--rounds", type=int, default=7)
    cli.add_argument("--sides", nargs="+", default=["mesh-1", "mesh-8", "pmap-8"], help="trainer-devices; first: base")
    cli.add_argument("--memory", type=int, metavar="N", default=3, help="processes for each peak memory (default 3)")
    cli.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = cli.parse_args()
    jax.config.update("jax_num_cpu_devices", max(int(name.split("-")[1]) for name in args.sides))
    if args.alone:
        for update in updates(args.batch[0], args.sides).values():
            for _ in range(3):
                update()
        print(peak_mib())
        return
    for batch in args.batch:
        calls = updates(batch, args.sides)
        for update in calls.values():
            update()

        def turn(update: Callable[[], Any]) -> Callable[[], Spent]:
            return lambda: timed(update)

        seconds = in_turn({name: turn(update) for name, update in calls.items()}, args.rounds)
        table(f"an update of {batch} examples", seconds, args.sides[0])
        for name in args.sides if args.memory else ():
            words = [sys.executable, "-m", "waits.devices", "--alone", "--batch", str(batch), "--sides", name]
            peaks = [
                float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
                for _ in range(args.memory)
            ]
            print(f"peak memory of a process, {name}: {statistics.median(peaks):.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
