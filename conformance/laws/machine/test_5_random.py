"""Rung 5: random bits follow the generator's definition on every device, and look random.

Each call names the generator and the types, so that a user's defaults do not matter.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import random as jax_random
from jax.sharding import NamedSharding, PartitionSpec

from ...core.check import Check
from ...core.comparison import Bound
from ...machine.meshes import mesh_of
from ...oracle.draws import Rng, for_all, generators
from ...oracle.masks import Words, threefry_2x32
from ..support.operators import everywhere
from ..support.running import law

# Known answers of threefry2x32 with 20 rounds: (key, counter, result), from Random123's kat_vectors (Salmon et al.,
# "Parallel random numbers: as easy as 1, 2, 3", 2011).
KNOWN = (
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
)
SHAPE = (7, 37)
# More elements than 17 bits of a counter number; real dropout masks have more than that.
LARGE = (2**17 + 3,)
# So large that each draw shows a rate that was rounded to 1/256, which changes 1 in 600 elements of a mask.
MASK = (61, 1021)
RATE = 0.1
# Most standard deviations that a statistic may be off: a normal one exceeds 7 in 3 of 10^12 draws; a run has hundreds.
DEVIATIONS = 7.0


def counters(shape: tuple[int, ...]) -> tuple[Words, Words]:
    """High and low word of each element's index, the counter of `jax_threefry_partitionable`."""
    index = np.arange(math.prod(shape), dtype=np.uint64).reshape(shape)
    return (index >> np.uint64(32)).astype(np.uint32), (index & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def pair(seed: int) -> tuple[Words, Words]:
    """The key of a seed: its high and its low word."""
    return np.array(seed >> 32, np.uint32), np.array(seed & 0xFFFFFFFF, np.uint32)


def bits_of(key: tuple[Words, Words], shape: tuple[int, ...]) -> Words:
    """32 bits for each element: the exclusive or of the two words that Threefry gives for the element's counter."""
    first, second = threefry_2x32(key, counters(shape))
    return first ^ second


def uniform_of(bits: Words) -> np.ndarray:
    """Floats in [0, 1): 23 bits as the fraction of a number in [1, 2), minus 1."""
    return ((bits >> np.uint32(9)) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)


def key_of(seed: int) -> jax.Array:
    """A Threefry key of all 64 bits of a seed, whatever the default generator and integer width are."""
    return jax.random.wrap_key_data(jnp.array(pair(seed), jnp.uint32), impl="threefry2x32")


def bits_of_words(words: jax.Array) -> jax.Array:
    """The bits that JAX draws with a key of two words."""
    return jax.random.bits(jax.random.wrap_key_data(words, impl="threefry2x32"), SHAPE, np.uint32)


@law("random.threefry")
def test_threefry(check: Check) -> None:
    """Compares JAX's Threefry with published answers, and with a NumPy version on random counters."""
    noise = jax.jit(jax_random.threefry_2x32)
    for key, counter, want in KNOWN:
        got = noise(np.array(key, np.uint32), np.array(counter, np.uint32))
        check.equal(f"threefry of key {key[0]:08x} {key[1]:08x}", np.asarray(got), np.array(want, np.uint32))

    def compare(rng: Rng) -> None:
        key = rng.integers(0, 2**32, 2, dtype=np.uint32)
        counter = rng.integers(0, 2**32, (2, 129), dtype=np.uint32)
        want = np.concatenate(threefry_2x32((key[0], key[1]), (counter[0], counter[1])))
        check.equal("threefry on explicit counters", np.asarray(noise(key, counter.ravel())), want)

    for_all(check, compare, rng=generators())


@law("random.keys")
def test_keys(check: Check) -> None:
    """Compares the keys of `split` and `fold_in`, and the bits of a key, with their definitions."""
    check.same("jax_threefry_partitionable", bool(jax.config.values["jax_threefry_partitionable"]), True)
    split = jax.jit(lambda key: jax.random.key_data(jax.random.split(key, 5)))
    fold = jax.jit(lambda key, data: jax.random.key_data(jax.random.fold_in(key, data)))
    bits = jax.jit(lambda key: jax.random.bits(key, SHAPE, np.uint32))

    def compare(rng: Rng) -> None:
        seed, data = int(rng.integers(0, 2**63)), int(rng.integers(0, 2**32))
        key, words = key_of(seed), pair(seed)
        want = np.stack(threefry_2x32(words, counters((5,))), axis=1)
        check.equal("keys of split", np.asarray(split(key)), want)
        folded = np.array(threefry_2x32(words, pair(data)), np.uint32)
        check.equal("key of fold_in", np.asarray(fold(key, np.uint32(data))), folded)
        check.equal("bits", np.asarray(bits(key)), bits_of(words, SHAPE))

    for_all(check, compare, rng=generators())
    large = jax.jit(lambda key: jax.random.bits(key, LARGE, np.uint32))(key_of(check.seed))
    check.equal(f"bits of {LARGE[0]} elements", np.asarray(large), bits_of(pair(check.seed), LARGE))


@law("random.bernoulli")
def test_bernoulli(check: Check) -> None:
    """Compares uniform numbers and Bernoulli masks, eager and jitted, with those that NumPy computes from the bits."""

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.random.uniform(key, MASK, np.float32), jax.random.bernoulli(key, np.float32(RATE), MASK)

    def mask(key: jax.Array) -> tuple[jax.Array]:
        """A mask alone, since it is made of uniform numbers: `draw` compiles them twice in eager code."""
        return (jax.random.bernoulli(key, np.float32(RATE), MASK),)

    jitted = jax.jit(draw)

    def compare(rng: Rng) -> None:
        seed = int(rng.integers(0, 2**63))
        uniform = uniform_of(bits_of(pair(seed), MASK))
        for how, function in (("eager", draw if check.at("standard") else mask), ("jitted", jitted)):
            *numbers, mask_drawn = function(key_of(seed))
            for got in numbers:
                check.equal(f"uniform, {how}", np.asarray(got), uniform)
            check.equal(f"bernoulli, {how}", np.asarray(mask_drawn), uniform < np.float32(RATE))

    for_all(check, compare, rng=generators())


@law("random.devices")
def test_devices(check: Check, devices: list[Any]) -> None:
    """Compares the bits of one key on every device, in one program for all devices and in one for each."""
    bits = jax.jit(bits_of_words)
    at_once = everywhere(bits_of_words, tuple(devices))

    def compare(rng: Rng) -> None:
        words = pair(int(rng.integers(0, 2**63)))
        want = bits_of(words, SHAPE)
        for device, got in zip(devices, np.asarray(at_once(np.array(words))), strict=True):
            check.equal(f"bits on {device} among all", got, want)
        for device in devices if check.at("standard") else [devices[0], devices[-1]]:
            check.equal(f"bits on {device}", np.asarray(bits(jax.device_put(np.array(words), device))), want)

    for_all(check, compare, rng=generators())


@law("random.sharding", devices=2)
def test_sharding(check: Check, devices: list[Any]) -> None:
    """Compares random bits in arrays that are sharded in several ways."""
    n = len(devices)
    shape = (n, 2 * n)
    layouts = (PartitionSpec("data"), PartitionSpec(None, "data"), PartitionSpec())
    for spec in layouts if check.at("standard") else layouts[:2]:
        sharding = NamedSharding(mesh_of(devices), spec)
        drawn = jax.jit(lambda key: jax.random.bits(key, shape, np.uint32), out_shardings=sharding)

        def compare(rng: Rng, drawn: Any = drawn, spec: Any = spec) -> None:
            seed = int(rng.integers(0, 2**63))
            check.equal(f"bits over {n} devices, {spec}", np.asarray(drawn(key_of(seed))), bits_of(pair(seed), shape))

        for_all(check, compare, rng=generators())


@law("random.statistics")
def test_statistics(check: Check) -> None:
    """Compares a mask's mean, and its correlation with neighbours and with another mask, with those of coin flips.

    The mean of n flips has standard deviation sqrt(p (1 - p) / n), a correlation of n pairs 1 / sqrt(n).
    """
    shape = (256, 256)
    mask = jax.jit(lambda key: jax.random.bernoulli(key, np.float32(RATE), shape))
    n = math.prod(shape)
    why = f"{DEVIATIONS:g} standard deviations of {n} flips"

    def compare(rng: Rng) -> None:
        seed = int(rng.integers(0, 2**62))
        one, other = (np.asarray(mask(key_of(s))).astype(np.float64) for s in (seed, seed + 1))
        deviation = math.sqrt(RATE * (1 - RATE) / n)
        check.at_most("mean of a mask, off by", abs(one.mean() - RATE), Bound(DEVIATIONS * deviation, deviation, why))
        flat = (one - RATE) / math.sqrt(RATE * (1 - RATE))
        flip = (other - RATE) / math.sqrt(RATE * (1 - RATE))
        chance = Bound(DEVIATIONS / math.sqrt(n), 1 / math.sqrt(n), why)
        for what, partner in (
            ("the next feature", np.roll(flat, 1, axis=1)),
            ("the next row", np.roll(flat, 1, axis=0)),
            ("the mask of the next key", flip),
        ):
            check.at_most(f"correlation with {what}", abs(float((flat * partner).mean())), chance)
        check.at_least("correlation with itself", float((flat * flat).mean()), 0.5, "a mask of constants has none")

    for_all(check, compare, rng=generators())
