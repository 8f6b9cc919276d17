"""The calibration kernels: small fixed pieces of work whose time says how fast this machine is at the moment.

A time divided by that of a kernel of the same kind, measured just before it, is a number that a machine which is
throttled, shared or at another clock gives as well: that is what can be compared with a baseline of another day.

So a kernel must itself take the same time in every process, wherever its memory came to lie and whatever ran before.
Over ten processes on a Xeon a product of side 512 scattered by 12 %, of 1024 by 2 to 6 %; copies into fresh memory
scattered by 9 to 60 %, an increment in place by 3 % alone and by 22 % between other work, so that there is none of
memory: what is bound by it is divided by the product too. The least of three tries in a row counts, as the first one
after other work was up to a third slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Side of the square product: some milliseconds on two CPU cores, and on an accelerator.
SIDES = {"cpu": 1024}
SIDE = 4096
DISPATCHED = 64
TRIES = 3
COUNTED = 40_000


def kernels(device: Any) -> dict[str, Callable[[], Any]]:
    """By name, compiled and warm: `matmul`, `dispatch`, and `host`, which is Python's own speed."""
    side = SIDES.get(device.platform, SIDE)
    rng = np.random.default_rng(0)
    a = jax.device_put(rng.standard_normal((side, side)).astype(np.float32), device)
    one = jax.device_put(np.float32(1), device)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    increment = jax.jit(lambda x: x + 1)

    def dispatch() -> None:
        for _ in range(DISPATCHED):
            jax.block_until_ready(increment(one))

    def host() -> int:
        total = 0
        for number in range(COUNTED):
            total += number ^ 1
        return total

    found = {"matmul": lambda: jax.block_until_ready(product(a)), "dispatch": dispatch, "host": host}
    for kernel in found.values():
        kernel()
    return found
