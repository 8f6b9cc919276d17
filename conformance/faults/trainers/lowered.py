"""Fault id -> a trainer whose module, lowered for accelerators, shows something wrong, on any machine.

Simulated devices run some of these rightly, and others to within rounding. The trainers are variants of the template;
most write out the sum over devices, which the template leaves to the partitioner. The last faults are wrong lowering
rules of one platform, used by a right trainer.

`--adapter sftref.conformance.faults.trainers.lowered:rows_on_every_device` runs the trainer of rows-on-every-device.
"""

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
from ...machine.meshes import mesh_of, shard_map
from ..backend.lowering import replaced
from ..backend.seeding import Fixtures, WrongTrainers, fresh_programs, patch
from .performance import AnotherUpdate

wrong = WrongTrainers(Template, "template")
# `lowered:rows_on_every_device` is the factory of that trainer.
__getattr__ = wrong.factory


@functools.lru_cache(maxsize=32)
def written_out(reduce: Callable[[Any, int], Any], case: Case, n: int) -> Any:
    """The update whose sum over n devices is written out: `reduce(gradients, n)` over the axis `data`."""
    run = compiled(case, n)
    mesh, everywhere, rows = mesh_of(jax.devices()[:n]), PartitionSpec(), PartitionSpec("data")

    def own(params: Any, batch: Any) -> Any:
        loss, gradients = jax.value_and_grad(functools.partial(loss_sum, case))(params, batch)
        return reduce(gradients, n), lax.psum((loss, batch.weights.sum()), "data")

    def step(params: Any, state: Any, batch: Any) -> Any:
        # With its checks on, shard_map would sum the gradients of replicated parameters itself.
        all_devices = shard_map(own, mesh, (everywhere, rows), everywhere, check=False)
        sums, (loss, weight) = all_devices(params, batch)
        gradients = jax.tree.map(lambda leaf: leaf / weight, sums)
        updates, state = run.optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss / weight

    return jax.jit(step, donate_argnums=(0, 1), out_shardings=run.everywhere)


def _summed(fault: str, reduce: Callable[[Any, int], Any]) -> None:
    """Add a trainer whose gradients are reduced over devices by `reduce(gradients, number of devices)`."""
    update = functools.partial(written_out, reduce)
    wrong(fault)(type(fault, (AnotherUpdate,), {"update": update}))


# An equivalent change: `psum`, where the template has the partitioner.
_summed("sums-written-out", lambda gradients, n: lax.psum(gradients, "data"))
# Two groups that never communicate, as on a mesh whose axis is shorter than was meant.
_summed(
    "sums-over-half-of-the-devices",
    lambda gradients, n: lax.psum(gradients, "data", axis_index_groups=np.arange(n).reshape(2, -1).tolist()),
)
_summed("maximum-over-devices", lambda gradients, n: lax.pmax(gradients, "data"))
# Half the traffic, and gradients of 8 bits.
_summed(
    "gradients-sent-as-bfloat16",
    lambda gradients, n: jax.tree.map(lambda g: lax.psum(g.astype(jnp.bfloat16), "data").astype(g.dtype), gradients),
)


@wrong("rows-on-every-device")
class _Everywhere(Template):
    """Each device computes the whole batch: right, and as slow as one device."""

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.run = self.run._replace(rows=self.run.everywhere)


@functools.lru_cache(maxsize=32)
def without_precision(case: Case, n: int) -> Any:
    """The update whose products name no precision."""
    run = compiled(case, n)

    def step(*arguments: Any) -> Any:
        with patch(template, "PRECISION", None):
            return run.step.__wrapped__(*arguments)

    return jax.jit(step, donate_argnums=(0, 1), out_shardings=run.everywhere)


@wrong("products-of-any-precision")
class _AnyPrecision(AnotherUpdate):
    """Exact on a CPU; TF32 on recent NVIDIA GPUs, bfloat16 on a TPU."""

    update = without_precision


# Fault: the lowering of tanh for ROCm.
RULES: dict[str, Callable[..., Any]] = {
    "a-rule-in-bfloat16": lambda right, x, **_: right(x.astype(jnp.bfloat16).astype(x.dtype)),
    "a-kernel-of-another-platform": lambda right, x, **_: jax.ffi.ffi_call(
        "cuda_tanh", jax.ShapeDtypeStruct(x.shape, x.dtype)
    )(x),
}


def seeded_ids() -> list[str]:
    """The ids of all faults of this module, and of the equivalent change."""
    return [*wrong, *RULES]


@contextlib.contextmanager
def seed(fault: str) -> Iterator[Fixtures | None]:
    """Replace the trainer under test by a wrong one, or by a right one with a wrong lowering rule."""
    if fault in wrong:
        yield {"subject": wrong[fault](), "against": Template()}
        return
    with fresh_programs(), replaced(core.tanh_p, RULES[fault], platform="rocm"):
        yield {"subject": Template(), "against": Template()}
