"""Benchmarks of the machine: dispatch, copies, matrix products at BERT's shapes, scatter-add, collectives by size."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from ...core.meshes import mesh_of, shard_map
from .bench import SIZES, Bench, Benchmark, bracketed
from .timing import Prepared, WrongResultError

KIB, MIB = 1024, 1024 * 1024
COPIES = {"64KiB": 64 * KIB, "16MiB": 16 * MIB}
MESSAGES = {"4KiB": 4 * KIB, "1MiB": MIB, "16MiB": 16 * MIB}
# Rows of the table that a gradient is added into, and how many: all of them, or two (a mask of padding ids; a task
# whose texts share most tokens), which some backends do one after the other (jax-ml/jax#17020).
SPREADS = ("spread", "two rows")
# What a collective moves through the slowest link for each byte of its message, of n devices: bus over algorithm
# bandwidth, as nccl-tests counts it (its doc/PERFORMANCE.md). The message is the larger of operand and result.
BUS: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
}


# A copy into the memory of a CPU device is one into memory that the allocator has just got, or still has, which is
# decided once for a process: 16 MiB take 1.5 ms or 2.7, and three runs in a row may well be of one kind.
COPIES_SCATTER = 0.25


def benchmarks(bench: Bench) -> Iterator[Benchmark]:
    """All of the machine's."""
    scatter = COPIES_SCATTER if bench.devices[0].platform == "cpu" else 0.0
    yield Benchmark("dispatch", "dispatch", "dispatch", "quick", _dispatch)
    for name, size in COPIES.items():
        level = "quick" if size >= MIB else "standard"
        yield Benchmark(
            bracketed("copy.to_device", name),
            "copies",
            "matmul",
            level,
            functools.partial(_to_device, size=size),
            scatter=scatter,
        )
        yield Benchmark(
            bracketed("copy.to_host", name),
            "copies",
            "matmul",
            "standard",
            functools.partial(_to_host, size=size),
            scatter=scatter,
        )
    for name in PRODUCTS:
        level = "quick" if name == "feed-forward" else "standard"
        yield Benchmark(bracketed("matmul", name), "matmul", "matmul", level, functools.partial(_product, name=name))
    for name in SPREADS:
        yield Benchmark(
            bracketed("scatter_add", name), "scatter-add", "matmul", "quick", functools.partial(_scatter_add, how=name)
        )
    if len(bench.devices) > 1:
        for name in BUS:
            for said, size in MESSAGES.items():
                level = "standard" if name == "all_reduce" or size == MIB else "full"
                build = functools.partial(_collective, name=name, size=size)
                yield Benchmark(bracketed(f"collective.{name}", said), "collectives", "matmul", level, build)


def equal(what: str, got: Any, want: Any, tolerance: float = 0.0) -> None:
    """Refuse to time what is wrong.

    Raises:
        WrongResultError: naming it.
    """
    g, w = np.asarray(got, np.float64), np.asarray(want, np.float64)
    error = float(np.linalg.norm(g - w)) if g.shape == w.shape else np.inf
    if not error <= tolerance * float(np.linalg.norm(w)):
        raise WrongResultError(f"{what}: wrong by {error:.3g} (norm {np.linalg.norm(w):.3g}); it has no speed")


def _dispatch(bench: Bench) -> Prepared:
    add = jax.jit(lambda x: x + 1)
    zero = jax.device_put(np.float32(0), bench.devices[0])
    equal("0 + 1", add(zero), 1.0)
    return Prepared(lambda: jax.block_until_ready(add(zero)))


