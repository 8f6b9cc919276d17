"""The right trainer of rung 9: the template in several processes, with shares of the data and with checkpoints.

sftref verify --only 9 --processes 2 --adapter sftref.conformance.faults.trainers.sharing:Sharing
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from ...adapter import Arrays, Case, HostBatch
from ...adapters import template
from ...adapters.template import Template

Batches = Sequence[npt.NDArray[Any]]


class Sharing(Template):
    """The template where each process places its own rows and reads its share of an epoch, and process 0 saves."""

    name = "template that shares"
    capabilities = Template.capabilities | {"checkpoint", "data order"}

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        self.run, self.n, self.count, self.case = template.compiled(case, n_devices), n_devices, 0, case
        own = {name: np.array(leaf, np.float32) for name, leaf in params.items()}
        self.now, self.state = self._everywhere((own, self.run.optimizer.init(own)))

    def save(self, path: Path) -> None:
        if jax.process_index() == 0:
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((self.now, self.state))]
            np.savez(path / "state.npz", *leaves, count=self.count)

    def restore(self, path: Path) -> None:
        tree: Any = jax.tree.structure((self.now, self.state))
        with np.load(path / "state.npz") as saved:
            self.count = int(saved["count"])
            leaves = [saved[f"arr_{i}"] for i in range(tree.num_leaves)]
        self.now, self.state = self._everywhere(jax.tree.unflatten(tree, leaves))

    def epoch(self, examples: int, batch_size: int, number: int) -> Batches:
        order = np.random.default_rng((self.case.seed, number)).permutation(examples)
        return [self.share(order[k : k + batch_size]) for k in range(0, examples, batch_size)]

    def share(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part of a batch that this process reads."""
        return np.array_split(batch, jax.process_count())[jax.process_index()]

    def _everywhere(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: _placed(np.asarray(leaf), self.run.everywhere), tree)

    def _put(self, batch: HostBatch) -> HostBatch:
        return HostBatch(*(_placed(leaf, self.run.rows) for leaf in template.padded(batch, self.n)))


def _placed(leaf: npt.NDArray[Any], place: Any) -> Any:
    """The leaf on the devices; `jax.device_put` would first compare the arrays of all processes."""
    return jax.make_array_from_callback(leaf.shape, place, lambda index: leaf[index])
