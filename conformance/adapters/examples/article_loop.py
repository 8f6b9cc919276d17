"""The training loop of the article that sftref starts from, with all parts that cost time or change a result.

"LLM distributed supervised fine-tuning with JAX" (Douglas Jia, ROCm blogs, 25 January 2024) uses Flax's TrainState, and
`pmap` with a dropout key for each device and the mean of the devices' means, or `jit` over a mesh with one key.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from flax.training import train_state
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Loop:
    """The loop with one kind of parallelism: programs, placement, dropout keys.

    Args:
        model: called like `FlaxBertForSequenceClassification`, with `params=`, `dropout_rng=` and `train=`.
        kind: "pmap" or "mesh".
        devices: N devices; batches must be divisible by N.
        optimizer: the optimizer of the update.
        schedule: its learning rate, for the metrics.
        regression: whether the loss is the squared error of one output instead of a cross-entropy.
    """

    def __init__(
        self, model: Any, kind: str, devices: Sequence[Any], optimizer: Any, schedule: Any, *, regression: bool = False
    ) -> None:
        self.model, self.kind, self.devices, self.optimizer = model, kind, list(devices), optimizer
        mesh = Mesh(np.array(self.devices), ("batch",))
        self.rows, self.everywhere = NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())
        parallel: Any = jax.jit
        options: dict[str, Any] = {"regression": regression, "reduce": lambda tree: tree}
        if kind == "pmap":
            parallel = functools.partial(jax.pmap, axis_name="batch", devices=self.devices)
            options["reduce"] = functools.partial(lax.pmean, axis_name="batch")
        train = functools.partial(train_step, schedule=schedule, **options)
        self.train = parallel(train, donate_argnums=0) if kind == "pmap" else jax.jit(train)
        self.gradients = parallel(functools.partial(gradients, **options))
        self.logits, self.predict = parallel(logits), parallel(eval_step)

    def start(self, params: Any, seed: int) -> tuple[Any, jax.Array]:
        """The state on all devices, and the dropout key; under pmap a key for each device."""
        # Parameters are copied, since the state is donated and the caller may need the parameters again.
        state = train_state.TrainState.create(
            apply_fn=self.model.__call__, params=jax.tree.map(jnp.array, params), tx=self.optimizer
        )
        key = jax.random.PRNGKey(seed)
        if self.kind == "pmap":
            return jax.tree.map(self._stacked, state), jax.random.split(key, len(self.devices))
        return jax.device_put(state, self.everywhere), key

    def _stacked(self, leaf: Any) -> jax.Array:
        stacked = np.broadcast_to(np.asarray(leaf)[None], (len(self.devices), *np.shape(leaf)))
        return jax.device_put(stacked, self.rows)

    def place(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Lists or arrays -> sharded arrays; they are first copied by `jnp.array`, as in the article."""
        arrays = {name: jnp.array(values) for name, values in batch.items()}
        if self.kind == "pmap":
            n = len(self.devices)
            arrays = {name: a.reshape(n, a.shape[0] // n, *a.shape[1:]) for name, a in arrays.items()}
        return {name: jax.device_put(a, self.rows) for name, a in arrays.items()}

    def lowered(self, state: Any, placed: Any, keys: Any, platform: str) -> str:
        """The update as StableHLO for a platform that need not be present; an update of pmap is wrapped in `jit`."""
        train = self.train if self.kind == "mesh" else jax.jit(lambda *arguments: self.train(*arguments))
        return str(train.trace(state, placed, keys).lower(lowering_platforms=(platform,)).as_text())


def decays(params: Any) -> Any:
    """A mask of the leaves that decay: all except biases and LayerNorm scales."""
    paths = traverse_util.flatten_dict(params)
    decaying = {path: path[-1] != "bias" and path[-2:] != ("LayerNorm", "scale") for path in paths}
    return traverse_util.unflatten_dict(decaying)


def _loss_of(state: Any, batch: dict[str, Any], key: Any, regression: bool) -> Any:
    inputs = {name: value for name, value in batch.items() if name != "labels"}

    def loss(params: Any) -> jax.Array:
        logits = state.apply_fn(**inputs, params=params, dropout_rng=key, train=True)[0]
        if regression:
            return jnp.mean((logits[..., 0] - batch["labels"]) ** 2)
        one_hot = jax.nn.one_hot(batch["labels"], logits.shape[-1])
        return jnp.mean(optax.softmax_cross_entropy(logits, one_hot))

    return loss


def train_step(
    state: Any, batch: dict[str, Any], key: Any, *, schedule: optax.Schedule, reduce: Any, regression: bool
) -> tuple[Any, dict[str, jax.Array], jax.Array]:
    """(state, batch, key) -> the next state, the metrics, the next key."""
    key, next_key = jax.random.split(key)
    loss, grads = jax.value_and_grad(_loss_of(state, batch, key, regression))(state.params)
    metrics = reduce({"loss": loss, "learning_rate": schedule(state.step)})
    return state.apply_gradients(grads=reduce(grads)), metrics, next_key


def gradients(state: Any, batch: dict[str, Any], key: Any, *, reduce: Any, regression: bool) -> Any:
    """The gradients that `train_step` gives to the optimizer."""
    return reduce(jax.grad(_loss_of(state, batch, jax.random.split(key)[0], regression))(state.params))


def logits(state: Any, batch: dict[str, Any]) -> jax.Array:
    """Logits [B, C] without dropout."""
    outputs: jax.Array = state.apply_fn(**batch, params=state.params, train=False)[0]
    return outputs


def eval_step(state: Any, batch: dict[str, Any]) -> jax.Array:
    """Predicted classes [B], which the article's loop copies to the host."""
    return logits(state, batch).argmax(-1)
