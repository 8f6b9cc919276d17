"""Rung 2: explicit sharding, where the type of an array says how it is sharded, and rules give that of a result."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ...core.check import Check, NotRunReason
from ...machine.meshes import Array, mesh_of
from ..support.families import added
from ..support.running import law
from .test_2_partitioner import Program, compare_blocks

ROWS, COLUMNS, WHOLE = ("data", None), (None, "data"), (None, None)


def programs(rng: np.random.Generator, n: int) -> Iterator[Program]:
    """Parts of a training step; a result has the sharding of the arguments, or the one that the program names."""
    x, w = (rng.integers(-15, 16, shape).astype(np.float32) for shape in ((2 * n, 3 * n), (3 * n, 2 * n)))
    table, updates = (rng.integers(-(2**31), 2**31, (rows * n, 4)).astype(np.int32) for rows in (5, 2))
    ids = rng.integers(0, 5 * n, 2 * n).astype(np.int32)

    def product(spec: tuple[str | None, ...]) -> Callable[..., Any]:
        return lambda a, b: jnp.einsum("ik,kj->ij", a, b, out_sharding=PartitionSpec(*spec))

    def read(spec: tuple[str | None, ...]) -> Callable[..., Any]:
        return lambda t, i: t.at[i].get(out_sharding=PartitionSpec(*spec))

    def scattered(i: Any, more: Any) -> Any:
        return jnp.zeros((5 * n, 4), more.dtype).at[i].add(more, out_sharding=PartitionSpec(*WHOLE))

    def gradient(a: Any, b: Any) -> Any:
        return jax.grad(lambda b: (a @ b).sum())(b)

    def resharded(v: Any) -> Any:
        return jax.sharding.reshard(v, PartitionSpec(*COLUMNS))

    rows, transposed = (lambda v: v[:, 0] + 1), (lambda v: v.T)
    yield Program("a column of sharded rows", rows, rows, (x,), (ROWS,), ("data",))
    yield Program("transposed rows", transposed, transposed, (x,), (ROWS,), COLUMNS)
    yield Program("sum over a sharded axis", lambda v: v.sum(0), lambda v: v.sum(0), (x,), (ROWS,), (None,))
    yield Program("matmul, rows sharded", jnp.matmul, np.matmul, (x, w), (ROWS, WHOLE), ROWS)
    yield Program("matmul, contraction sharded", product(WHOLE), np.matmul, (x, w), (COLUMNS, ROWS), WHOLE)
    yield Program("matmul, sums scattered", product(ROWS), np.matmul, (x, w), (COLUMNS, ROWS), ROWS)
    yield Program("gather, ids sharded", read(ROWS), lambda t, i: t[i], (table, ids), (WHOLE, ("data",)), ROWS)
    yield Program("gather, table sharded", read(WHOLE), lambda t, i: t[i], (table, ids), (ROWS, (None,)), WHOLE)
    yield Program(
        "scatter-add, updates sharded", scattered, lambda i, more: added(np.zeros_like(table), i, more),
        (ids, updates), (("data",), ROWS), WHOLE,
    )  # fmt: skip
    yield Program(
        "gradient of a replicated weight", gradient, lambda a, b: np.repeat(a.sum(0)[:, None], b.shape[1], 1),
        (x, w), (ROWS, WHOLE), WHOLE,
    )  # fmt: skip
    yield Program("rows to columns", resharded, lambda v: v, (x,), (ROWS,), COLUMNS)


@law("collectives.explicit", devices=2)
def test_explicit(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Compares the sharding in the type of each result, its placement, and its values with NumPy."""
    check.need(hasattr(jax, "set_mesh"), "needs jax.set_mesh (JAX 0.7)", NotRunReason.NOT_APPLICABLE)
    n = len(devices)
    plain = mesh_of(devices)
    mesh = jax.sharding.Mesh(plain.devices, plain.axis_names, axis_types=(jax.sharding.AxisType.Explicit,))
    made = jax.make_mesh((n,), ("data",), (jax.sharding.AxisType.Explicit,), devices=devices)
    check.same("devices of jax.make_mesh", set(made.devices.flat), set(devices))
    for program in programs(rng, n):
        types: list[Any] = []

        def typed(*arguments: Any, ours: Callable[..., Any] = program.ours, types: list[Any] = types) -> Any:
            result = ours(*arguments)
            types.append(jax.typeof(result).sharding.spec)
            return result

        specs = [NamedSharding(mesh, PartitionSpec(*spec)) for spec in program.specs]
        with jax.set_mesh(mesh):
            result = jax.jit(typed)(*(jax.device_put(*pair) for pair in zip(program.arguments, specs, strict=True)))
        want: Array = program.numpys(*program.arguments)
        spec = PartitionSpec(*program.result)
        check.same(f"{program.name}: sharding in the result's type", types[0], spec)
        placed = NamedSharding(mesh, spec)
        check.same(f"{program.name}: placed so", result.sharding.is_equivalent_to(placed, want.ndim), True)
        compare_blocks(check, program.name, result, want, devices)
