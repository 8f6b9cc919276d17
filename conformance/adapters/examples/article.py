"""The adapter of the two loops of the article that sftref starts from, as the article's readers run them.

`article_loop.py` has the loops, which train `FlaxBert` of transformers. The adapter does not add what they leave out,
so that laws can show the consequences:

- rows that are left over when devices share a batch equally are dropped: no loss, no gradient, and NaN as logits here;
- an epoch, and a score, leave out a last batch that is not full;
- every example counts the same: `weights` is not claimed;
- dropout masks depend on the number of devices and differ between the loops: only the factories that end in
  `_dropout` claim `dropout`, to show how that fails.

The case gives learning rates, the optimizer's constants, clipping and warm-up; the article has no clipping or warm-up.
Regression is as in run_flax_glue.py of transformers, whose loop is like the article's. Needs transformers 4.57.6, the
last release with Flax models.

    sftref verify --adapter sftref.conformance.adapters.article:pmap --adapter sftref.conformance.adapters.article:mesh
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import optax
from flax import traverse_util

from ...adapter import Arrays, Case, HostBatch, StepResult
from ..costs import costs_of
from ..template import optimizer_of
from .article_loop import Loop, decays

COLUMNS = ("input_ids", "token_type_ids", "attention_mask")
# The end of a parameter's name, without `.weight` -> Flax's name of the array; all other arrays are kernels.
KINDS = {".bias": "bias", "_embeddings": "embedding", "LayerNorm": "scale"}


def from_hf(params: Arrays) -> Any:
    """Parameters with a checkpoint's names and (out, in) layout -> Flax's tree."""
    leaves = {}
    for name, leaf in params.items():
        ends = (kind for end, kind in KINDS.items() if name.removesuffix(".weight").endswith(end))
        kind, values = next(ends, "kernel"), np.asarray(leaf, np.float32)
        leaves[*name.split(".")[:-1], kind] = values.T if kind == "kernel" else values
    return traverse_util.unflatten_dict(leaves)


def to_hf(params: Any) -> Arrays:
    """The inverse of `from_hf`: copies, since the next update may reuse this memory."""
    leaves = {}
    for (*path, last), leaf in traverse_util.flatten_dict(params).items():
        name = ".".join([*path, "bias" if last == "bias" else "weight"])
        leaves[name] = np.array(np.asarray(leaf).T if last == "kernel" else leaf)
    return leaves


@functools.lru_cache(maxsize=32)
def compiled(case: Case, kind: str, n: int) -> tuple[Loop, optax.Schedule]:
    """The loop and the schedule of a case, compiled once, since the kit starts hundreds of runs."""
    from transformers import BertConfig, FlaxBertForSequenceClassification

    model = FlaxBertForSequenceClassification(BertConfig(**case.config), _do_init=False)
    optimizer, schedule = optimizer_of(case, decays)
    return Loop(model, kind, jax.devices()[:n], optimizer, schedule, regression=case.regression), schedule


class Article:
    """The adapter of a `Loop`; `TrainerUnderTest` documents its methods."""

    capabilities = frozenset({
        "devices", "jax", "padding rows", "gradients", "moments", "replicas", "program", "lowering", "costs",
        "data order", "metrics",
    })  # fmt: skip

    def __init__(self, kind: str, *, dropout: bool = False) -> None:
        self.name, self.kind = f"the article's {kind}", kind
        if dropout:
            self.name += " with its dropout"
            self.capabilities = self.capabilities | {"dropout"}

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        self.case, self.n, self.count = case, n_devices, 0
        self.loop, self.schedule = compiled(dataclasses.replace(case, seed=0), self.kind, n_devices)
        self.state, self.keys = self.loop.start(from_hf(params), case.seed)

    def step(self, batch: HostBatch) -> StepResult:
        """One update, or none if no row is left."""
        rate = float(self.schedule(self.count))
        if not len(self._kept(batch)):
            return StepResult(float("nan"), rate)
        self.state, metrics, self.keys = self.loop.train(self.state, self._placed(batch), self.keys)
        self.count += 1
        return StepResult(float(self._one(metrics["loss"])), float(self._one(metrics["learning_rate"])))

    def evaluate(self, batch: HostBatch) -> npt.NDArray[Any]:
        logits = np.full((len(batch.weights), self.case.num_labels), np.nan, np.float32)
        if len(kept := self._kept(batch)):
            outputs = np.asarray(self.loop.logits(self.state, self._placed(batch, labels=False)))
            logits[kept] = outputs.reshape(len(kept), -1)
        return logits

    def params(self) -> Arrays:
        return to_hf(self._tree(self.state.params))

    def gradients(self, batch: HostBatch) -> Arrays:
        """The gradient of the update; zeros if no row is left."""
        if not len(self._kept(batch)):
            return {name: np.zeros_like(leaf) for name, leaf in self.params().items()}
        return to_hf(self._tree(self.loop.gradients(self.state, self._placed(batch), self.keys)))

    def moments(self) -> tuple[Arrays, Arrays]:
        adam = optax.tree_utils.tree_get(self._tree(self.state.opt_state), "ScaleByAdamState")
        return to_hf(adam.mu), to_hf(adam.nu)

    def replicas(self) -> Sequence[Arrays]:
        return [to_hf(self._tree(self.state.params, place)) for place in range(self.n)]

    def program(self, batch: HostBatch) -> str:
        return str(self._compiled(batch).as_text())

    def lowered(self, batch: HostBatch, platform: str) -> str:
        return self.loop.lowered(self.state, self._placed(batch), self.keys, platform)

    def costs(self, batch: HostBatch) -> Mapping[str, float]:
        return costs_of(self._compiled(batch))

    def epoch(self, examples: int, batch_size: int, number: int) -> Sequence[npt.NDArray[Any]]:
        """Batches in the order drawn from the epoch's key, without a last batch that is not full."""
        key = jax.random.PRNGKey(self.case.seed)
        for _ in range(number + 1):
            key, own = jax.random.split(key)
        steps = examples // batch_size
        order = np.asarray(jax.random.permutation(own, examples))[: steps * batch_size]
        return list(order.reshape(steps, batch_size))

    def score(self, batches: Sequence[HostBatch]) -> Mapping[str, float]:
        """Scores of the full batches, by sklearn, as in the article."""
        from sklearn.metrics import accuracy_score, f1_score

        full = [batch for batch in batches if (batch.weights > 0).all()]
        labels = np.concatenate([batch.labels for batch in full])
        predicted = np.concatenate([self.evaluate(batch).argmax(axis=1) for batch in full])
        return {"accuracy": float(accuracy_score(labels, predicted)), "f1": float(f1_score(labels, predicted))}

    def _kept(self, batch: HostBatch) -> npt.NDArray[np.int64]:
        """The rows that the loop gets: those with weight above 0, in equal numbers for all devices."""
        rows = np.flatnonzero(batch.weights > 0)
        return rows[: len(rows) // self.n * self.n]

    def _placed(self, batch: HostBatch, *, labels: bool = True) -> dict[str, jax.Array]:
        kept, real = self._kept(batch), batch.attention_mask > 0
        # Tokenizers pad with token 0 of type 0.
        rows = {name: np.where(real, getattr(batch, name), 0)[kept] for name in COLUMNS}
        return self.loop.place(rows | ({"labels": batch.labels[kept]} if labels else {}))

    def _compiled(self, batch: HostBatch) -> Any:
        return self.loop.train.lower(self.state, self._placed(batch), self.keys).compile()

    def _one(self, leaf: jax.Array) -> Any:
        return np.asarray(leaf).reshape(-1)[0]

    def _tree(self, tree: Any, place: int = 0) -> Any:
        """The copy of a replicated tree on device number `place`."""
        device = self.loop.devices[place]

        def copy(leaf: Any) -> Any:
            part = next(shard.data for shard in leaf.addressable_shards if shard.device == device)
            return np.asarray(part)[0] if self.kind == "pmap" else np.asarray(part)

        return jax.tree.map(copy, tree)


pmap = functools.partial(Article, "pmap")
mesh = functools.partial(Article, "mesh")
# These claim addressed dropout but draw other masks: from a key for each device, or from one key for the batch.
pmap_dropout = functools.partial(Article, "pmap", dropout=True)
mesh_dropout = functools.partial(Article, "mesh", dropout=True)
