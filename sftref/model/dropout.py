"""(seed, step, site, example id, position, feature) -> dropout masks that do not depend on devices, order or padding.

Each number that dropout may set to 0 has an *address*, and its mask bit is a pure function of the address. The
generator is that of `jax.random`, Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1,
2, 3", SC 2011), applied to explicit counters:

    key(site)       = threefry((seed >> 32, seed), (step, site))
    hidden site     = threefry(key, (example id, position * 2^16 + feature group))
    attention site  = threefry(key, (example id, head group * 2^24 + query position * 2^12 + key position))

One call gives 64 bits: four *lanes* of 16 bits, one for each of the four features (or heads) of a *group*. Of n
features in G = ceil(n / 4) groups, feature `f` has group `f mod G` and lane `f div G`, counted from the low half of the
first word. A number is kept if its lane is at least `threshold(rate)`, and then divided by the exact probability of
being kept. So the expectation is exact, although the rate is rounded to 1/65536 (0.1 becomes 0.100006).

`jax.extend.random.threefry_2x32` flattens and splits its counters. It is mapped over the rows of tokens, so that it
does not split the row axis, which is sharded.
"""

from typing import NamedTuple, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.random import threefry_2x32

LANES = 4
LANE_BITS = 16

# A site is one dropout of the model: site = SITES_PER_LAYER * layer + purpose. The purposes are these.
EMBEDDING, ATTENTION, ATTENTION_OUTPUT, FEED_FORWARD, CLASSIFIER = range(5)
SITES_PER_LAYER = 8


class Address(NamedTuple):
    """The example id of each token and its position in that example, both uint32 [R, L]."""

    example: Array
    position: Array


def threshold(rate: float) -> int:
    """The number of the 65536 values of a lane that mean "dropped"."""
    return round(rate * (1 << LANE_BITS))


@flax.struct.dataclass
class AddressedDropout:
    """Masks as a function of addresses alone. In its methods `rate` is static, and `site` means layer and purpose."""

    seed: tuple[Array, Array]  # two uint32 words, high and low
    step: Array  # integer scalar, the update

    def _lanes(self, site: int, c0: Array, c1: Array) -> list[Array]:
        """Four lanes of noise for the counters (`c0`, `c1`), uint32 [R, ...] and broadcastable."""
        key = threefry_2x32(self.seed, jnp.stack([self.step.astype(jnp.uint32), jnp.uint32(site)]))
        counters = jnp.stack(jnp.broadcast_arrays(c0, c1), axis=1)
        words = jax.vmap(lambda row: threefry_2x32((key[0], key[1]), row))(counters)
        low = jnp.uint32((1 << LANE_BITS) - 1)
        return [half for w in (words[:, 0], words[:, 1]) for half in (w & low, w >> jnp.uint32(LANE_BITS))]

    def hidden(self, x: Array, rate: float, site: int, at: Address) -> Array:
        """Drop features of `x` [R, L, D]; `at` [R, L] is the address of each token."""
        if rate == 0.0:
            return x
        width = x.shape[-1]
        group = jnp.arange(-(-width // LANES), dtype=jnp.uint32)
        c1 = (at.position << jnp.uint32(16))[..., None] | group
        lanes = self._lanes(site, at.example[..., None], c1)
        return _drop(x, jnp.concatenate(lanes, axis=-1)[..., :width], rate)

    def attention(self, p: Array, rate: float, site: int, query: Address, key: Address) -> Array:
        """Drop attention weights `p` [R, H, Q, L]; `query` [R, Q] and `key` [R, L] are addresses.

        The mask for a key of another example does not matter, because its attention weight is 0.
        """
        if rate == 0.0:
            return p
        heads = p.shape[1]
        group = jnp.arange(-(-heads // LANES), dtype=jnp.uint32)[None, :, None, None] << jnp.uint32(24)
        at_query = (query.position << jnp.uint32(12))[:, None, :, None]
        c1 = group | at_query | key.position[:, None, None, :]
        lanes = self._lanes(site, query.example[:, None, :, None], c1)
        return _drop(p, jnp.concatenate(lanes, axis=1)[:, :heads], rate)


@flax.struct.dataclass
class ArticleDropout:
    """Masks as in the article: drawn from a key and the shape of the array, so they depend on the layout.

    The article's trainers have one key per device (`pmap`) or one for the whole batch (`jit` with a mesh), so their
    losses differ. The whole batch and all heads share one attention mask, as by default in Flax's attention
    (`broadcast_dropout=True` in `flax.linen.dot_product_attention_weights`).
    """

    key: Array

    def hidden(self, x: Array, rate: float, site: int, at: Address) -> Array:
        """See `AddressedDropout.hidden`; the address is not used."""
        return x if rate == 0.0 else self._bernoulli(x, rate, site, x.shape)

    def attention(self, p: Array, rate: float, site: int, query: Address, key: Address) -> Array:
        """See `AddressedDropout.attention`; the addresses are not used."""
        return p if rate == 0.0 else self._bernoulli(p, rate, site, (1, 1, *p.shape[2:]))

    def _bernoulli(self, x: Array, rate: float, site: int, shape: tuple[int, ...]) -> Array:
        keep = jax.random.bernoulli(jax.random.fold_in(self.key, site), 1.0 - rate, shape)
        return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))


Dropout: TypeAlias = AddressedDropout | ArticleDropout


def _drop(x: Array, lane: Array, rate: float) -> Array:
    keep = 1.0 - threshold(rate) / (1 << LANE_BITS)
    scaled = x * jnp.asarray(1.0 / keep, x.dtype)
    return jnp.where(lane >= jnp.uint32(threshold(rate)), scaled, jnp.zeros((), x.dtype))
