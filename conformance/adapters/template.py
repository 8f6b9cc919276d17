"""A complete and short adapter: copy this file, and replace its trainer by your own.

The functions are a common data-parallel trainer: a model, optax, `jax.jit` over a mesh. The kit uses only the class at
the end of the file; if you have a trainer already, write only that class. See `../docs/adapter.md`.

    sftref verify --adapter sftref.conformance.adapters.template:Template
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..adapter import Arrays, Case, HostBatch, StepResult
from .costs import costs_of

# By default, products of float32 are TF32 on recent NVIDIA GPUs and bfloat16 on a TPU.
PRECISION = jax.lax.Precision.HIGHEST


def logits(case: Case, params: dict[str, jax.Array], batch: HostBatch) -> jax.Array:
    """BERT's logits [B, C]; padding, rows of weight 0 included, is read as token 0, and no token attends to it."""
    real = (batch.attention_mask > 0) & (batch.weights > 0)[:, None]
    rows, length = real.shape

    def table(name: str) -> jax.Array:
        return params[f"bert.embeddings.{name}_embeddings.weight"]

    def dense(x: jax.Array, name: str) -> jax.Array:
        return jnp.matmul(x, params[f"{name}.weight"].T, precision=PRECISION) + params[f"{name}.bias"]

    def norm(x: jax.Array, name: str) -> jax.Array:
        # In two passes: `jax.nn.standardize` computes E[x^2] - E[x]^2, which is inexact if means are large.
        centred = x - x.mean(-1, keepdims=True)
        unit = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + case.layer_norm_eps)
        return unit * params[f"{name}.weight"] + params[f"{name}.bias"]

    def heads(x: jax.Array) -> jax.Array:
        return x.reshape(rows, length, case.num_attention_heads, -1)

    x = table("word")[jnp.where(real, batch.input_ids, 0)] + table("position")[:length]
    x = norm(x + table("token_type")[jnp.where(real, batch.token_type_ids, 0)], "bert.embeddings.LayerNorm")
    for layer in range(case.num_hidden_layers):
        name = f"bert.encoder.layer.{layer}"
        q, k, v = (heads(dense(x, f"{name}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=PRECISION) / np.sqrt(q.shape[-1]).astype(q.dtype)
        weights = jax.nn.softmax(jnp.where(real[:, None, None], scores, -1e30))
        seen = jnp.einsum("bhqk,bkhd->bqhd", weights, v, precision=PRECISION).reshape(x.shape)
        x = norm(x + dense(seen, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        inner = jax.nn.gelu(dense(x, f"{name}.intermediate.dense"), approximate=False)
        x = norm(x + dense(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return dense(jnp.tanh(dense(x[:, 0], "bert.pooler.dense")), "classifier")


def loss_sum(case: Case, params: dict[str, jax.Array], batch: HostBatch) -> jax.Array:
    """Sum w_i loss_i over the examples of the batch."""
    labels = jnp.where(batch.weights > 0, batch.labels, 0)
    outputs = logits(case, params, batch)
    if case.regression:
        losses = (outputs[:, 0] - labels) ** 2
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    return (batch.weights * losses).sum()


def mean_loss(case: Case, params: dict[str, jax.Array], batch: HostBatch) -> jax.Array:
    """The weighted mean, sum w_i loss_i / sum w_i, over the examples of all devices."""
    return loss_sum(case, params, batch) / batch.weights.sum()


def decays(params: dict[str, jax.Array]) -> dict[str, bool]:
    """Whether each parameter decays: all do except biases and LayerNorm scales."""
    return {name: not name.endswith((".bias", "LayerNorm.weight")) for name in params}


def optimizer_of(case: Case, mask: Any) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW of a case, with decay where `mask(params)` is true, and its schedule: linear from 0 up, then down to 0."""
    up = optax.linear_schedule(0.0, case.learning_rate, case.warmup_steps)
    down = optax.linear_schedule(case.learning_rate, 0.0, case.total_steps - case.warmup_steps)
    schedule = optax.join_schedules([up, down], [case.warmup_steps])
    adamw = optax.adamw(schedule, case.b1, case.b2, case.eps, weight_decay=case.weight_decay, mask=mask)
    return adamw if case.clip_norm is None else optax.chain(optax.clip_by_global_norm(case.clip_norm), adamw), schedule


class Compiled(NamedTuple):
    """The programs of a case on some devices, the placement of its arrays, and its optimizer."""

    step: Any
    gradients: Any
    logits: Any
    rows: NamedSharding
    everywhere: NamedSharding
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule


@functools.lru_cache(maxsize=32)
def compiled(case: Case, n: int) -> Compiled:
    """The programs of a case on n devices; cached, since the kit starts hundreds of runs."""
    mesh = Mesh(np.array(jax.devices()[:n]), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    optimizer, schedule = optimizer_of(case, decays)

    def step(params: Any, state: Any, batch: HostBatch) -> tuple[Any, Any, jax.Array]:
        loss, gradients = jax.value_and_grad(functools.partial(mean_loss, case))(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    return Compiled(
        # Arguments are donated: the new parameters and moments take the memory of the old ones.
        step=jax.jit(step, donate_argnums=(0, 1), out_shardings=everywhere),
        gradients=jax.jit(jax.grad(functools.partial(mean_loss, case)), out_shardings=everywhere),
        logits=jax.jit(functools.partial(logits, case), out_shardings=everywhere),
        rows=NamedSharding(mesh, PartitionSpec("data")),
        everywhere=everywhere,
        optimizer=optimizer,
        schedule=schedule,
    )


def padded(batch: HostBatch, n: int) -> HostBatch:
    """The batch with rows of weight 0 at the end, so that n devices get equal numbers of rows."""
    more = -len(batch.weights) % n
    return HostBatch(*(np.pad(leaf, [(0, more)] + [(0, 0)] * (leaf.ndim - 1)) for leaf in batch))


class Template:
    """The adapter: four methods, and those of its capabilities; `TrainerUnderTest` documents them."""

    name = "template"
    capabilities = frozenset(
        {"devices", "processes", "jax", "padding rows", "weights", "gradients", "program", "lowering", "costs"}
    )

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        self.run, self.n, self.count = compiled(dataclasses.replace(case, seed=0), n_devices), n_devices, 0
        own = {name: np.array(leaf, np.float32) for name, leaf in params.items()}
        self.now = jax.device_put(own, self.run.everywhere)
        self.state = jax.device_put(self.run.optimizer.init(own), self.run.everywhere)

    def step(self, batch: HostBatch) -> StepResult:
        self.now, self.state, loss = self.run.step(self.now, self.state, self._put(batch))
        self.count += 1
        return StepResult(float(loss), float(self.run.schedule(self.count - 1)))

    def evaluate(self, batch: HostBatch) -> npt.NDArray[Any]:
        return np.asarray(self.run.logits(self.now, self._put(batch)))[: len(batch.weights)]

    def params(self) -> Arrays:
        """Copies of the parameters, since the next update may reuse their memory."""
        return {name: np.array(leaf) for name, leaf in self.now.items()}

    def gradients(self, batch: HostBatch) -> Arrays:
        return {name: np.asarray(leaf) for name, leaf in self.run.gradients(self.now, self._put(batch)).items()}

    def program(self, batch: HostBatch) -> str:
        return str(self._compiled(batch).as_text())

    def lowered(self, batch: HostBatch, platform: str) -> str:
        traced = self.run.step.trace(self.now, self.state, self._put(batch))
        return str(traced.lower(lowering_platforms=(platform,)).as_text())

    def costs(self, batch: HostBatch) -> Mapping[str, float]:
        return costs_of(self._compiled(batch))

    def _compiled(self, batch: HostBatch) -> Any:
        """The compiled update; JAX caches it, so `step` does not compile it a second time."""
        return self.run.step.lower(self.now, self.state, self._put(batch)).compile()

    def _put(self, batch: HostBatch) -> HostBatch:
        """The batch sharded by rows over the devices."""
        return HostBatch(*(jax.device_put(leaf, self.run.rows) for leaf in padded(batch, self.n)))
