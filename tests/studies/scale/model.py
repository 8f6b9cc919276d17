"""Model, batch, rates -> the computed time of one data-parallel update.

    update = products / (share of the peak) + all-reduce of the gradients, as far as the two do not overlap

The all-reduce has two levels, like NCCL's: a ring within each group of devices, then an exchange of each device's part
with other groups. A ring of n moves 2 (n - 1) / n of the bytes through each device in 2 (n - 1) hops (Patarasuk and
Yuan, "Bandwidth optimal all-reduce algorithms", JPDC 2009). Between groups, a tree needs 2 log2 hops.
"""

import math
from dataclasses import dataclass

from sftref.config import ModelConfig


@dataclass(frozen=True)
class Bert:
    """The sizes on which the time depends: layers, width D, inner width F, vocabulary V, positions."""

    layers: int
    width: int
    inner: int
    words: int
    positions: int = 512

    @property
    def parameters(self) -> int:
        """The number of parameters, with embeddings, LayerNorms, pooler, and a classifier of two classes."""
        d, f = self.width, self.inner
        layer = 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
        return (self.words + self.positions + 2) * d + 2 * d + self.layers * layer + d * d + d + 2 * d + 2

    @property
    def leaves(self) -> int:
        """The number of parameter arrays: 16 per layer, five for the embeddings, two each for pooler and classifier."""
        return 16 * self.layers + 9

    def config(self, heads: int) -> ModelConfig:
        """These sizes as a `ModelConfig`."""
        return ModelConfig(
            vocab_size=self.words,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            intermediate_size=self.inner,
            max_position_embeddings=self.positions,
        )

    def flops(self, tokens: int, length: int) -> float:
        """FLOPs of an update over `tokens` tokens in rows of `length`: three forward passes, two FLOPs per product."""
        d, f = self.width, self.inner
        forward = self.layers * (8 * d * d + 4 * d * f + 4 * length * d)
        return 3.0 * forward * tokens


BASE = Bert(12, 768, 3072, 30522)
# The model that `measure.py` measures.
SMALL = Bert(4, 256, 1024, 8000, 64)


@dataclass(frozen=True)
class Machine:
    """The machine on which an update runs; see `machines.toml` for the units.

    Attributes:
        share: the share of the peak that products reach.
    """

    name: str
    peak: float
    group: int
    inner: float
    inner_latency: float
    outer: float
    outer_latency: float
    start: float
    sources: tuple[str, ...] = ()
    share: float = 0.4

    def all_reduce(self, size: float, devices: int) -> float:
        """Seconds of an all-reduce of `size` bytes on each of `devices` devices."""
        within = min(devices, self.group)
        groups = math.ceil(devices / self.group)
        seconds = self.start if devices > 1 else 0.0
        seconds += 2 * (within - 1) * (size / within / self.inner + self.inner_latency)
        if groups > 1:
            part = size / within
            seconds += 2 * (groups - 1) / groups * part / self.outer
            seconds += 2 * math.ceil(math.log2(groups)) * self.outer_latency
        return seconds

    def products(self, model: Bert, tokens: int, length: int) -> float:
        """Seconds of the products for one device's tokens."""
        return model.flops(tokens, length) / (self.peak * self.share)

    def update(self, model: Bert, tokens: int, length: int, devices: int, *, overlap: bool = False) -> float:
        """Seconds of an update with `tokens` tokens per device; gradients are float32."""
        work = self.products(model, tokens, length)
        sent = self.all_reduce(4.0 * model.parameters, devices)
        # At best, all gradients except the first layer's are sent while the backward pass still computes.
        return max(work, sent) if overlap else work + sent

    def efficiency(self, model: Bert, tokens: int, length: int, devices: int, *, overlap: bool = False) -> float:
        """The time of one device alone on the same tokens, divided by that of an update on `devices`."""
        alone = self.products(model, tokens, length)
        return alone / self.update(model, tokens, length, devices, overlap=overlap)

    def tokens_for(self, least: float, model: Bert, length: int, devices: int, *, overlap: bool = False) -> int:
        """The fewest tokens per device, in whole rows, at which an update has at least the efficiency `least`."""
        sent = self.all_reduce(4.0 * model.parameters, devices)
        a_row = self.products(model, length, length)
        needed = sent * (least if overlap else least / (1 - least)) / a_row
        return max(1, math.ceil(needed)) * length
