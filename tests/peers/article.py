"""The loops of the article that this project starts from, on the model and the data path that it uses.

"LLM distributed supervised fine-tuning with JAX" (Douglas Jia, ROCm blogs, 25 January 2024): `FlaxBert` from
transformers, batches indexed out of a `datasets.Dataset` as Python lists, padded to 128 tokens, one dropout key per
device under `pmap` and one for the batch under `jit` with a mesh, metrics added up on the host, incomplete batches
dropped. It is a peer to be measured against, kept as it is in every respect that costs time or moves a figure.

Needs transformers 4.57.6, the last with Flax models: run it with `tox -e peers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from flax.training import train_state
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

COLUMNS = ("input_ids", "token_type_ids", "attention_mask", "labels")


def flax_bert(folder: Path, num_labels: int = 2) -> Any:
    """The checkpoint in `folder` as the article loads it."""
    from transformers import AutoConfig, FlaxAutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(folder, num_labels=num_labels)
    return FlaxAutoModelForSequenceClassification.from_pretrained(folder, config=config, seed=0)


class ArticleTrainer:
    """`pmap` or `mesh`, as the article has them.

    Args:
        model: what `flax_bert` returned.
        kind: "pmap" or "mesh".
        devices: N devices; batches must be divisible by N.
        total_steps: over which the learning rate falls from 2e-5 to 0.
    """

    def __init__(self, model: Any, kind: str, devices: list[jax.Device], total_steps: int, seed: int = 0) -> None:
        self.kind, self.devices = kind, devices
        schedule = optax.linear_schedule(init_value=2e-5, end_value=0, transition_steps=total_steps)
        optimizer = optax.adamw(schedule, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, mask=_decays)
        # Copies: the state is donated, and the model's parameters serve the next trainer too.
        params = jax.tree.map(jnp.array, model.params)
        state = train_state.TrainState.create(apply_fn=model.__call__, params=params, tx=optimizer)
        key = jax.random.PRNGKey(seed)
        mesh = Mesh(np.array(devices), ("batch",))
        self._rows = NamedSharding(mesh, PartitionSpec("batch"))
        if kind == "pmap":
            self.keys = jax.random.split(key, len(devices))
            self.state = jax.tree.map(self._stack, state)
            self._train = jax.pmap(
                lambda s, b, k: _train_step(s, b, k, schedule, _mean_over_devices),
                axis_name="batch", devices=devices, donate_argnums=0,
            )  # fmt: skip
            self._eval = jax.pmap(_eval_step, axis_name="batch", devices=devices)
        else:
            self.keys = key
            self.state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
            self._train = jax.jit(lambda s, b, k: _train_step(s, b, k, schedule, lambda tree: tree))
            self._eval = jax.jit(_eval_step)

    def _stack(self, leaf: Any) -> jax.Array:
        stacked = np.broadcast_to(np.asarray(leaf)[None], (len(self.devices), *np.shape(leaf)))
        return jax.device_put(stacked, self._rows)

    def place(self, batch: dict[str, list[Any]]) -> dict[str, jax.Array]:
        """Lists of Python numbers -> device arrays, by `jnp.array` first, as the article does."""
        arrays = {name: jnp.array(values) for name, values in batch.items()}
        if self.kind == "pmap":
            n = len(self.devices)
            arrays = {name: a.reshape(n, a.shape[0] // n, *a.shape[1:]) for name, a in arrays.items()}
        return {name: jax.device_put(a, self._rows) for name, a in arrays.items()}

    def train(self, batch: dict[str, list[Any]]) -> Any:
        """One update; the metrics stay on the device."""
        self.state, metrics, self.keys = self._train(self.state, self.place(batch), self.keys)
        return metrics

    def evaluate(self, batches: Iterator[dict[str, list[Any]]]) -> dict[str, float]:
        """Accuracy and F1 from predictions gathered element by element, as the article's metric object takes them."""
        predictions: list[int] = []
        references: list[int] = []
        for batch in batches:
            placed = self.place(batch)
            labels = placed.pop("labels")
            found = self._eval(self.state, placed)
            if self.kind == "pmap":
                predictions.extend(map(int, chain(*found)))
                references.extend(map(int, chain(*labels)))
            else:
                predictions.extend(map(int, found))
                references.extend(map(int, labels))
        from sklearn.metrics import accuracy_score, f1_score

        return {"accuracy": accuracy_score(references, predictions), "f1": f1_score(references, predictions)}


def train_batches(dataset: Any, batch_size: int, key: jax.Array) -> Iterator[dict[str, list[Any]]]:
    """One epoch in the order of `jax.random.permutation`; the incomplete batch is dropped."""
    steps = len(dataset) // batch_size
    order = np.asarray(jax.random.permutation(key, len(dataset)))[: steps * batch_size]
    for rows in order.reshape(steps, batch_size):
        yield dataset[rows]


def eval_batches(dataset: Any, batch_size: int) -> Iterator[dict[str, list[Any]]]:
    """The data in order; the incomplete batch is dropped."""
    for i in range(len(dataset) // batch_size):
        yield dataset[i * batch_size : (i + 1) * batch_size]


def _decays(params: Any) -> Any:
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
        {path: path[-1] != "bias" and path[-2:] != ("LayerNorm", "scale") for path in flat}
    )


def _mean_over_devices(tree: Any) -> Any:
    return lax.pmean(tree, "batch")


def _train_step(state: Any, batch: dict[str, Any], key: Any, schedule: Any, reduce: Any) -> Any:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    key, next_key = jax.random.split(key)

    def loss_of(params: Any) -> jax.Array:
        logits = state.apply_fn(**inputs, params=params, dropout_rng=key, train=True)[0]
        one_hot = jax.nn.one_hot(batch["labels"], logits.shape[-1])
        return jnp.mean(optax.softmax_cross_entropy(logits, one_hot))

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    metrics = reduce({"loss": loss, "learning_rate": schedule(state.step)})
    return state.apply_gradients(grads=reduce(gradients)), metrics, next_key


def _eval_step(state: Any, batch: dict[str, Any]) -> jax.Array:
    return state.apply_fn(**batch, params=state.params, train=False)[0].argmax(-1)
