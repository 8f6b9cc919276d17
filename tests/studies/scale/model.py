"""Model, batch, rates -> the time of one data-parallel update, on paper.

    update = products / (share of the peak) + all-reduce of the gradients, as far as the two do not overlap

The all-reduce goes in two levels, as NCCL's does: a ring within a group of devices, of which each then exchanges its
part with those of the other groups. A ring of n moves 2 (n - 1) / n of the bytes through each device in 2 (n - 1) hops
(Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms", JPDC 2009); between groups a tree needs 2 log2 hops.
"""

import math
from dataclasses import dataclass

from sftref.config import ModelConfig


@dataclass(frozen=True)
class Bert:
    """The sizes that count: layers, width D, inner width F, words V, and positions."""

    layers: int
    width: int
    inner: int
    words: int
    positions: int = 512

    @property
    def parameters(self) -> int:
        """With embeddings, LayerNorms and pooler, and a classifier of two."""
        d, f = self.width, self.inner
        layer = 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
        return (self.words + self.positions + 2) * d + 2 * d + self.layers * layer + d * d + d + 2 * d + 2

    @property
    def leaves(self) -> int:
        """Arrays of parameters: 16 a layer, five of the embeddings, two each of pooler and classifier."""
        return 16 * self.layers + 9

    def config(self, heads: int) -> ModelConfig:
        """These sizes in sftref's terms."""
        return ModelConfig(
            vocab_size=self.words,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            intermediate_size=self.inner,
            max_position_embeddings=self.positions,
        )

    def flops(self, tokens: int, length: int) -> float:
        """Of an update over so many tokens in rows of `length`: three forward passes, two operations a product."""
        d, f = self.width, self.inner
        forward = self.layers * (8 * d * d + 4 * d * f + 4 * length * d)
        return 3.0 * forward * tokens


BASE = Bert(12, 768, 3072, 30522)
# Of what is measured here.
SMALL = Bert(4, 256, 1024, 8000, 64)


@dataclass(frozen=True)
class Machine:
    """What an update runs on; see `machines.toml` for the units.

    Attributes:
        share: of the peak that products reach.
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
        """Seconds for `size` bytes on each of so many devices."""
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
        """Seconds for one device's tokens."""
        return model.flops(tokens, length) / (self.peak * self.share)

    def update(self, model: Bert, tokens: int, length: int, devices: int, *, overlap: bool = False) -> float:
        """Seconds of an update with so many tokens a device; gradients are float32."""
        work = self.products(model, tokens, length)
        sent = self.all_reduce(4.0 * model.parameters, devices)
        # At best all but the first layer's gradients are sent while the rest is computed.
        return max(work, sent) if overlap else work + sent

    def efficiency(self, model: Bert, tokens: int, length: int, devices: int, *, overlap: bool = False) -> float:
        """Of one device alone on the same tokens."""
        alone = self.products(model, tokens, length)
        return alone / self.update(model, tokens, length, devices, overlap=overlap)

    def tokens_for(self, least: float, model: Bert, length: int, devices: int, *, overlap: bool = False) -> int:
        """The fewest tokens a device, in whole rows, at which an update reaches an efficiency."""
        sent = self.all_reduce(4.0 * model.parameters, devices)
        a_row = self.products(model, length, length)
        needed = sent * (least if overlap else least / (1 - least)) / a_row
        return max(1, math.ceil(needed)) * length
