"""Measures this machine's rates, and updates of a small BERT on 1 to 8 simulated devices and in 1 to 4 processes.

    python tests/studies/scale/measure.py FILE.json

The devices share two cores, so an update on N devices takes N times the work of one device. The all-reduce of its
gradients is measured separately, and fitted as a + b * bytes. `project.py` compares the sum of both with the update.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROWS, LENGTH, REPEATS = 8, 64, 12
SIZES = (1 << 12, 1 << 16, 1 << 20, 1 << 22, 1 << 24)
LAYOUTS = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (4, 1), (2, 2))


def median(call: Callable[[], Any]) -> float:
    """Seconds of a call that waits for its result: the median of `REPEATS`."""
    call()
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def reduce_seconds(devices: list[Any]) -> list[tuple[int, float]]:
    """(bytes, seconds) of an all-reduce of float32 over the devices."""
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from sftref.conformance.machine.meshes import shard_map

    mesh = Mesh(np.array(devices), ("data",))
    rows = PartitionSpec("data")
    found = []
    for size in SIZES:
        data = np.ones((len(devices), size // 4), np.float32)
        place = NamedSharding(mesh, rows)
        given = jax.make_array_from_callback(data.shape, place, functools.partial(np.ndarray.__getitem__, data))
        program = jax.jit(shard_map(lambda x: jax.lax.psum(x, "data"), mesh, rows, PartitionSpec()))
        found.append((size, median(lambda p=program, g=given: jax.block_until_ready(p(g)))))
    return found


def update_seconds(devices: list[Any]) -> float:
    """Seconds of the mesh trainer's update, with `ROWS` rows of `LENGTH` tokens per device."""
    from model import SMALL

    from sftref.config import OptimConfig
    from sftref.data.batches import Batch
    from sftref.train.step import Program
    from sftref.trainers import make_trainer

    program = Program.of(SMALL.config(heads=4), OptimConfig(), total_steps=100, dropout="off", precision="float32")
    trainer = make_trainer("mesh", program, devices)
    rng = np.random.default_rng(0)
    rows = ROWS * len(trainer.local_devices)
    whole = np.zeros((1, rows, LENGTH), np.int32)
    slot = np.zeros((1, rows, 1), np.int32)
    batch = Batch(
        input_ids=rng.integers(0, SMALL.words, whole.shape).astype(np.int32),
        token_type_ids=whole,
        positions=whole + np.arange(LENGTH, dtype=np.int32),
        segments=whole + 1,
        starts=slot,
        labels=slot,
        weights=np.ones(slot.shape, np.float32),
        example_ids=np.arange(rows, dtype=np.uint32).reshape(slot.shape),
    )
    shapes = jax.eval_shape(
        lambda: program.model.init(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], batch))["params"]
    )
    params = jax.tree.map(lambda leaf: 0.02 * rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    state, placed = trainer.place(program.state(params, 0)), trainer.put(batch)

    def step() -> None:
        nonlocal state
        state, metrics = trainer.train_step(state, placed)
        jax.block_until_ready(metrics)

    return median(step)


def worker(processes: int, devices: int, number: int, port: int) -> None:
    """Run one process of a layout; process 0 prints its measurements."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", processes, number)
    here = jax.devices()
    found = {"processes": processes, "devices": devices, "reduce": reduce_seconds(here), "update": update_seconds(here)}
    if number == 0:
        print(json.dumps(found), flush=True)


def measured(processes: int, devices: int) -> dict[str, Any]:
    """The measurements of one layout, run in new processes."""
    from sftref.conformance.laws.support.process_group import free_port

    port = free_port()
    words = [sys.executable, __file__, "--layout", *map(str, (processes, devices))]
    running = [
        subprocess.Popen([*words, str(number), str(port)], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for number in range(processes)
    ]
    said = [child.communicate()[0] for child in running]
    if any(child.returncode for child in running):
        raise RuntimeError(f"{processes} x {devices}: exit codes {[child.returncode for child in running]}")
    return dict(json.loads(said[0].splitlines()[-1]))


def main() -> int:
    """Measure all layouts, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, metavar="FILE.json")
    parser.add_argument("--layout", nargs=4, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.layout:
        worker(*given.layout)
        return 0
    if given.out is None:
        parser.error("FILE.json is missing: where the figures go")
    found = []
    for processes, devices in LAYOUTS:
        found.append(measured(processes, devices))
        print(f"{processes} x {devices}: update {found[-1]['update']:.3f} s", file=sys.stderr, flush=True)
    given.out.write_text(json.dumps({"cores": os.cpu_count(), "layouts": found}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
