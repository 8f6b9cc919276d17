"""Keys -> random words: `jax.random` as a trainer calls it, which is under test, and the same in NumPy.

With `jax_threefry_partitionable` the n-th word of a key is a function of (key, n) alone, n in two words as counter:

    bits(key, n)      = a ^ b  where a, b = threefry(key, (0, n))
    split(key, n)     = threefry(key, (0, n))
    fold_in(key, d)   = threefry(key, (0, d))
    uniform           = the upper 23 bits of a word as the fraction of a float in [1, 2), less 1
    bernoulli(p)      = uniform < p
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.extend.random import threefry_2x32

from . import masks
from .operators import Formula

Words = npt.NDArray[np.uint32]
VECTORS = Path(__file__).with_name("vectors") / "random.json"


@functools.cache
def vectors() -> dict[str, Any]:
    """The golden vectors; `made` in them says how they came about."""
    found: dict[str, Any] = json.loads(VECTORS.read_text(encoding="utf-8"))
    return found


def _key(data: Any) -> Any:
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def blocks(key: Any, counters: Any) -> Any:
    """Threefry of explicit counters [2, n]: their first words in the first row."""
    return threefry_2x32((key[0], key[1]), counters)


def blocks_of_keys(keys: Any, counters: Any) -> Any:
    """Each key [n, 2] with its own counter [n, 2]."""
    return jax.vmap(blocks)(keys, counters)


@functools.cache
def bits(*shapes: tuple[int, ...]) -> Formula:
    """Words of one key, in several shapes."""

    def drawn(data: Any) -> tuple[Any, ...]:
        return tuple(jax.random.bits(_key(data), shape, jnp.uint32) for shape in shapes)

    return drawn


@functools.cache
def split(n: int) -> Formula:
    """A key's children."""

    def children(data: Any) -> Any:
        return jax.random.key_data(jax.random.split(_key(data), n))

    return children


def fold_in(data: Any, numbers: Any) -> Any:
    """A key for each number."""
    return jax.vmap(lambda number: jax.random.key_data(jax.random.fold_in(_key(data), number)))(numbers)


@functools.cache
def uniform(n: int) -> Formula:
    """Floats in [0, 1)."""

    def drawn(data: Any) -> Any:
        return jax.random.uniform(_key(data), (n,), jnp.float32)

    return drawn


@functools.cache
def bernoulli(n: int) -> Formula:
    """A mask; its rate is an argument."""

    def drawn(data: Any, rate: Any) -> Any:
        return jax.random.bernoulli(_key(data), rate, (n,))

    return drawn


def numpy_blocks(key: Words, counters: Words) -> Words:
    """`blocks` in NumPy."""
    return np.stack(np.broadcast_arrays(*masks.threefry_2x32((key[0], key[1]), (counters[0], counters[1]))))


def numpy_split(key: Words, n: int) -> Words:
    """`split` in NumPy."""
    counters = np.stack([np.zeros(n, np.uint32), np.arange(n, dtype=np.uint32)])
    return np.ascontiguousarray(numpy_blocks(key, counters).T)


def numpy_fold_in(key: Words, numbers: Words) -> Words:
    """`fold_in` in NumPy."""
    return np.ascontiguousarray(numpy_blocks(key, np.stack([np.zeros_like(numbers), numbers])).T)


def numpy_bits(key: Words, n: int) -> Words:
    """`bits` in NumPy, in one dimension: a shape's words are those of its elements in order."""
    a, b = numpy_split(key, n).T
    return a ^ b


def numpy_uniform(key: Words, n: int) -> npt.NDArray[np.float32]:
    """`uniform` in NumPy."""
    return (numpy_bits(key, n) >> np.uint32(9) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)
