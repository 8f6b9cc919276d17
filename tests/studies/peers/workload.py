"""The work of all peers: models, examples with QQP's lengths, and the FLOPs needed. Imports no framework."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sftref.config import ModelConfig
from sftref.data.batches import plan
from sftref.data.tokens import TokenArrays
from sftref.model.pretrained import load_pretrained

LENGTH = 128
BATCH = 64
MODELS = {
    "minilm": "all-MiniLM-L6-v2, 6 layers, width 384",
    "small": "random, 4 layers, width 256",
}
SMALL = {
    "vocab_size": 30522, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 1024,
}  # fmt: skip


class Work(NamedTuple):
    """One workload: a model, its training examples and their order, and its evaluation examples."""

    model: str
    config: ModelConfig
    tokens: TokenArrays
    held_out: TokenArrays

    @classmethod
    def of(cls, model: str, steps: int, eval_examples: int) -> Work:
        """The workload of `model`, with data for `steps` full batches and an incomplete one."""
        config = load_pretrained("demo", num_labels=2).config if model == "minilm" else ModelConfig(**SMALL)
        tokens = qqp_like(steps * BATCH + 20, config.vocab_size)
        return cls(model, config, tokens, qqp_like(eval_examples, config.vocab_size, seed=1))

    def order(self) -> list[np.ndarray]:
        """The examples of each batch of the first epoch, int64 [B] each, as our own pipeline takes them."""
        updates = plan(len(self.tokens), BATCH, 0, drop_last=False)
        return [next(updates).examples for _ in range(-(-len(self.tokens) // BATCH))]


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


def forward_flops(config: ModelConfig, lengths: np.ndarray) -> float:
    """The least FLOPs for the logits of examples of these lengths, real tokens only; training needs three times that.

    With D the width, F the feed-forward width, l a length, a layer costs

        2 l (4 D^2 + 2 D F) + 4 l^2 D

    for its six products with a weight, and for scores and context. The last layer, which is read at [CLS] only, costs

        2 l (2 D^2) + 2 (2 D^2 + 2 D F) + 4 l D

    for keys and values of all tokens and all else for one token. Pooler and classifier cost 2 D^2 + 2 D C. A multiply
    and an add are two FLOPs. Softmax, GELU, LayerNorm, dropout and the optimizer, linear in l, are not counted.
    """
    d, f = config.hidden_size, config.intermediate_size
    n, total, squares = len(lengths), float(lengths.sum()), float((lengths.astype(np.int64) ** 2).sum())
    full = 2 * total * (4 * d * d + 2 * d * f) + 4 * squares * d
    last = 2 * total * 2 * d * d + n * 2 * (2 * d * d + 2 * d * f) + 4 * total * d
    return (config.num_hidden_layers - 1) * full + last + n * (2 * d * d + 2 * d * config.num_labels)