def _unaligned(size: int) -> Any:
    """Bytes that start beside a multiple of 64: a CPU device would otherwise only point at the host's."""
    return np.arange(size // 4 + 1, dtype=np.float32)[1:]


def _to_device(bench: Bench, size: int) -> Prepared:
    source, device = _unaligned(size), bench.devices[0]
    equal("copy to a device", jax.device_put(source, device), source)
    return Prepared(lambda: jax.block_until_ready(jax.device_put(source, device, may_alias=False)), {"bytes": size})


def _to_host(bench: Bench, size: int) -> Prepared:
    source = _unaligned(size)
    there = jax.device_put(source, bench.devices[0])
    equal("copy to the host", there, source)
    # A fresh array each time: JAX keeps what it once read.
    fresh = jax.jit(lambda x: x + 0)
    jax.block_until_ready(fresh(there))

    def run() -> Any:
        return np.array(jax.block_until_ready(fresh(there)), copy=True)

    return Prepared(run, {"bytes": size})


# Name -> operands of one product at the size of a model: rows M = B L, width D, feed-forward F, heads H.
def _forward(m: int, d: int, f: int, h: int, length: int) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    return (m, d), (d, f), "mk,kn->mn"


def _weights(m: int, d: int, f: int, h: int, length: int) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    return (m, d), (m, f), "mk,mn->kn"


def _square(m: int, d: int, f: int, h: int, length: int) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    return (m, d), (d, d), "mk,kn->mn"


def _scores(m: int, d: int, f: int, h: int, length: int) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    shape = (m // length, h, length, d // h)
    return shape, shape, "bhqk,bhlk->bhql"


PRODUCTS = {"query": _square, "feed-forward": _forward, "weight gradient": _weights, "scores": _scores}


def _product(bench: Bench, name: str) -> Prepared:
    case, rows, length = SIZES[bench.size]
    sizes = (rows * length, case.hidden_size, case.intermediate_size, case.num_attention_heads, length)
    left, right, how = PRODUCTS[name](*sizes)
    rng = bench.rng(name)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in (left, right))
    multiply = jax.jit(lambda a, b: jnp.einsum(how, a, b, precision=lax.Precision.HIGHEST))
    there = jax.device_put((a, b), bench.devices[0])
    # Of a sum of K products in float32, in any order: K u at the most, sqrt(K) u as a rule; u = 2^-24.
    equal(f"product {name}", multiply(*there), np.einsum(how, a, b, optimize=True), 4096 * 2.0**-24)
    # A product of matrices multiplies and adds, each element with each of its own contracted index.
    letters = dict(zip(how.replace(",", "").split("->")[0], (*left, *right), strict=True))
    flops = 2.0 * float(np.prod(list(letters.values())))
    return Prepared(lambda: jax.block_until_ready(multiply(*there)), {"flops": flops})


def _scatter_add(bench: Bench, how: str) -> Prepared:
    case, rows, length = SIZES[bench.size]
    rng = bench.rng("scatter-add")
    ids = rng.integers(2 if how == "two rows" else case.vocab_size, size=rows * length).astype(np.int32)
    # Whole numbers, so that any order gives the same sum.
    updates = rng.integers(-8, 9, (rows * length, case.hidden_size)).astype(np.float32)
    table = (case.vocab_size, case.hidden_size)
    add = jax.jit(lambda ids, updates: jnp.zeros(table, jnp.float32).at[ids].add(updates))
    there = jax.device_put((ids, updates), bench.devices[0])
    want = np.zeros(table)
    np.add.at(want, ids, updates)
    equal("scatter-add", add(*there), want)
    return Prepared(lambda: jax.block_until_ready(add(*there)), {"bytes": float(updates.nbytes)})


def _collective(bench: Bench, name: str, size: int) -> Prepared:
    n = len(bench.devices)
    mesh = mesh_of(bench.devices)
    elements = max(size // 4 // n, 1) * n  # of the message: what each device holds of the larger of operand and result
    own = elements // n if name == "all_gather" else elements
    actions: dict[str, Callable[[Any], Any]] = {
        "all_reduce": lambda x: lax.psum(x, "data"),
        "all_gather": lambda x: lax.all_gather(x, "data", tiled=True),
        "reduce_scatter": lambda x: lax.psum_scatter(x, "data", tiled=True),
        "all_to_all": lambda x: lax.all_to_all(x, "data", 0, 0, tiled=True),
    }
    rows = PartitionSpec("data")

    def alone(stacked: Any) -> Any:
        return actions[name](stacked[0])[None]

    program = jax.jit(shard_map(alone, mesh, rows, rows, check=False))
    data = bench.rng("collective").integers(-8, 9, (n, own)).astype(np.float32)
    there = jax.device_put(data, NamedSharding(mesh, rows))
    cut = data.reshape(n, n, -1)
    want = {
        "all_reduce": np.broadcast_to(data.sum(0), data.shape),
        "all_gather": np.broadcast_to(data.ravel(), (n, data.size)),
        "reduce_scatter": cut.sum(0),
        "all_to_all": cut.transpose(1, 0, 2).reshape(n, -1),
    }[name]
    equal(name, program(there), want)
    message = 4.0 * elements
    work = {"bytes": message, "bus_bytes": message * BUS[name](n)}
    return Prepared(lambda: jax.block_until_ready(program(there)), work)
