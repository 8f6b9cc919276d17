"""Rung 2: each collective, tested alone, delivers every contribution of every device once, to the right place.

The data are integers whose sums the dtype represents exactly (`meshes.coded`), so every order of summation gives the
same bits. The size of a message is the larger of a device's operand and result, as collective libraries count it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ...core.check import Check, Known, LawBroken
from ...core.comparison import Bound
from ...machine.meshes import DTYPES, FLOATS, Array, coded, exact_limit, holds_sums, mesh_of, on_each, signed, summed
from ...oracle.draws import Rng
from ..support.messages import COLLECTIVES, REDUCTIONS, compare_non_finite, non_finite
from ..support.running import at_level, law

KIB, MIB = 1024, 1024 * 1024
# Stacked data -> the expected results, stacked or one array for all devices, and the control.
Expected = Callable[[Array], tuple[Array, ...]]
# Bytes of a message. A bias gradient of BERT-base has 3 KiB; libraries switch algorithms near 512 KiB, 1 MiB and above.
SIZES = {
    "quick": (4, 3 * KIB, 512 * KIB - 4, MIB),
    "standard": (12, 1020, 512 * KIB, 2 * MIB, 4 * MIB, 8 * MIB),
    "full": (512 * KIB + 4, MIB - 4, MIB + 4, 2 * MIB - 4, 4 * MIB + 4, 8 * MIB - 4, 64 * MIB),
}
# Rounds of a loop with collectives; compilers unroll loops of one or two.
ROUNDS = 5
# Bytes of a message on fewer than all devices.
SHORT = {"quick": (3 * KIB,), "standard": (4, 512 * KIB - 4), "full": ()}
# Sizes that are tested with every dtype; other sizes are tested with two dtypes, and those above 8 MiB with one.
EVERY_DTYPE = {"quick": (4, 3 * KIB), "standard": (512 * KIB - 4, MIB), "full": (2 * MIB,)}


def messages(check: Check, devices: Sequence[Any]) -> Iterator[tuple[Mesh, int, list[np.dtype[Any]]]]:
    """(mesh, bytes, dtypes) for each program of the check's level, on all devices and on fewer of them."""
    fewer = range(2, 9) if check.at("full") else (2, 3) if check.at("standard") else ()
    for n in [n for n in fewer if n < len(devices)] + [len(devices)]:
        mesh = mesh_of(devices[:n])
        for size in at_level(check, SIZES if n == len(devices) else SHORT):
            dtypes = DTYPES if size in at_level(check, EVERY_DTYPE) else FLOATS[: 2 if size <= 8 * MIB else 1]
            yield mesh, size, [dtype for dtype in dtypes if holds_sums(dtype, n)]


def compare(
    check: Check, what: str, mesh: Mesh, collective: Callable[[jax.Array], jax.Array],
    datasets: Iterable[Sequence[Array]], expected: Expected, *, quotients: bool = False,
) -> None:  # fmt: skip
    """Apply a collective to arrays in one program; compare each device's result: bits, or rounded `quotients`."""
    program = on_each(lambda *own: [collective(x) for x in own], mesh)
    for data in datasets:
        for got, stacked in zip(program(*data), data, strict=True):
            text = f"{what}, {stacked[0].nbytes} B of {stacked.dtype} on {len(stacked)} devices"
            kind = np.dtype(np.float64) if quotients else got.dtype
            want, control = (np.broadcast_to(x.astype(kind, copy=False), got.shape) for x in expected(stacked))
            if quotients:
                _compare_quotients(check, text, got, want, control)
            else:
                check.equal(text, got, want, control=control)


def turned(data: Sequence[Array], size: int) -> Iterator[list[Array]]:
    """Yield the data; if a message has fewer elements than devices, also with each device's data on all others."""
    n = len(data[0])
    for turn in range(n if size < 4 * n else 1):
        yield [np.roll(stacked, turn, axis=0) for stacked in data]


