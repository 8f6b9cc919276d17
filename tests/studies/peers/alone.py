"""Every peer by its name, and one of them in a process of its own: peak memory, and the time to its first step.

    python alone.py MODEL PEER STARTED

`speed.py` starts it so; STARTED is the time at which it did. Prints one line of JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from workload import Work

NAMES = (
    "ours, mesh, packed",
    "ours, pmap, packed",
    "ours, bare jit, packed",
    "ours, mesh, padded",
    "article, pmap",
    "article, mesh",
    "PyTorch, loop",
    "PyTorch, Trainer",
)


def make(name: str, work: Work) -> Any:
    """The peer of that name. Only its own framework is imported: each takes some 100 MiB and a second."""
    side, kind, *how = name.split(", ")
    if side == "PyTorch":
        import torch_peer

        return torch_peer.TorchLoop(work) if kind == "loop" else torch_peer.TorchTrainer(work)
    import jax_peers

    return jax_peers.Article(work, kind) if side == "article" else jax_peers.Ours(work, kind, pack=how == ["packed"])


def main(model: str, name: str, started: float) -> None:
    """Three updates and an evaluation of 256 examples."""
    peer = make(name, Work.of(model, 3, 256))
    began = time.perf_counter()
    peer.train()
    step, start = time.perf_counter() - began, time.time() - started
    for _ in range(2):
        peer.train()
    peer.evaluate()
    # Not `ru_maxrss`: a child starts with its parent's.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    mib = int(status["VmHWM"].split()[0]) / 1024
    print(json.dumps({"mib": mib, "start": start, "step": step}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
