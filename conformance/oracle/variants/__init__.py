"""What trainers get wrong -> variants of the oracle, and which of them explain a trainer's numbers."""

from . import blocks, examples, network, optimizer, restarts, runs, sums

__all__ = ["blocks", "examples", "network", "optimizer", "restarts", "runs", "sums"]
