"""The two loops of the article that sftref starts from, behind the kit's border, as its readers run them.

`article_loop.py` has them. They run on `FlaxBert` of transformers, and with all that they leave out, so that the laws
can say what it means:

- rows that do not divide among the devices are left out: no loss, no gradient, no logits (NaN here) for them;
- an epoch leaves out what does not fill a batch, and a score the whole last batch that is not full;
- every example counts alike: `weights` is not claimed;
- the masks of dropout depend on the number of devices and differ between the loops: `dropout` is claimed by the
  factories that end in `_dropout`, which are there to be seen failing.

Settings are the case's: rates, the optimizer's constants, clipping, warm-up (the article has neither of the last two).
Regression is as in transformers' run_flax_glue.py, whose loop the article's resembles. Needs transformers 4.57.6, the
last with Flax models.

    sftref verify --adapter sftref.conformance.adapters.examples.article:pmap \
        --adapter sftref.conformance.adapters.examples.article:mesh
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
import optax
from flax import traverse_util

from ...adapter import Arrays, Case, HostBatch, StepResult
from ..costs import costs_of
from .article_loop import Loop, decays

COLUMNS = ("input_ids", "token_type_ids", "attention_mask")


def from_hf(params: Arrays) -> Any:
    """A checkpoint's names and (out, in) layout -> Flax's."""
    found = {}
    for name, leaf in params.items():
        *path, last = name.split(".")
        if last == "bias":
            found[*path, "bias"] = np.asarray(leaf, np.float32)
        elif path[-1].endswith("_embeddings"):
            found[*path, "embedding"] = np.asarray(leaf, np.float32)
        elif path[-1] == "LayerNorm":
            found[*path, "scale"] = np.asarray(leaf, np.float32)
        else:
            found[*path, "kernel"] = np.asarray(leaf, np.float32).T
    return traverse_util.unflatten_dict(found)


def to_hf(params: Any) -> Arrays:
    """And back: copies, for the next update may write where these lie."""
    found = {}
    for (*path, last), leaf in traverse_util.flatten_dict(params).items():
        name = ".".join([*path, "bias" if last == "bias" else "weight"])
        found[name] = np.array(np.asarray(leaf).T if last == "kernel" else leaf)
    return found


class Compiled(NamedTuple):
    """A case's loop, and its schedule."""

    loop: Loop
    schedule: optax.Schedule


@functools.lru_cache(maxsize=32)
def compiled(case: Case, kind: str, n: int) -> Compiled:
    """Compiled once for all runs of a case: the kit starts hundreds."""
    from transformers import BertConfig, FlaxBertForSequenceClassification

    model = FlaxBertForSequenceClassification(BertConfig(**case.config), _do_init=False)
    up = optax.linear_schedule(0.0, case.learning_rate, case.warmup_steps)
    down = optax.linear_schedule(case.learning_rate, 0.0, case.total_steps - case.warmup_steps)
    schedule = optax.join_schedules([up, down], [case.warmup_steps])
    adamw = optax.adamw(schedule, case.b1, case.b2, case.eps, weight_decay=case.weight_decay, mask=decays)
    optimizer = adamw if case.clip_norm is None else optax.chain(optax.clip_by_global_norm(case.clip_norm), adamw)
    devices = jax.devices()[:n]
    return Compiled(Loop(model, kind, devices, optimizer, schedule, regression=case.regression), schedule)


