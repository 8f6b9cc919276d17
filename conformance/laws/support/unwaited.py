"""Hundreds of steps with a collective, none of which is waited for.

Run as `python -m sftref.conformance.laws.support.unwaited`.
On simulated devices JAX before 0.12 ends with them only by luck: the threads of XLA's pool are as many as cores, each
device of each step takes one to wait for the other devices, and when later steps hold all of them the devices that are
waited for find none. Asked there in a process of its own, which ends itself.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import os
import shlex
import subprocess
import sys
from typing import Any

import numpy as np

from ...core.kit import IMPORT_ROOT
from ...core.meshes import Array, mesh_of, shard_map
from ...core.settings import Settings, start_jax
from ...machine.versions import release
from ...workers import process

STEPS = 300
# So many are never in flight where that can hang; ten were tried there, and held.
FEW = 10
# One step is 0.5 ms on two cores, all of them 0.2 s.
SECONDS = 20.0
STARTING = 120.0
# Sums of so many numbers below it, three times one more, stay far below 2^31.
PRIME = 65_521
MENDED = (0, 12)
CURE = f"wait for every {FEW}th step at the least, as sftref's own loop does, or set NPROC=32 before JAX starts"
# What the child says when the same steps, each waited for, are over; how faulthandler begins; and what XLA calls the
# place where devices wait for each other.
WAITED, TIMEOUT, RENDEZVOUS = "waited for each", "Timeout (", "rendezvous"
UPSTREAM = "https://github.com/PyAutoLabs/PyAutoFit/issues/1530, https://github.com/pytorch/xla/pull/3898"


def can_hang(platform: str, version: str) -> bool:
    """Whether devices of this platform are simulated by threads that can run out, under this version of JAX."""
    return platform == "cpu" and release(version) < MENDED


def trajectory(devices: list[Any], first: Array, waits: int | None) -> Array:
    """Take `STEPS` steps x <- (sum of all x + 3 x) mod `PRIME`, int32 [N, n], and wait every `waits` of them or never.

    One wrong number in any step is a wrong number in the end: modulo a prime the step can be undone, as 3 and 3 + N
    are not 0 there.
    """
    import jax
    from jax import lax
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = mesh_of(devices)
    rows = PartitionSpec("data")
    step = jax.jit(shard_map(lambda x: (lax.psum(x, "data") + 3 * x) % PRIME, mesh, rows, rows))
    x = jax.device_put(first, NamedSharding(mesh, rows))
    for number in range(STEPS):
        x = step(x)
        # The first one compiles.
        if number == 0 or (waits and number % waits == 0):
            x.block_until_ready()
    return np.asarray(x)


def hung(devices: int) -> str | None:
    """Ask in a process of its own, on so many simulated devices: how it hung, or None where it came to its end.

    Raises:
        RuntimeError: it ended in another way, or before the steps that nobody waits for had begun.
        subprocess.TimeoutExpired: it did not end itself.
    """
    return _ended(devices)


@functools.cache
def _ended(devices: int) -> str | None:
    """See `hung`. Whoever asks again gets the same answer: nothing that is seeded in this process is in that one."""
    words = [sys.executable, "-P", "-m", f"{__package__}.unwaited", str(devices)]
    # pytest imports a kit from its own folder, which the child does not know of.
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(IMPORT_ROOT)]))
    given = os.environ | {"PYTHONPATH": paths}
    limit = STARTING + 2 * SECONDS
    ended = subprocess.run(words, env=given, capture_output=True, text=True, timeout=limit, check=False)
    if ended.returncode == 0:
        return None
    begun = WAITED in ended.stdout
    if begun and TIMEOUT in ended.stderr:
        return f"no answer within {SECONDS:g} s"
    how = process.how_it_ended(ended.returncode)
    said = process.last_words(ended.stderr.splitlines())
    # XLA itself gives up after a while in some releases.
    if begun and RENDEZVOUS in ended.stderr:
        return f"{how}: {said}"
    raise RuntimeError(f"{shlex.join(words)}: {how}; it said: {said}")


def main() -> int:
    """Take the steps, or end: the last seconds are those of the steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("devices", type=int, help="simulated ones")
    given = parser.parse_args()
    # Not with whoever started it: that one may be ended first.
    faulthandler.dump_traceback_later(STARTING, exit=True)
    import jax

    start_jax(Settings(platform="cpu", devices=given.devices))
    devices = jax.devices()[: given.devices]
    first = np.ones((len(devices), 1024), np.int32)
    trajectory(devices, first, 1)
    print(WAITED, flush=True)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    trajectory(devices, first, None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
