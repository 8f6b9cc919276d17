"""Rung 2: the collectives that XLA's partitioner inserts into programs over sharded arrays, and sharding in types.

On explicit axes, the type of an array says how it is sharded, and rules give that of a result.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ...core.check import Check, LawBroken, NotRunReason
from ...machine.meshes import Array, mesh_of
from ..support.families import added
from ..support.running import law

Spec = tuple[str | None, ...]
ROWS, COLUMNS, WHOLE = ("data", None), (None, "data"), (None, None)


@dataclass(frozen=True)
class Program:
    """A function of whole arrays, NumPy's version of it, its arguments, and the sharding of arguments and result."""

    name: str
    ours: Callable[..., Any]
    numpys: Callable[..., Array]
    arguments: tuple[Array, ...]
    specs: tuple[Spec, ...]
    result: Spec


def programs(rng: np.random.Generator, mesh: Mesh, scale: int) -> Iterator[Program]:
    """Parts of a data-parallel or sharded training step, on integers that are exact at any matmul precision.

    Factors of at most 15 in absolute value are exact in bfloat16, and sums of at most 225 x 8192 are below 2^24.
    """
    axes, n = mesh.axis_names, mesh.size
    first, last = axes[0], axes[-1]
    rows, width, table = 2 * n * scale, 3 * n * scale, 5 * n
    x = rng.integers(-15, 16, (rows, width)).astype(np.float32)
    w = rng.integers(-15, 16, (width, 2 * n)).astype(np.float32)
    whole = rng.integers(-(2**31), 2**31, (table, 2 * n)).astype(np.int32)
    ids = rng.integers(0, table, rows).astype(np.int32)
    updates = rng.integers(-(2**31), 2**31, (rows, 2 * n)).astype(np.int32)

    def scattered(index: Any, more: Any) -> Any:
        return jnp.zeros((table, more.shape[1]), more.dtype).at[index].add(more)

    def summed(index: Array, more: Array) -> Array:
        return added(np.zeros((table, more.shape[1]), more.dtype), index, more)

    words = rng.integers(-(2**31), 2**31, (rows, width)).astype(np.int32)
    whole_sum = (lambda v: jnp.sum(v, 0, v.dtype)), (lambda v: np.add.reduce(v, axis=0, dtype=v.dtype))
    yield Program("sum over a sharded axis", *whole_sum, (words,), ((first,),), ())
    yield Program("sum over a sharded axis, result sharded", *whole_sum, (words,), ((first,),), (last,))
    yield Program("maximum over a sharded axis", lambda v: v.max(0), lambda v: v.max(0), (words,), ((first,),), ())
    yield Program("matmul, contraction sharded", jnp.matmul, np.matmul, (x, w), ((None, last), (last,)), ())
    yield Program("matmul, rows sharded", jnp.matmul, np.matmul, (x, w), ((first,), ()), (first,))
    yield Program(
        "gradient of a weight, rows sharded", lambda a, b: a.T @ b, lambda a, b: a.T @ b,
        (x, x[:, ::-1].copy()), ((first,), (first,)), (),
    )  # fmt: skip
    yield Program("gather, ids sharded", lambda t, i: t[i], lambda t, i: t[i], (whole, ids), ((), (first,)), (first,))
    yield Program("gather, table sharded", lambda t, i: t[i], lambda t, i: t[i], (whole, ids), ((last,), ()), ())
    yield Program("scatter-add, updates sharded", scattered, summed, (ids, updates), ((first,), (first,)), ())
    yield Program("scatter-add, table sharded", scattered, summed, (ids, updates), ((first,), (first,)), (last,))
    yield Program("rows to columns", lambda v: v + 1, lambda v: v + 1, (words,), ((first,),), (None, first))
    yield Program("all to one copy each", lambda v: v + 1, lambda v: v + 1, (words,), ((first, None),), ())
    yield Program(
        "neighbours across the blocks", lambda v: jnp.roll(v, 1, 0) - v, lambda v: np.roll(v, 1, 0) - v,
        (words,), ((first,),), (first,),
    )  # fmt: skip
    # Integers of any size, since their products and sums wrap.
    v, state = words, rng.integers(-(2**31), 2**31, (width, 2 * n)).astype(np.int32)
    update = lambda w, v: w - v.T @ (v @ w)  # noqa: E731
    yield Program("update of a replicated state", update, update, (state, v), ((), (first,)), ())
    yield Program("update of a sharded state", update, update, (state, v), ((last,), (first,)), (last,))
    odd = rows - 1
    yield Program(
        "sum over an axis that does not divide",
        lambda v: lax.with_sharding_constraint(v[:odd] + 1, NamedSharding(mesh, PartitionSpec(first))).sum(0, v.dtype),
        lambda v: np.add.reduce(v[:odd] + 1, axis=0, dtype=v.dtype), (words,), ((first,),), (),
    )  # fmt: skip
    if len(axes) == 2:
        yield Program(
            "matmul, rows and contraction sharded", jnp.matmul, np.matmul, (x, w), ((first, last), (last,)), (first,)
        )


