"""Examples per second of a training step and an evaluation pass: the article's loop against ours, alternating.

Run it with `tox -e peers -- speed.py`. Both train on the same examples in the same order, in one process on one
device, each with its whole path: the article indexes a `datasets.Dataset`, pads to 128 tokens and adds its metric up
on the host; ours gathers from token arrays, packs (or pads) and counts on the device. Lengths are those of QQP:
log-normal, mean 30, at most 128. Machines are noisy, so what counts is the ratio within each pair, and its median.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import article
import jax
import numpy as np

from sftref.config import ModelConfig, OptimConfig, TrainConfig
from sftref.loop import evaluate
from sftref.pipeline import train_feed
from sftref.pretrained import load_pretrained
from sftref.step import Program
from sftref.tasks import get_task
from sftref.tokens import TokenArrays
from sftref.trainers import make_trainer
from sftref.weights import model_folder

LENGTH = 128
BATCH = 64
MODELS = {
    "minilm": "all-MiniLM-L6-v2, 6 layers, width 384",
    "small": "random, 4 layers, width 256",
}


def qqp_like(n: int, vocab: int, seed: int = 0) -> TokenArrays:
    """Random tokens with QQP's lengths: log-normal, mean 30, standard deviation 15, from 8 to 128."""
    rng = np.random.default_rng(seed)
    sigma = math.sqrt(math.log(1 + (15 / 30) ** 2))
    lengths = np.clip(np.round(rng.lognormal(math.log(30) - sigma**2 / 2, sigma, n)), 8, LENGTH).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return TokenArrays(
        input_ids=rng.integers(1000, vocab, offsets[-1]).astype(np.int32),
        token_type_ids=np.zeros(offsets[-1], np.uint8),
        offsets=offsets,
        labels=rng.integers(0, 2, n).astype(np.int32),
        example_ids=np.arange(n, dtype=np.uint32),
    )


def as_dataset(tokens: TokenArrays) -> Any:
    """The same examples as the article holds them: padded lists in a `datasets.Dataset`."""
    import datasets

    n = len(tokens)
    ids = np.zeros((n, LENGTH), np.int64)
    mask = np.arange(LENGTH) < tokens.lengths[:, None]
    ids[mask] = tokens.input_ids
    columns = {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": mask.astype(np.int64)}
    lists = {name: values.tolist() for name, values in columns.items()}
    return datasets.Dataset.from_dict(lists | {"labels": tokens.labels.tolist()})


def models(which: str) -> tuple[Any, ModelConfig, Any]:
    """FlaxBert, our configuration and our parameters of one of `MODELS`."""
    if which == "minilm":
        ours = load_pretrained("demo", num_labels=2)
        return article.flax_bert(model_folder("demo")), ours.config, ours.params
    from transformers import BertConfig, FlaxBertForSequenceClassification

    sizes = {
        "vocab_size": 30522, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 1024,
    }  # fmt: skip
    config = ModelConfig(**sizes)
    peer = FlaxBertForSequenceClassification(BertConfig(**sizes, num_labels=2), seed=0)
    program = Program.of(config, OptimConfig(), total_steps=1, dropout="off", precision="float32")
    batch = next(iter(_host_batches(config)))
    return peer, config, program.model.init(jax.random.key(0), batch)["params"]


def _host_batches(config: ModelConfig) -> Any:
    from sftref.batches import pad, padded_layout

    tokens = qqp_like(4, config.vocab_size)
    batch = pad(tokens, np.arange(4), padded_layout(4, LENGTH, 1))
    yield jax.tree.map(lambda a: a[0], batch)


class Ours:
    """Our trainer with its whole path, one step or one evaluation at a time."""

    def __init__(self, name: str, config: ModelConfig, params: Any, tokens: TokenArrays, *, pack: bool) -> None:
        self.config = TrainConfig(trainer=name, batch_size=BATCH, max_length=LENGTH, pack=pack, eval_batch_size=256)  # type: ignore[arg-type]
        self.program = Program.of(config, OptimConfig(), total_steps=1000, dropout="addressed", precision="float32")
        self.trainer = make_trainer(name, self.program, jax.devices()[:1])
        self.state = self.trainer.place(self.program.state(params, seed=0))
        self.feeds = train_feed(tokens, self.config, self.trainer, start_step=0, total_steps=1000)

    def train(self) -> np.ndarray:
        """One update; returns the examples it was made from."""
        feed = next(self.feeds)
        self.state, metrics = self.trainer.train_step(self.state, feed.placed)
        jax.block_until_ready((self.state, metrics))
        return feed.examples

    def evaluate(self, tokens: TokenArrays) -> None:
        """One pass."""
        evaluate(self.trainer, self.state, tokens, get_task("qqp"), self.config)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds of a call, and what it returned."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def main() -> None:
    """Measure and print a Markdown table."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--model", choices=MODELS, default="small")
    cli.add_argument("--peer", choices=("pmap", "mesh"), default="pmap", help="which of the article's trainers")
    cli.add_argument("--rounds", type=int, default=15)
    cli.add_argument("--eval-examples", type=int, default=1024)
    args = cli.parse_args()
    jax.config.update("jax_num_cpu_devices", 1)

    peer_model, config, params = models(args.model)
    tokens = qqp_like(64 * BATCH, config.vocab_size)
    held_out = qqp_like(args.eval_examples, config.vocab_size, seed=1)
    dataset, eval_dataset = as_dataset(tokens), as_dataset(held_out)
    peer = article.ArticleTrainer(peer_model, args.peer, jax.devices()[:1], 1000)
    sides = {
        "packed": Ours("mesh", config, params, tokens, pack=True),
        "padded": Ours("mesh", config, params, tokens, pack=False),
    }

    def peer_step(rows: np.ndarray) -> None:
        jax.block_until_ready(peer.train(dataset[rows]))
        jax.block_until_ready(peer.state)

    def peer_pass() -> None:
        peer.evaluate(article.eval_batches(eval_dataset, BATCH))

    seconds: dict[str, list[float]] = {
        f"{side} {kind}": [] for side in (*sides, "article") for kind in ("train", "eval")
    }
    for round_ in range(args.rounds + 1):  # the first compiles
        taken = {}
        for side, ours in sides.items():
            taken[f"{side} train"], rows = timed(ours.train)
        taken["article train"], _ = timed(lambda r=rows: peer_step(r))
        if round_ <= max(3, args.rounds // 4):
            for side, ours in sides.items():
                taken[f"{side} eval"], _ = timed(lambda o=ours: o.evaluate(held_out))
            taken["article eval"], _ = timed(peer_pass)
        if round_:
            for name, value in taken.items():
                seconds[name].append(value)
        print(f"round {round_}: " + ", ".join(f"{k} {v:.3f} s" for k, v in taken.items()), flush=True)

    print(f"\n{MODELS[args.model]}; batches of {BATCH}; the article's loop is its {args.peer} one; medians\n")
    print("| | examples/s | times the article's loop: median (least, most) |\n|---|---|---|")
    for kind, examples in (("train", BATCH), ("eval", args.eval_examples)):
        base = seconds[f"article {kind}"]
        for side in ("article", *sides):
            mine = seconds[f"{side} {kind}"]
            ratios = [b / m for b, m in zip(base, mine, strict=True)]
            print(
                f"| {kind}, {side} | {examples / statistics.median(mine):.1f} "
                f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f}) |"
            )


if __name__ == "__main__":
    main()
