"""A right data-parallel trainer in NumPy; the wrong trainers are its subclasses.

It is the oracle's sharded trainer with the other methods of the adapter interface, and compiles nothing, so that laws
of rungs 1, 4 and 6 to 8 test many wrong trainers within seconds.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...adapter import CAPABILITIES, Arrays, Case, HostBatch
from ...oracle.sharded import ShardedTrainer, Sums, added, rounded
from ...oracle.tape import Array, Back, Tape

__all__ = ["Bfloat16Tape", "NumpyTrainer", "OnDevices", "Sums", "added", "rounded"]


class Bfloat16Tape(Tape):
    """The oracle's operators, with operands and results of linear layers rounded to bfloat16, and exact sums."""

    def __init__(self, params: Arrays) -> None:
        super().__init__({name: rounded(leaf) for name, leaf in params.items()})

    def linear(self, x: Array, name: str) -> tuple[Array, Back]:
        """See `Tape.linear`."""
        y, back = super().linear(rounded(x), name)
        return rounded(y), lambda dy: rounded(back(rounded(dy)))


class NumpyTrainer(ShardedTrainer):
    """The right trainer; `TrainerUnderTest` documents the methods of the adapter interface."""

    name = "numpy (right)"
    capabilities = CAPABILITIES - {"processes", "program", "lowering", "costs", "parts", "jax"}

    def tape(self, params: Arrays) -> Tape:
        """The operators, in the precision of the case."""
        return Bfloat16Tape(params) if self.case.precision == "bfloat16" else Tape(params)

    def replicas(self) -> list[Arrays]:
        return [self.now] * self.n

    def save(self, path: Path) -> None:
        path.joinpath("state.pickle").write_bytes(pickle.dumps((self.now, self.first, self.second, self.t)))

    def restore(self, path: Path) -> None:
        self.now, self.first, self.second, self.t = pickle.loads(path.joinpath("state.pickle").read_bytes())

    def epoch(self, examples: int, batch_size: int, number: int) -> list[npt.NDArray[np.int64]]:
        """Another permutation for each epoch."""
        order = np.random.default_rng((self.case.seed, number)).permutation(examples)
        return [order[i : i + batch_size] for i in range(0, examples, batch_size)]

    def score(self, batches: Sequence[HostBatch]) -> dict[str, float]:
        """Scores from counts over all batches."""
        return self.scores(np.sum([self.counts(batch) for batch in batches], axis=0))

    def counts(self, batch: HostBatch) -> Array:
        """Numbers of a batch: correct, all, twice the true positives of class 1, predicted plus actual class 1."""
        real = batch.weights > 0
        predicted, labels = self.evaluate(batch).argmax(axis=1)[real], batch.labels[real]
        hits = ((predicted == 1) & (labels == 1)).sum()
        positives = (predicted == 1).sum() + (labels == 1).sum()
        return np.array([(predicted == labels).sum(), real.sum(), 2 * hits, positives], float)

    def scores(self, counts: Array) -> dict[str, float]:
        """Accuracy and F1, from `counts`."""
        correct, n, hits, positives = counts
        return {"accuracy": float(correct / n), "f1": float(hits / positives) if positives else 0.0}


class OnDevices(NumpyTrainer):
    """The right trainer, with its parameters on JAX devices too, and a program that shows what its update sends."""

    capabilities = NumpyTrainer.capabilities | {"jax", "program"}

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        super().start(case, params, n_devices)
        everywhere = NamedSharding(Mesh(np.array(self.devices()), ("data",)), PartitionSpec())
        whole = np.concatenate([leaf.ravel() for leaf in self.now.values()]).astype(np.float32)
        self.held: Any = jax.device_put(whole, everywhere)

    def devices(self) -> list[Any]:
        import jax

        return list(jax.devices()[: self.n])

    def program(self, batch: HostBatch) -> str:
        """One all-reduce of gradients, loss and weight, as XLA prints it."""
        return self.all_reduce(1)

    def all_reduce(self, number: int) -> str:
        shapes = [f"f32[{','.join(map(str, leaf.shape))}]" for leaf in self.now.values()]
        return f"  %all-reduce.{number} = ({', '.join(shapes)}, f32[], f32[]) all-reduce(%fusion.{number})"
