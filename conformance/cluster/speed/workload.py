"""Local devices -> seconds of repetitions of fixed work: matrix products, a pass over memory, a copy from the host.

All processes do the same work at the same time. One repetition uses all devices of the process at once, so that its
slowest device decides. On a CPU, only matrix products on the first device are measured, by processor time: processes
that share cores would otherwise measure each other. They fit in the first cache, as the others share the next ones.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from jax import lax

from .stragglers import BLOCKS, QUANTILE

# The width of the matrices and the number of products: on a CPU about 1 ms on one thread, else some milliseconds.
ON_CPU, ELSEWHERE = (64, 300), (4096, 8)
# The elements of the array in memory, and of the one that is copied from the host to a device.
IN_MEMORY, COPIED = 1 << 26, 1 << 22


def prepare() -> None:
    """Call this before JAX starts: work on a CPU then runs in the calling thread, whose processor time is exact.

    The processor time of another thread that still runs is known only since its last tick: repetitions of 0.9 ms were
    read as 0.05 ms.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


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
    width, products = ON_CPU if cpu else ELSEWHERE
    used = devices[:1] if cpu else devices
    rng = np.random.default_rng(23)
    # A product with this matrix keeps the size of the numbers: its entries have the variance 1 / width.
    square = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)

    @jax.jit
    def multiply(x: jax.Array) -> jax.Array:
        return lax.fori_loop(0, products, lambda _, y: y @ x, x)

    @jax.jit
    def scale(x: jax.Array) -> jax.Array:
        return lax.fori_loop(0, products, lambda i, y: y * 0.5 + i.astype(y.dtype), x)

    def on_all(function: Callable[[jax.Array], jax.Array], arrays: Sequence[jax.Array]) -> None:
        jax.block_until_ready([function(array) for array in arrays])

    squares = jax.device_put([square] * len(used), used)
    programs: dict[str, Callable[[], None]] = {"compute": partial(on_all, multiply, squares)}
    if not cpu:
        line, host = (rng.standard_normal(count, dtype=np.float32) for count in (IN_MEMORY, COPIED))
        programs["memory"] = partial(on_all, scale, jax.device_put([line] * len(used), used))
        programs["copy"] = partial(on_all, lambda device: jax.device_put(host, device), used)
    return programs
