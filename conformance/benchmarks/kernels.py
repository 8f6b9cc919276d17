"""The calibration kernels: small fixed pieces of work whose time says how fast this machine is at the moment.

A time divided by that of a kernel of the same kind, measured just before it, is a number that a machine which is
throttled, shared or at another clock gives as well: that is what can be compared with a baseline of another day.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Side of the square product and MiB of the copy: some milliseconds on two CPU cores, and on an accelerator.
SIDES = {"cpu": 512}
SIDE = 4096
COPIED = {"cpu": 8}
COPY = 64
DISPATCHED = 64
COUNTED = 40_000


def kernels(device: Any) -> dict[str, Callable[[], Any]]:
    """By name, compiled and warm: `matmul`, `copy`, `dispatch`, and `host`, which is Python's own speed."""
    side, mib = SIDES.get(device.platform, SIDE), COPIED.get(device.platform, COPY)
    rng = np.random.default_rng(0)
    a = jax.device_put(rng.standard_normal((side, side)).astype(np.float32), device)
    one = jax.device_put(np.float32(1), device)
    # Two buffers in turn, neither aligned as a device array is: a CPU device would only point at the host's.
    sources = [np.zeros(mib * (1 << 18) + 1, np.float32)[1:] for _ in range(2)]
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    increment = jax.jit(lambda x: x + 1)

    def copy() -> Any:
        sources.reverse()
        return jax.block_until_ready(jax.device_put(sources[0], device, may_alias=False))

    def dispatch() -> None:
        for _ in range(DISPATCHED):
            jax.block_until_ready(increment(one))

    def host() -> int:
        total = 0
        for number in range(COUNTED):
            total += number ^ 1
        return total

    found = {"matmul": lambda: jax.block_until_ready(product(a)), "copy": copy, "dispatch": dispatch, "host": host}
    for kernel in found.values():
        kernel()
    return found