def _elements(size: int, dtype: np.dtype[Any], multiple: int = 1) -> int:
    """Elements of a message of `size` bytes, a multiple of `multiple` and at least that."""
    return max(1, size // (dtype.itemsize * multiple)) * multiple


def compare_reduction(check: Check, rng: Rng, devices: list[Any], name: str, expected: Expected) -> None:
    """Compare a reduction over all devices at every size."""
    for mesh, size, dtypes in messages(check, devices):
        multiple = mesh.size if name == "psum_scatter" else 1
        data = [coded(rng, mesh.size, _elements(size, dtype, multiple), dtype) for dtype in dtypes]
        compare(check, name, mesh, lambda x: COLLECTIVES[name][0](x, "data"), turned(data, size), expected)


@law("collectives.psum", devices=2)
def test_psum(check: Check, rng: Rng, devices: list[Any]) -> None:
    """Compares the sum; the control lacks one contribution."""
    compare_reduction(check, rng, devices, "psum", _sums)


def _sums(stacked: Array) -> tuple[Array, Array]:
    return summed(stacked), summed(stacked[:-1])


@law("collectives.pmax", devices=2)
def test_pmax(check: Check, rng: Rng, devices: list[Any]) -> None:
    """Compares the maximum; each device has the largest value at some element."""
    compare_reduction(check, rng, devices, "pmax", lambda s: (s.max(0), s.min(0)))


@law("collectives.pmin", devices=2)
def test_pmin(check: Check, rng: Rng, devices: list[Any]) -> None:
    """Compares the minimum; each device has the smallest value at some element."""
    compare_reduction(check, rng, devices, "pmin", lambda s: (s.min(0), s.max(0)))


@law("collectives.pmean", devices=2)
def test_pmean(check: Check, rng: Rng, devices: list[Any]) -> None:
    """Compares the mean: exactly if the number of devices is a power of two, else within the rounding of a quotient."""
    for mesh, size, dtypes in messages(check, devices):
        exact = mesh.size & (mesh.size - 1) == 0
        room = 1 if exact else 4
        floats = [dtype for dtype in dtypes if dtype.kind not in "iu" and holds_sums(dtype, room * mesh.size)]
        data = [coded(rng, mesh.size, _elements(size, dtype), dtype, room=room) for dtype in floats]
        means = lambda stacked: tuple(total / len(stacked) for total in _sums(stacked))  # noqa: E731
        compare(check, "pmean", mesh, lambda x: lax.pmean(x, "data"), turned(data, size), means, quotients=not exact)


def _compare_quotients(check: Check, what: str, got: Array, want: Array, control: Array) -> None:
    """Compare each mean within a few u = 1 / `exact_limit`, relative to the mean.

    If n is no power of two, XLA multiplies by the rounded 1 / n and rounds again: (1 + d)(1 + e) - 1 <= 2 u + u^2. A
    float32 division on a GPU errs by up to 2 units in the last place, which are 4 u. Sums are at most limit / `room`,
    so a wrong sum is off by at least 2 room u: twice the bound. Most sums are multiples of n, whose quotient is exact,
    so a median margin of 0 is expected.
    """
    u = 1.0 / (exact_limit(got.dtype) or 1)
    bound = Bound(4.0 if got.dtype.itemsize >= 4 else 2.01, 1.0, f"rounded reciprocal and product, u = {u:.1e}")
    check.within(what, got, want, u * want, bound, control=control)


@law("collectives.all_gather", devices=2)
def test_all_gather(check: Check, rng: Rng, devices: list[Any]) -> None:
    """Compares the gathered parts, in the order of the devices, both stacked and concatenated."""
    for mesh, size, dtypes in messages(check, devices):
        n = mesh.size
        for tiled in (False, True):
            gather = partial(lambda x, tiled: lax.all_gather(x, "data", tiled=tiled), tiled=tiled)
            data = [signed(rng, (n, _elements(size, dtype, n) // n), dtype) for dtype in dtypes]
            compare(check, f"all_gather, tiled={tiled}", mesh, gather, [data], partial(_gathered, tiled=tiled))
            if size != 3 * KIB:
                break


def _gathered(stacked: Array, tiled: bool) -> tuple[Array, ...]:
    return tuple(parts.ravel() if tiled else parts for parts in _and_rolled(stacked))


@law("collectives.psum_scatter", devices=2)
def test_psum_scatter(check: Check, rng: Rng, devices: list[Any]) -> None:
    """Compares the result of device i with part i of the sum."""
    parts = COLLECTIVES["psum_scatter"][1]
    compare_reduction(check, rng, devices, "psum_scatter", lambda s: (parts(s), summed(s[:-1]).reshape(len(s), -1)))


@law("collectives.all_to_all", devices=2)
def test_all_to_all(check: Check, rng: Rng, devices: list[Any]) -> None:
    """Compares part i of device j's result with part j of device i's data, along one axis and from axis to axis."""
    along, after = COLLECTIVES["all_to_all"]
    for mesh, size, dtypes in messages(check, devices):
        n = mesh.size
        # Other sizes use one dtype: all_to_all only moves bytes, and takes 0.2 s to compile on a CPU.
        some = dtypes if size == 3 * KIB else dtypes[:1]
        data = [signed(rng, (n, _elements(size, dtype, n)), dtype) for dtype in some]
        compare(check, "all_to_all", mesh, lambda x: along(x, "data"), [data], lambda s: _and_rolled(after(s)))
        if size == 3 * KIB:
            blocks = [stacked.reshape(n, -1, n) for stacked in (data if check.at("standard") else data[:2])]
            across = lambda x: lax.all_to_all(x, "data", 1, 0, tiled=True)  # noqa: E731
            compare(check, "all_to_all, columns to rows", mesh, across, [blocks], _columns_to_rows)


def _and_rolled(want: Array) -> tuple[Array, Array]:
    """The expected results [N, ...], and their control: each device has the result of the device before it."""
    return want, np.roll(want, 1, axis=0)


def _columns_to_rows(blocks: Array) -> tuple[Array, Array]:
    """Blocks [N, r, N] -> the result of device j: column j of every device's block, in the order of the devices."""
    return _and_rolled(np.stack([blocks[:, :, j].reshape(-1, 1) for j in range(len(blocks))]))


def permutations(rng: Rng, n: int) -> dict[str, list[tuple[int, int]]]:
    """Name -> (source, target) pairs, in which each device sends and receives at most once."""
    order = rng.permutation(n)
    return {
        "ring": [(i, (i + 1) % n) for i in range(n)],
        "ring backwards": [(i, (i - 1) % n) for i in range(n)],
        "first and last swapped": [(0, n - 1), (n - 1, 0), *((i, i) for i in range(1, n - 1))],
        "random order": [(i, int(order[i])) for i in range(n)],
        "each in place": [(i, i) for i in range(n)],
        "every second one sends": [(i, i + 1) for i in range(0, n - 1, 2)],
        "one pair": [(n - 1, 0)],
    }


@law("collectives.ppermute", devices=2)
def test_ppermute(check: Check, rng: Rng, devices: list[Any]) -> None:
    """Compares what each device received; a device that received nothing must have zeros."""
    for mesh, size, dtypes in messages(check, devices):
        data = [signed(rng, (mesh.size, _elements(size, dtype)), dtype) for dtype in dtypes]
        for name, pairs in permutations(rng, mesh.size).items():
            if name != "ring" and size != 3 * KIB:
                continue
            permute = partial(lambda x, pairs: lax.ppermute(x, "data", pairs), pairs=pairs)
            compare(check, f"ppermute, {name}", mesh, permute, [data], partial(_permuted, pairs=pairs))


def _permuted(stacked: Array, pairs: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    want = np.zeros_like(stacked)
    for source, target in pairs:
        want[target] = stacked[source]
    return _and_rolled(want)


@law("collectives.non_finite", devices=2)
def test_non_finite(check: Check, rng: Rng, devices: list[Any]) -> None:
    """Compares sums, maxima and minima of NaN and infinities, by collectives and by the partitioner, on every device.

    A maximum that drops NaN, as C's `fmax` does, is a known bug of some platforms; any other result is a failure.
    """
    n, mesh, dropped = len(devices), mesh_of(devices), []
    ways = {"psum": "sum", "psum_scatter": "sum", "pmax": "max", "pmin": "min"}
    each = on_each(lambda *own: [[COLLECTIVES[way][0](x, "data") for way in ways] for x in own], mesh)
    whole = jax.jit(lambda *data: [[getattr(x, name)(0) for name in REDUCTIONS] for x in data])
    for parts in (n, 32 * n) if check.at("standard") else (n,):
        data = [non_finite(rng, n, parts, dtype) for dtype in FLOATS]
        placed = jax.device_put(data, NamedSharding(mesh, PartitionSpec("data")))
        for stacked, own, sharded in zip(data, each(*data), whole(*placed), strict=True):
            results = [(way, ways[way], got) for way, got in zip(ways, own, strict=True)]
            for name, result in zip(REDUCTIONS, sharded, strict=True):
                copies = np.stack([np.asarray(shard.data) for shard in result.addressable_shards])
                results.append((f"{name} of a sharded axis", name, copies))
            for way, name, got in results:
                what = f"{way} of NaN and infinity, {stacked[0].nbytes} B of {stacked.dtype} on {n} devices"
                try:
                    if not compare_non_finite(check, what, name, got, stacked, devices[0].platform):
                        dropped.append(way)
                except LawBroken:
                    alone = np.asarray(getattr(jax.device_put(stacked, devices[0]), name)(0), np.float64)
                    if way not in ways and np.array_equal(got[0].astype(np.float64), alone, equal_nan=True):
                        check.facts["fails"] = ["on one device"]
                    raise
    if dropped:
        check.facts["dropped"] = list(dict.fromkeys(dropped))
        raise Known(
            f"known bug of maxima and minima over {devices[0].platform} devices: they lose a NaN that one device has "
            f"({', '.join(check.facts['dropped'])}); to look for NaN, sum `jnp.isnan(x)` over the devices instead"
        )


@law("collectives.repeated", devices=2)
def test_repeated(check: Check, rng: Rng, devices: list[Any]) -> None:
    """Runs one program with four sizes of message many times, each time on other data, to see intermittent faults."""
    n, dtype = len(devices), FLOATS[0]
    times = 500 if check.at("full") else 100 if check.at("standard") else 20

    def leaves(*own: jax.Array) -> list[jax.Array]:
        return [lax.psum(x, "data") for x in own] + [lax.psum_scatter(x, "data", tiled=True) for x in own]

    program = on_each(leaves, mesh_of(devices))
    sizes = (4 * n, 3 * KIB, 256 * KIB, 512 * KIB - 4)
    base = [coded(rng, n, _elements(size, dtype, n), dtype) for size in sizes]
    for time in range(times):
        data = [np.roll(stacked, (time, 7 * time), axis=(0, 1)) for stacked in base]
        results = program(*data)
        for whole, parts, stacked in zip(results[: len(base)], results[len(base) :], data, strict=True):
            for name, got in (("psum", whole), ("psum_scatter", parts.reshape(1, -1))):
                want, control = (np.broadcast_to(x.astype(dtype), got.shape) for x in _sums(stacked))
                check.equal(f"{name} of {stacked[0].nbytes} B, time {time}", got, want, control=control)
    _in_a_loop(check, rng, mesh_of(devices))


def _in_a_loop(check: Check, rng: Rng, mesh: Mesh) -> None:
    """Compare sums that a loop of one program makes, as accumulation over micro-batches does."""

    def rounds(*own: jax.Array) -> Any:
        return lax.scan(lambda done, parts: (done + 1, [lax.psum(x, "data") for x in parts]), 0, own)[1]

    data = [
        np.stack([coded(rng, mesh.size, _elements(3 * KIB, dtype), dtype) for _ in range(ROUNDS)], axis=1)
        for dtype in FLOATS[:2]
    ]
    for got, stacked in zip(on_each(rounds, mesh)(*data), data, strict=True):
        for number in range(ROUNDS):
            want, control = (
                np.broadcast_to(x.astype(got.dtype), got[:, number].shape) for x in _sums(stacked[:, number])
            )
            what = f"psum in a loop, 3072 B of {stacked.dtype}, round {number}"
            check.equal(what, got[:, number], want, control=control)
