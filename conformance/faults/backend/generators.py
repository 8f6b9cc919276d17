"""Wrong random numbers, below every caller: of a generator, of its layout, or of one device."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives as core

from .executables import with_shards
from .seeding import SeededFaults, option

FAULTS = SeededFaults()
FAULTS.lowered("counter-of-31-bits", core.threefry2x32_p)(
    lambda right, k1, k2, x1, x2, **_: right(k1, k2, x1 & np.uint32(0x7FFFFFFF), x2)
)
FAULTS.lowered("neighbours-share-their-bits", core.threefry2x32_p)(
    lambda right, k1, k2, x1, x2, **_: right(k1, k2, x1, x2 & np.uint32(0xFFFFFFFE))
)
FAULTS.lowered("bits-of-large-arrays-repeat", core.threefry2x32_p)(
    lambda right, k1, k2, x1, x2, **_: right(k1, k2, x1, x2 & np.uint32(0xFFFF) if x2.size > 2**16 else x2)
)
FAULTS["another-layout-of-random-bits"] = lambda: option(
    "jax_threefry_partitionable", not jax.config.values["jax_threefry_partitionable"]
)
FAULTS.patched("uniform-of-24-bits", jax.random, "uniform")(
    lambda right, key, shape=(), *_, **__: (jax.random.bits(key, shape) >> 8).astype(jnp.float32) * np.float32(2.0**-24)
)
FAULTS.patched("mask-of-8-bits", jax.random, "bernoulli")(
    lambda right, key, p=0.5, shape=(): (jax.random.bits(key, shape) >> 24) < round(p * 256)
)


def _is_bits(text: str, x: Any) -> bool:
    """Whether a result is random bits: words of a program with shifts and exclusive ors."""
    return x.dtype == np.uint32 and "shift-right-logical" in text and "xor" in text


@FAULTS.changed("other-bits-on-the-second-device")
def _bits_by_device(_: Any, text: str, results: Sequence[Any]) -> Sequence[Any]:
    # On a machine with one device: that one.
    second = min(1, len(jax.devices()) - 1)

    def turned(place: int, part: Any) -> Any:
        return part ^ np.uint32(1) if place == second else part

    return [with_shards(x, turned) if _is_bits(text, x) else x for x in results]


@FAULTS.changed("same-bits-on-every-shard")
def _bits_by_shard(_: Any, text: str, results: Sequence[Any]) -> Sequence[Any]:
    def first_everywhere(x: Any) -> Any:
        first = np.asarray(x.addressable_shards[0].data)
        return with_shards(x, lambda place, part: first if first.shape == part.shape else part)

    return [first_everywhere(x) if _is_bits(text, x) else x for x in results]
