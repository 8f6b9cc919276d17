"""Id -> a trainer that asks accelerators for something wrong: what is lowered for them says so, on any machine.

On simulated devices some of them are right, and some are as near as rounding. They are trainers on top of the template,
which leaves the sum over devices to the partitioner; most of them write it themselves. The last ones are rules of one
platform, under which a right trainer is lowered for it.

`--adapter sftref.conformance.faults.trainers.lowered:` with the id of a trainer behind it, underscores for its hyphens, is
it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.extend.core import primitives as core
from jax.sharding import PartitionSpec

from ...adapter import Arrays, Case
from ...adapters import template
from ...adapters.template import Template, compiled, loss_sum
from ...core.meshes import mesh_of, shard_map
from ..backend.lowering import replaced
from ..backend.seeding import Instead, patch
from .performance import AnotherUpdate

ASKING: dict[str, type[Template]] = {}
# A right trainer, which no law may call wrong.
RIGHT = "sums-written-out"


def asking(fault: str) -> Callable[[type[Template]], type[Template]]:
    """Decorate the trainer that has a fault."""

    def add(trainer: type[Template]) -> type[Template]:
        trainer.name = f"template ({fault})"
        ASKING[fault] = trainer
        return trainer

    return add


@functools.lru_cache(maxsize=32)
def written_out(reduce: Callable[[Any, int], Any], case: Case, n: int) -> Any:
    """The update whose sum over n devices is a collective of its own, `reduce(gradients, n)` under the axis data."""
    run = compiled(case, n)
    mesh, everywhere, rows = mesh_of(jax.devices()[:n]), PartitionSpec(), PartitionSpec("data")

    def own(params: Any, batch: Any) -> Any:
        loss, gradients = jax.value_and_grad(functools.partial(loss_sum, case))(params, batch)
        return reduce(gradients, n), lax.psum((loss, batch.weights.sum()), "data")

    def step(params: Any, state: Any, batch: Any) -> Any:
        # Unchecked: with its checks on shard_map adds the gradient of what is on all devices up by itself.
        all_of_them = shard_map(own, mesh, (everywhere, rows), everywhere, check=False)
        sums, (loss, weight) = all_of_them(params, batch)
        gradients = jax.tree.map(lambda leaf: leaf / weight, sums)
        updates, state = run.optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss / weight

    return jax.jit(step, donate_argnums=(0, 1), out_shardings=run.everywhere)


def _sum(gradients: Any, n: int) -> Any:
    return lax.psum(gradients, "data")


def _sum_of_halves(gradients: Any, n: int) -> Any:
    return lax.psum(gradients, "data", axis_index_groups=np.arange(n).reshape(2, -1).tolist())


def _maximum(gradients: Any, n: int) -> Any:
    return lax.pmax(gradients, "data")


def _narrow_sum(gradients: Any, n: int) -> Any:
    return jax.tree.map(lambda leaf: lax.psum(leaf.astype(jnp.bfloat16), "data").astype(leaf.dtype), gradients)


@asking(RIGHT)
class _Right(AnotherUpdate):
    """No fault: `psum` where the template has the partitioner."""

    update = functools.partial(written_out, _sum)


@asking("sums-over-half-of-the-devices")
class _Halves(AnotherUpdate):
    """Two groups that never hear of each other, as where a mesh's axis is shorter than was thought."""

    update = functools.partial(written_out, _sum_of_halves)


@asking("maximum-over-devices")
class _Maximum(AnotherUpdate):
    """`pmax` in place of `psum`."""

    update = functools.partial(written_out, _maximum)


@asking("gradients-sent-as-bfloat16")
class _Narrow(AnotherUpdate):
    """Half the traffic, and gradients of 8 bits."""

    update = functools.partial(written_out, _narrow_sum)


@asking("rows-on-every-device")
class _Everywhere(Template):
    """Each device computes the whole batch: right, and as slow as one device."""

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.run = self.run._replace(rows=self.run.everywhere)


@functools.lru_cache(maxsize=32)
def without_precision(case: Case, n: int) -> Any:
    """The update whose products say nothing of their precision."""
    run = compiled(case, n)

    def step(*given: Any) -> Any:
        with patch(template, "PRECISION", None):
            return run.step.__wrapped__(*given)

    return jax.jit(step, donate_argnums=(0, 1), out_shardings=run.everywhere)


@asking("products-of-any-precision")
class _AnyPrecision(AnotherUpdate):
    """Exact on a CPU; TF32 on recent NVIDIA GPUs, bfloat16 on a TPU."""

    update = without_precision


def _in_bfloat16(right: Any, x: Any, **_: Any) -> Any:
    return right(x.astype(jnp.bfloat16).astype(x.dtype))


def _kernel_of_cuda(right: Any, x: Any, **_: Any) -> Any:
    return jax.ffi.ffi_call("cuda_tanh", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)


# Fault: what is lowered in place of tanh, for ROCm alone.
RULES = {"a-rule-in-bfloat16": _in_bfloat16, "a-kernel-of-another-platform": _kernel_of_cuda}


def seeded_ids() -> list[str]:
    """The ids of all."""
    return [*ASKING, *RULES]


@contextlib.contextmanager
def seed(fault: str) -> Iterator[Instead | None]:
    """A trainer that asks for something wrong in place of the subject; or a right one, where a rule is wrong."""
    if fault in ASKING:
        yield {"subject": ASKING[fault](), "against": Template()}
        return
    jax.clear_caches()
    try:
        with replaced(core.tanh_p, RULES[fault], platform="rocm"):
            yield {"subject": Template(), "against": Template()}
    finally:
        jax.clear_caches()


def __getattr__(name: str) -> type[Template]:
    """`lowered:rows_on_every_device` is the factory of that fault."""
    fault = name.replace("_", "-")
    if fault not in ASKING:
        raise AttributeError(f"{name} is no seeded fault of {__name__}")
    return ASKING[fault]