@law("collectives.partitioner", devices=2)
def test_partitioner(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Compares each program's result on every device with NumPy, on a 1-D and on a 2-D mesh."""
    half = len(devices) // 2
    meshes = [mesh_of(devices)] + [mesh_of(devices, 2, half)] * (half >= 2)
    if check.at("standard"):
        meshes += [mesh_of(devices[:n]) for n in (2, 3) if n < len(devices)]
    inserted: dict[str, str] = {}
    for mesh in meshes:
        for program in programs(rng, mesh, 16 if check.at("full") else 4 if check.at("standard") else 1):
            _compare(check, program, mesh, inserted)
    check.facts["collectives"] = inserted
    check.facts["uneven"] = _uneven(meshes[0])


def _uneven(mesh: Mesh) -> str:
    """What this JAX makes of a result whose constraint divides an axis unevenly, in words; it need not support it."""
    rows = mesh.size + max(1, mesh.size // 2)
    place = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    what = f"a sharding constraint on a result of {rows} rows over {mesh.size} devices"
    try:
        result = jax.jit(lambda v: lax.with_sharding_constraint(v, place))(np.arange(rows))
    except ValueError as error:
        return f"{what} is refused ({' '.join(str(error).split())[:100]}): pad the rows, or constrain no result"
    return f"{what} is accepted, and the result is {'replicated' if result.is_fully_replicated else 'sharded'}"


def compare_blocks(check: Check, what: str, result: jax.Array, want: Array, devices: Sequence[Any]) -> None:
    """Compare the devices that have a result, and what each of them has of it, with those expected."""
    check.same(f"{what}: devices of the result", result.sharding.device_set, set(devices))
    shards = sorted(result.addressable_shards, key=lambda shard: shard.device.id)
    got = np.concatenate([np.ravel(shard.data) for shard in shards])
    blocks = np.concatenate([want[shard.index].ravel() for shard in shards])
    check.equal(f"{what}, device after device", got, blocks)


def _compare(check: Check, program: Program, mesh: Mesh, inserted: dict[str, str]) -> None:
    def place(spec: Spec) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*spec))

    placed = [jax.device_put(leaf, place(spec)) for leaf, spec in zip(program.arguments, program.specs, strict=True)]
    compiled = jax.jit(program.ours, out_shardings=place(program.result)).lower(*placed).compile()
    text = compiled.as_text() or ""
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
    inserted[f"{program.name}, {dict(mesh.shape)}"] = ", ".join(kind for kind in kinds if kind in text) or "none"
    result = jax.block_until_ready(compiled(*placed))
    with np.errstate(over="ignore"):
        want = program.numpys(*program.arguments)
    try:
        compare_blocks(check, f"{program.name}, mesh {dict(mesh.shape)}", result, want, list(mesh.devices.flat))
    except LawBroken:
        # A program that constrains its values to the whole mesh cannot run on one device: JAX raises ValueError.
        with contextlib.suppress(ValueError):
            alone = np.asarray(jax.jit(program.ours)(*jax.device_put(program.arguments, mesh.devices.flat[0])))
            _tell(check, alone, want)
        raise


def _tell(check: Check, alone: Array, want: Array) -> None:
    """Record whether a program that failed is right on one device."""
    check.facts["holds" if np.array_equal(alone, want) else "fails"] = ["on one device"]


def explicit_programs(rng: np.random.Generator, n: int) -> Iterator[Program]:
    """Parts of a training step on explicit axes; a result is sharded as its arguments, or as the program names it."""
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
    check.need(hasattr(jax, "set_mesh"), "needs jax.set_mesh (JAX 0.7.1)", NotRunReason.NOT_APPLICABLE)
    made = jax.make_mesh((len(devices),), ("data",), (jax.sharding.AxisType.Explicit,), devices=devices)
    check.same("devices of jax.make_mesh", set(made.devices.flat), set(devices))
    for program in explicit_programs(rng, len(devices)):
        types: list[Any] = []
        result = _on_explicit_axes(program, devices, types)
        want: Array = program.numpys(*program.arguments)
        spec = PartitionSpec(*program.result)
        check.same(f"{program.name}: sharding in the result's type", types[0], spec)
        placed = NamedSharding(_explicit(devices), spec)
        check.same(f"{program.name}: placed so", result.sharding.is_equivalent_to(placed, want.ndim), True)
        try:
            compare_blocks(check, program.name, result, want, devices)
        except LawBroken:
            _tell(check, np.asarray(_on_explicit_axes(program, devices[:1], [])), want)
            raise


def _explicit(devices: Sequence[Any]) -> Mesh:
    plain = mesh_of(devices)
    return Mesh(plain.devices, plain.axis_names, axis_types=(jax.sharding.AxisType.Explicit,))


def _on_explicit_axes(program: Program, devices: Sequence[Any], types: list[Any]) -> jax.Array:
    """The result of a program on a mesh of these devices; the sharding in its type is appended to `types`."""

    def typed(*arguments: Any) -> Any:
        result = program.ours(*arguments)
        types.append(jax.typeof(result).sharding.spec)
        return result

    mesh = _explicit(devices)
    specs = [NamedSharding(mesh, PartitionSpec(*spec)) for spec in program.specs]
    with jax.set_mesh(mesh):
        result: jax.Array = jax.jit(typed)(
            *(jax.device_put(*pair) for pair in zip(program.arguments, specs, strict=True))
        )
    return result
