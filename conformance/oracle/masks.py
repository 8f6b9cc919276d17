"""Seed, step, site, address -> dropout masks: addressed dropout, written in NumPy independently of any trainer.

    key(site)       = threefry((seed >> 32, seed), (step, site)),  site = 8 * layer + purpose
    hidden          = threefry(key, (example id, position * 2^16 + feature group))
    attention       = threefry(key, (example id, head group * 2^24 + query position * 2^12 + key position))

Each call of `threefry` gives 64 bits: four lanes of 16, starting with the low half of the first word. With
G = ceil(n / 4) groups, feature (or head) f reads lane f div G of group f mod G. The feature is kept if that lane is at
least round(rate * 65536), and is then divided by the exact probability of being kept.

Threefry-2x32 with 20 rounds is from Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), and the
generator of `jax.random`. No JAX is used here, since JAX is compared with this file.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Factors = npt.NDArray[np.float64]

# The constants of Threefry-2x32, and the purposes of a site.
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)
EMBEDDING, ATTENTION, ATTENTION_OUTPUT, FEED_FORWARD, CLASSIFIER = range(5)
SITES_PER_LAYER = 8
LEVELS = 1 << 16


def threefry_2x32(key: tuple[Words, Words], counter: tuple[Words, Words]) -> tuple[Words, Words]:
    """Two words of key and two of counter, broadcastable arrays of uint32 -> two words of random bits."""
    with np.errstate(over="ignore"):
        k = (key[0], key[1], key[0] ^ key[1] ^ PARITY)
        x = counter[0] + k[0]
        y = counter[1] + k[1]
        for block in range(5):
            for turn in ROTATIONS[block % 2]:
                x = x + y
                y = (y << np.uint32(turn) | y >> np.uint32(32 - turn)) ^ x
            x = x + k[(block + 1) % 3]
            y = y + k[(block + 2) % 3] + np.uint32(block + 1)
    return x, y


@dataclass(frozen=True)
class Masks:
    """The dropout factors, 0 or 1 / (1 - rate), of one training step."""

    seed: int  # 0 to 2^64 - 1
    step: int  # the number of the update, from 0

    def hidden(self, rate: float, site: int, ids: Words, length: int, width: int) -> Factors:
        """Factors [B, L, D] for positions 0 .. L - 1 of the examples `ids` [B]."""
        return _hidden(self, rate, site, ids.tobytes(), length, width)

    def attention(self, rate: float, site: int, ids: Words, length: int, heads: int) -> Factors:
        """Factors [B, H, L, L], query before key, for the examples `ids` [B]."""
        return _attention(self, rate, site, ids.tobytes(), length, heads)

    def factors(self, rate: float, site: int, counter: tuple[Words, Words], axis: int) -> Factors:
        """Factors for the counters of groups, whose four lanes are joined along `axis`."""
        seed = np.uint32(self.seed >> 32), np.uint32(self.seed & 0xFFFFFFFF)
        key = threefry_2x32(seed, (np.uint32(self.step), np.uint32(site)))  # type: ignore[arg-type]
        words = np.broadcast_arrays(*threefry_2x32(key, counter))
        lanes = [half for w in words for half in (w & np.uint32(0xFFFF), w >> np.uint32(16))]
        dropped = round(rate * LEVELS)
        kept = np.concatenate(lanes, axis=axis) >= np.uint32(dropped)
        factors: Factors = kept / (1.0 - dropped / LEVELS)
        factors.flags.writeable = False
        return factors


# Cached, since the oracle reuses the masks of a step for each perturbation of the parameters. 64 entries hold the masks
# of two updates of two layers several times over; an entry has at most 131 kB at the kit's shapes.
@functools.lru_cache(maxsize=64)
def _hidden(masks: Masks, rate: float, site: int, ids: bytes, length: int, width: int) -> Factors:
    groups = -(-width // 4)
    position = np.arange(length, dtype=np.uint32)[None, :, None] << np.uint32(16)
    counter = np.frombuffer(ids, np.uint32)[:, None, None], position | np.arange(groups, dtype=np.uint32)
    return masks.factors(rate, site, counter, axis=2)[:, :, :width]


@functools.lru_cache(maxsize=64)
def _attention(masks: Masks, rate: float, site: int, ids: bytes, length: int, heads: int) -> Factors:
    group = np.arange(-(-heads // 4), dtype=np.uint32)[None, :, None, None] << np.uint32(24)
    at = np.arange(length, dtype=np.uint32)
    counter = np.frombuffer(ids, np.uint32)[:, None, None, None], group | at[:, None] << np.uint32(12) | at
    return masks.factors(rate, site, counter, axis=1)[:, :heads]