class Article:
    """The border around a `Loop`."""

    capabilities = frozenset(
        {"devices", "jax", "gradients", "moments", "replicas", "program", "lowering", "costs", "data order", "metrics"}
    )

    def __init__(self, kind: str, *, dropout: bool = False) -> None:
        self.name, self.kind = f"the article's {kind}", kind
        if dropout:
            self.name += " with its dropout"
            self.capabilities = self.capabilities | {"dropout"}

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        """See `TrainerUnderTest.start`."""
        self.case, self.n, self.count = case, n_devices, 0
        self.loop, self.schedule = compiled(dataclasses.replace(case, seed=0), self.kind, n_devices)
        self.state, self.keys = self.loop.start(from_hf(params), case.seed)

    def step(self, batch: HostBatch) -> StepResult:
        """See `TrainerUnderTest.step`; of no rows there is no update."""
        rate = float(self.schedule(self.count))
        if not len(self._kept(batch)):
            return StepResult(float("nan"), rate)
        self.state, metrics, self.keys = self.loop.train(self.state, self._placed(batch), self.keys)
        self.count += 1
        return StepResult(float(self._one(metrics["loss"])), float(self._one(metrics["learning_rate"])))

    def evaluate(self, batch: HostBatch) -> npt.NDArray[Any]:
        """See `TrainerUnderTest.evaluate`."""
        found = np.full((len(batch.weights), self.case.num_labels), np.nan, np.float32)
        if len(kept := self._kept(batch)):
            logits = np.asarray(self.loop.logits(self.state, self._placed(batch, labels=False)))
            found[kept] = logits.reshape(len(kept), -1)
        return found

    def params(self) -> Arrays:
        """See `TrainerUnderTest.params`."""
        return to_hf(self._tree(self.state.params))

    def gradients(self, batch: HostBatch) -> Arrays:
        """See `TrainerUnderTest.gradients`; zeros for no rows."""
        if not len(self._kept(batch)):
            return {name: np.zeros_like(leaf) for name, leaf in self.params().items()}
        return to_hf(self._tree(self.loop.gradients(self.state, self._placed(batch), self.keys)))

    def moments(self) -> tuple[Arrays, Arrays]:
        """See `TrainerUnderTest.moments`."""
        found = optax.tree_utils.tree_get(self._tree(self.state.opt_state), "ScaleByAdamState")
        return to_hf(found.mu), to_hf(found.nu)

    def replicas(self) -> Sequence[Arrays]:
        """See `TrainerUnderTest.replicas`."""
        return [to_hf(self._tree(self.state.params, place)) for place in range(self.n)]

    def program(self, batch: HostBatch) -> str:
        """See `TrainerUnderTest.program`."""
        return str(self._compiled(batch).as_text())

    def lowered(self, batch: HostBatch, platform: str) -> str:
        """See `TrainerUnderTest.lowered`."""
        return self.loop.lowered(self.state, self._placed(batch), self.keys, platform)

    def costs(self, batch: HostBatch) -> Mapping[str, float]:
        """See `TrainerUnderTest.costs`."""
        return costs_of(self._compiled(batch))

    def epoch(self, examples: int, batch_size: int, number: int) -> Sequence[npt.NDArray[Any]]:
        """See `TrainerUnderTest.epoch`: of each epoch's own key, without what does not fill a batch."""
        key = jax.random.PRNGKey(self.case.seed)
        for _ in range(number + 1):
            key, own = jax.random.split(key)
        steps = examples // batch_size
        order = np.asarray(jax.random.permutation(own, examples))[: steps * batch_size]
        return list(order.reshape(steps, batch_size))

    def score(self, batches: Sequence[HostBatch]) -> Mapping[str, float]:
        """See `TrainerUnderTest.score`: over full batches only, by sklearn as the article's metric has it."""
        from sklearn.metrics import accuracy_score, f1_score

        full = [batch for batch in batches if (batch.weights > 0).all()]
        labels = np.concatenate([batch.labels for batch in full])
        found = np.concatenate([self.evaluate(batch).argmax(axis=1) for batch in full])
        return {"accuracy": float(accuracy_score(labels, found)), "f1": float(f1_score(labels, found))}

    def _kept(self, batch: HostBatch) -> npt.NDArray[np.int64]:
        """The rows of a batch that the loop sees: those that count, as far as they divide among the devices."""
        rows = np.flatnonzero(batch.weights > 0)
        return rows[: len(rows) // self.n * self.n]

    def _placed(self, batch: HostBatch, *, labels: bool = True) -> dict[str, jax.Array]:
        kept, real = self._kept(batch), batch.attention_mask > 0
        # A tokenizer pads with token 0 of type 0.
        rows = {name: np.where(real, getattr(batch, name), 0)[kept] for name in COLUMNS}
        return self.loop.place(rows | ({"labels": batch.labels[kept]} if labels else {}))

    def _compiled(self, batch: HostBatch) -> Any:
        return self.loop.train.lower(self.state, self._placed(batch), self.keys).compile()

    def _one(self, leaf: jax.Array) -> Any:
        return np.asarray(leaf).reshape(-1)[0]

    def _tree(self, tree: Any, place: int = 0) -> Any:
        """A replicated tree as the device at `place` holds it."""
        device = self.loop.devices[place]

        def there(leaf: Any) -> Any:
            part = next(shard.data for shard in leaf.addressable_shards if shard.device == device)
            return np.asarray(part)[0] if self.kind == "pmap" else np.asarray(part)

        return jax.tree.map(there, tree)


def pmap() -> Article:
    """The loop with `jax.pmap`, dropout off."""
    return Article("pmap")


def mesh() -> Article:
    """The loop with `jax.jit` and a mesh, dropout off."""
    return Article("mesh")


def pmap_dropout() -> Article:
    """The first, which claims the kit's dropout, and draws its own: one key for each device."""
    return Article("pmap", dropout=True)


def mesh_dropout() -> Article:
    """The second, which claims the kit's dropout, and draws its own: one key for the batch."""
    return Article("mesh", dropout=True)
