"""What trainers get wrong -> variants of the oracle, and which of them explain a trainer's numbers."""

from . import examples, network, optimizer, runs, sums

__all__ = ["examples", "network", "optimizer", "runs", "sums"]
