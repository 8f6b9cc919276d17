"""Fault id -> a trainer whose module, lowered for accelerators, shows something wrong, on any machine.

Simulated devices run some of these rightly, and others to within rounding. The trainers are variants of the template;
most write out the sum over devices, which the template leaves to the partitioner. The last faults are wrong lowering
rules of one platform, used by a right trainer.

`--adapter sftref.conformance.faults.trainers.lowered:rows_on_every_device` runs the trainer of rows-on-every-device.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.extend.core import primitives as core
from jax.sharding import PartitionSpec

from ...adapter import Case
from ...adapters import template
from ...adapters.template import Template, compiled, loss_sum
from ...machine.meshes import mesh_of, shard_map
from ..backend.lowering import CannotSeedError, replaced
from ..backend.seeding import Fixtures, SeededFaults, patch
from .performance import another_step


class _Checked(Template):
    """A trainer that needs shard_map's check of varying types."""

    def __init__(self) -> None:
        if not hasattr(jax, "shard_map"):
            raise CannotSeedError(f"needs jax.shard_map (JAX 0.6.1), and this is JAX {jax.__version__}")


FAULTS, CHECKED = SeededFaults(Template), SeededFaults(_Checked)
# `lowered:rows_on_every_device` is the factory of that trainer.
__getattr__ = FAULTS.factory


@jax.custom_jvp
def _erf(x: jax.Array) -> jax.Array:
    """The error function; JAX 0.12.0.1 refuses the derivative of its own under shard_map's check."""
    return lax.erf(x)


@_erf.defjvp
def _slope_of_erf(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    return _erf(x), tangent * jnp.exp(-(x**2)) * (2 / math.sqrt(math.pi))


def _gelu(x: jax.Array, **_: Any) -> jax.Array:
    return x * (1 + _erf(x * math.sqrt(0.5))) / 2


def _summed(fault: str, reduce: Callable[[Any, int], Any], *, check: bool = False) -> None:
    """Add the trainer whose sum over n devices is written out: `reduce(gradients, n)` over the axis `data`.

    With `check`, shard_map's check of varying types is on, and JAX sums the gradients of replicated parameters itself.
    """

    def means(case: Case, n: int, params: Any, batch: Any) -> tuple[jax.Array, Any]:
        mesh, everywhere, rows = mesh_of(jax.devices()[:n]), PartitionSpec(), PartitionSpec("data")

        def own(params: Any, batch: Any) -> Any:
            with patch(jax.nn, "gelu", _gelu):
                loss, gradients = jax.value_and_grad(functools.partial(loss_sum, case))(params, batch)
            return reduce(gradients, n), lax.psum((loss, batch.weights.sum()), "data")

        all_devices = shard_map(own, mesh, (everywhere, rows), everywhere, check=check)
        sums, (loss, weight) = all_devices(params, batch)
        return loss / weight, jax.tree.map(lambda leaf: leaf / weight, sums)

    @another_step(CHECKED if check else FAULTS, fault, gradients=lambda *arguments: means(*arguments)[1])
    def step(case: Case, n: int, params: Any, state: Any, batch: Any) -> Any:
        loss, gradients = means(case, n, params, batch)
        updates, state = compiled(case, n).optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss


# Equivalent changes: `psum`, or shard_map's check, where the template has the partitioner.
_summed("sums-written-out", lambda gradients, n: lax.psum(gradients, "data"))
_summed("sums-by-the-check", lambda gradients, n: gradients, check=True)
# Code for `pmap`, with shard_map's check on; and code for the check, with it off.
_summed("a-psum-beside-the-check", lambda gradients, n: lax.psum(gradients, "data"), check=True)
_summed("no-psum-without-the-check", lambda gradients, n: gradients)
FAULTS.update(CHECKED)
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


@FAULTS.method("rows-on-every-device", "start")
def _everywhere(right: Any, self: Template, *arguments: Any) -> None:
    """Each device computes the whole batch: right, and as slow as one device."""
    right(self, *arguments)
    self.run = self.run._replace(rows=self.run.everywhere)


@another_step(FAULTS, "products-of-any-precision")
def _any_precision(case: Case, n: int, *arguments: Any) -> Any:
    """Exact on a CPU; TF32 on recent NVIDIA GPUs, bfloat16 on a TPU."""
    with patch(template, "PRECISION", None):
        return compiled(case, n).step.__wrapped__(*arguments)


@contextlib.contextmanager
def _tanh_of_rocm(rule: Callable[..., Any]) -> Iterator[Fixtures]:
    """A right trainer, with a wrong lowering rule of tanh for ROCm."""
    with replaced(core.tanh_p, rule, platform="rocm"):
        yield {"subject": Template(), "against": Template()}


FAULTS["a-rule-in-bfloat16"] = lambda: _tanh_of_rocm(
    lambda right, x, **_: right(x.astype(jnp.bfloat16).astype(x.dtype))
)
FAULTS["a-kernel-of-another-platform"] = lambda: _tanh_of_rocm(
    lambda right, x, **_: jax.ffi.ffi_call("cuda_tanh", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)
)
