"""The calibration kernels: small fixed programs whose time measures the present speed of this machine.

The ratio of a time to the time of a kernel measured just before does not depend on the clock, the temperature or the
load of the machine, so it can be compared with the ratio of another day.

A kernel must take the same time in every process, whatever its addresses and whatever ran before. Over ten processes on
a Xeon, a matrix product of side 512 scattered by 12 %, one of side 1024 by 2 to 6 %. Copies into fresh memory scattered
by 9 to 60 %, an increment in place by 3 % alone and by 22 % between other work. So there is no kernel for memory, and
benchmarks bound by memory are divided by the product too. The minimum of three tries counts, because the first try
after other work was up to a third slower.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Side of the square product, which takes some milliseconds on two CPU cores and on an accelerator.
SIDES = {"cpu": 1024}
SIDE = 4096
DISPATCHED = 64
TRIES = 3
COUNTED = 40_000


def kernels(device: Any) -> dict[str, Callable[[], Any]]:
    """Name -> a compiled kernel that has run once: `matmul`, `dispatch`, and `host` for the speed of Python itself."""
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

    by_name = {"matmul": lambda: jax.block_until_ready(product(a)), "dispatch": dispatch, "host": host}
    for kernel in by_name.values():
        kernel()
    return by_name
