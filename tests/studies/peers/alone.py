"""The name of a peer -> the peer; run as a script, its peak memory and its time to the first step.

    python alone.py MODEL PEER STARTED

`speed.py` starts this script in a process for each peer; STARTED is the time of the start. Prints one line of JSON.
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
    """The peer `name`. Only its own framework is imported, because each framework takes some 100 MiB and a second."""
    side, kind, *how = name.split(", ")
    if side == "PyTorch":
        import torch_peer

        return torch_peer.TorchLoop(work) if kind == "loop" else torch_peer.TorchTrainer(work)
    import jax_peers

    return jax_peers.Article(work, kind) if side == "article" else jax_peers.Ours(work, kind, pack=how == ["packed"])


def main(model: str, name: str, started: float) -> None:
    """Run three updates and an evaluation of 256 examples, and print the figures."""
    peer = make(name, Work.of(model, 3, 256))
    began = time.perf_counter()
    peer.train()
    step, start, cpu = time.perf_counter() - began, time.time() - started, time.process_time()
    for _ in range(2):
        peer.train()
    peer.evaluate()
    # `ru_maxrss` is not used, because a child process starts with the value of its parent.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    mib = int(status["VmHWM"].split()[0]) / 1024
    print(json.dumps({"mib": mib, "start": start, "step": step, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
