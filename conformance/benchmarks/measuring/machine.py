"""Benchmarks of the machine: dispatch, copies, matrix products at BERT's shapes, scatter-add, collectives by size."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from ...core.law import check_id
from ...machine.meshes import mesh_of, shard_map
from .bench import Bench, Benchmark
from .timing import Prepared, WrongResultError

KIB, MIB = 1024, 1024 * 1024
COPIES = {"64KiB": 64 * KIB, "16MiB": 16 * MIB}
MESSAGES = {"4KiB": 4 * KIB, "1MiB": MIB, "16MiB": 16 * MIB}
# Rows of the table to which a gradient is added: all, or two (padding ids, or texts that share most tokens). Some
# backends make the additions to one row one after the other (jax-ml/jax#17020).
SPREADS = ("spread", "two rows")
# Collective -> a function of the number of devices: bytes through the slowest link for each byte of the message (the
# larger of operand and result). It is bus bandwidth over algorithm bandwidth in doc/PERFORMANCE.md of nccl-tests.
BUS: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    **dict.fromkeys(("all_gather", "reduce_scatter", "all_to_all"), lambda n: (n - 1) / n),
}
# A copy to a CPU device goes to fresh memory in some processes, and in others to memory that the allocator kept: 16 MiB
# take 1.5 ms or 2.7 ms, and three runs in a row may be of one kind.
COPIES_SCATTER = 0.25
# Matrix products at the model's shapes, as einsum: m tokens of the batch, d and D width, f feed-forward, b examples,
# h heads, q and l length, k head size.
PRODUCTS = {
    "query": "md,dD->mD", "feed-forward": "md,df->mf", "weight gradient": "md,mf->df", "scores": "bhqk,bhlk->bhql",
}  # fmt: skip


def benchmarks(bench: Bench) -> Iterator[Benchmark]:
    """All benchmarks of the machine."""

    def one(stem: str, inside: str, group: str, level: str, build: Callable[..., Prepared], **how: Any) -> Benchmark:
        scatter = COPIES_SCATTER if group == "copies" and bench.devices[0].platform == "cpu" else 0.0
        return Benchmark(check_id(stem, inside), group, "matmul", level, functools.partial(build, **how), scatter)

    yield Benchmark("dispatch", "dispatch", "dispatch", "quick", _dispatch)
    for name, size in COPIES.items():
        yield one("copy.to_device", name, "copies", "quick" if size >= MIB else "standard", _to_device, size=size)
        yield one("copy.to_host", name, "copies", "standard", _to_host, size=size)
    for name in PRODUCTS:
        level = "quick" if name == "feed-forward" else "standard"
        yield one("matmul", name, "matmul", level, _product, name=name)
    for name in SPREADS:
        yield one("scatter_add", name, "scatter-add", "quick", _scatter_add, how=name)
    for name in BUS if len(bench.devices) > 1 else ():
        for message, size in MESSAGES.items():
            level = "standard" if name == "all_reduce" or size == MIB else "full"
            yield one(f"collective.{name}", message, "collectives", level, _collective, name=name, size=size)


def equal(what: str, got: Any, want: Any, tolerance: float = 0.0) -> None:
    """Raise WrongResultError for a wrong result, before it is timed; `tolerance` is relative, in the l2 norm."""
    g, w = np.asarray(got, np.float64), np.asarray(want, np.float64)
    error = float(np.linalg.norm(g - w)) if g.shape == w.shape else np.inf
    if not error <= tolerance * float(np.linalg.norm(w)):
        raise WrongResultError(f"{what}: wrong by {error:.3g} (norm {np.linalg.norm(w):.3g}), so it is not timed")


def _dispatch(bench: Bench) -> Prepared:
    add = jax.jit(lambda x: x + 1)
    zero = jax.device_put(np.float32(0), bench.devices[0])
    equal("0 + 1", add(zero), 1.0)
    return Prepared(lambda: jax.block_until_ready(add(zero)))


def _unaligned(size: int) -> Any:
    """An array that starts at no multiple of 64 bytes, since a CPU device would share, not copy, an aligned one."""
    return np.arange(size // 4 + 1, dtype=np.float32)[1:]


def _to_device(bench: Bench, size: int) -> Prepared:
    source, device = _unaligned(size), bench.devices[0]
    equal("copy to a device", jax.device_put(source, device), source)
    return Prepared(lambda: jax.block_until_ready(jax.device_put(source, device, may_alias=False)), {"bytes": size})


def _to_host(bench: Bench, size: int) -> Prepared:
    source = _unaligned(size)
    placed = jax.device_put(source, bench.devices[0])
    equal("copy to the host", placed, source)
    # A new array each time: JAX caches the host copy of an array.
    fresh = jax.jit(lambda x: x + 0)
    jax.block_until_ready(fresh(placed))

    def run() -> Any:
        return np.array(jax.block_until_ready(fresh(placed)), copy=True)

    return Prepared(run, {"bytes": size})


def _product(bench: Bench, name: str) -> Prepared:
    case, rows, length = bench.model, bench.rows, bench.tokens
    width, heads = case.hidden_size, case.num_attention_heads
    sizes = {
        "m": rows * length, "d": width, "D": width, "f": case.intermediate_size, "b": rows, "h": heads, "q": length,
        "l": length, "k": width // heads,
    }  # fmt: skip
    einsum = PRODUCTS[name]
    operands = einsum.partition("->")[0].split(",")
    rng = bench.rng(name)
    a, b = (rng.standard_normal([sizes[axis] for axis in axes]).astype(np.float32) for axes in operands)
    multiply = jax.jit(lambda a, b: jnp.einsum(einsum, a, b, precision=lax.Precision.HIGHEST))
    placed = jax.device_put((a, b), bench.devices[0])
    # A sum of K float32 products has a relative error of at most K u, usually about sqrt(K) u; u = 2^-24.
    equal(f"product {name}", multiply(*placed), np.einsum(einsum, a, b, optimize=True), 4096 * 2.0**-24)
    # One multiplication and one addition for each combination of all indices.
    flops = 2.0 * math.prod(sizes[axis] for axis in set("".join(operands)))
    return Prepared(lambda: jax.block_until_ready(multiply(*placed)), {"flops": flops})


def _scatter_add(bench: Bench, how: str) -> Prepared:
    case, tokens = bench.model, bench.rows * bench.tokens
    rng = bench.rng("scatter-add")
    ids = rng.integers(2 if how == "two rows" else case.vocab_size, size=tokens).astype(np.int32)
    # Integers, so that any order gives the same sum.
    updates = rng.integers(-8, 9, (tokens, case.hidden_size)).astype(np.float32)
    table = (case.vocab_size, case.hidden_size)
    add = jax.jit(lambda ids, updates: jnp.zeros(table, jnp.float32).at[ids].add(updates))
    placed = jax.device_put((ids, updates), bench.devices[0])
    want = np.zeros(table)
    np.add.at(want, ids, updates)
    equal("scatter-add", add(*placed), want)
    return Prepared(lambda: jax.block_until_ready(add(*placed)), {"bytes": float(updates.nbytes)})


def _collective(bench: Bench, name: str, size: int) -> Prepared:
    n = len(bench.devices)
    mesh = mesh_of(bench.devices)
    elements = max(size // 4 // n, 1) * n  # of the message, on each device
    own = elements // n if name == "all_gather" else elements
    actions: dict[str, Callable[[Any], Any]] = {
        "all_reduce": lambda x: lax.psum(x, "data"),
        "all_gather": lambda x: lax.all_gather(x, "data", tiled=True),
        "reduce_scatter": lambda x: lax.psum_scatter(x, "data", tiled=True),
        "all_to_all": lambda x: lax.all_to_all(x, "data", 0, 0, tiled=True),
    }
    rows = PartitionSpec("data")
    program = jax.jit(shard_map(lambda stacked: actions[name](stacked[0])[None], mesh, rows, rows, check=False))
    data = bench.rng("collective").integers(-8, 9, (n, own)).astype(np.float32)
    placed = jax.device_put(data, NamedSharding(mesh, rows))
    parts = data.reshape(n, n, -1)
    want = {
        "all_reduce": np.broadcast_to(data.sum(0), data.shape),
        "all_gather": np.broadcast_to(data.ravel(), (n, data.size)),
        "reduce_scatter": parts.sum(0),
        "all_to_all": parts.transpose(1, 0, 2).reshape(n, -1),
    }[name]
    equal(name, program(placed), want)
    message = 4.0 * elements
    work = {"bytes": message, "bus_bytes": message * BUS[name](n)}
    return Prepared(lambda: jax.block_until_ready(program(placed)), work)
