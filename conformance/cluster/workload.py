"""Local devices -> seconds of each repetition of fixed work: matrix products, a pass over memory, a copy from the host.

All processes do the same work at the same time. One repetition uses all devices of the process at once, so that its
slowest device decides. On a CPU, the clock is processor time: processes that share cores would otherwise measure each
other. There, only the first device is used, since simulated devices share the same cores.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from jax import lax

from .stragglers import BLOCKS, QUANTILE

# Platform -> the width of the matrices, the number of products, and the elements of the array in memory. A repetition
# takes some milliseconds. On a CPU, the matrices are so small that one thread multiplies them.
SIZES = {"cpu": (96, 100, 1 << 20)}
OTHERS = (4096, 8, 1 << 26)
# The elements of a copy from the host to a device.
COPIED = 1 << 22


def repeat(program: Callable[[], None]) -> float:
    """Run and time one repetition; seconds."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    began = clock()
    program()
    return clock() - began


def measure(devices: Sequence[jax.Device], seconds: float) -> dict[str, list[float]]:
    """Measure for about `seconds`; name -> the seconds of a repetition in each of `BLOCKS` blocks of time.

    The measurements take turns within each block, so that all are spread over the whole time.
    """
    programs = _programs(devices)
    for program in programs.values():
        program()
    times: dict[str, list[float]] = {name: [] for name in programs}
    began = time.monotonic()
    for block in range(BLOCKS):
        taken: dict[str, list[float]] = {name: [] for name in programs}
        while not taken["compute"] or time.monotonic() < began + seconds * (block + 1) / BLOCKS:
            for name, program in programs.items():
                taken[name].append(repeat(program))
        for name, values in taken.items():
            times[name].append(float(np.quantile(values, QUANTILE)))
    return times


def _programs(devices: Sequence[jax.Device]) -> dict[str, Callable[[], None]]:
    """Name -> a function that does the work on all devices, and waits for it."""
    cpu = devices[0].platform == "cpu"
    width, products, elements = SIZES.get(devices[0].platform, OTHERS)
    used = devices[:1] if cpu else devices
    rng = np.random.default_rng(23)
    # A product with this matrix keeps the size of the numbers: its entries have the variance 1 / width.
    square = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
    line = rng.standard_normal(elements).astype(np.float32)

    @jax.jit
    def multiply(x: jax.Array) -> jax.Array:
        return lax.fori_loop(0, products, lambda _, y: y @ x, x)

    @jax.jit
    def scale(x: jax.Array) -> jax.Array:
        return lax.fori_loop(0, 8, lambda i, y: y * 0.5 + i.astype(y.dtype), x)

    def on_all(function: Callable[[jax.Array], jax.Array], arrays: Sequence[jax.Array]) -> None:
        jax.block_until_ready([function(array) for array in arrays])

    work = {"compute": (multiply, square), "memory": (scale, line)}
    programs: dict[str, Callable[[], None]] = {
        name: partial(on_all, function, [jax.device_put(array, device) for device in used])
        for name, (function, array) in work.items()
    }
    if not cpu:
        host = rng.standard_normal(COPIED).astype(np.float32)
        programs["copy"] = lambda: jax.block_until_ready([jax.device_put(host, device) for device in used])
    return programs
