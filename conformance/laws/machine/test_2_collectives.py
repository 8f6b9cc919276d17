"""Rung 2: every contribution of every device arrives once, where it belongs: each collective by itself.

Sums are of integers that the dtype holds exactly, partial sums in any order included (`meshes.coded`), so they are the
same bit for bit whatever algorithm adds them up. A message's size is that of the larger one of a device's operand and
result, as collective libraries count it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from jax import lax

from ...core.check import Check
from ...core.comparison import Bound
from ...core.meshes import DTYPES, FLOATS, Array, coded, exact_limit, holds_sums, mesh_of, on_each, signed, summed

KIB, MIB = 1024, 1024 * 1024
# Bytes. Bias and LayerNorm gradients of BERT-base are 3 KiB; libraries change algorithm around 512 KiB, 1 MiB and on.
SIZES = {
    "quick": (4, 3 * KIB, 512 * KIB - 4, MIB),
    "standard": (12, 1020, 512 * KIB, 2 * MIB, 4 * MIB, 8 * MIB),
    "full": (512 * KIB + 4, MIB - 4, MIB + 4, 2 * MIB - 4, 4 * MIB + 4, 8 * MIB - 4, 64 * MIB),
}
# On fewer than all devices.
SHORT = {"quick": (3 * KIB,), "standard": (4, 512 * KIB - 4), "full": ()}
# At other sizes than these two dtypes, and one beyond 8 MiB.
EVERY_DTYPE = {"quick": (3 * KIB,), "standard": (4, 512 * KIB - 4, MIB), "full": (2 * MIB,)}


def chosen(check: Check, sizes: dict[str, tuple[int, ...]]) -> list[int]:
    """The sizes of this run's level."""
    return [size for level, found in sizes.items() if check.at(level) for size in found]


def counts(check: Check, available: int) -> list[int]:
    """How many devices: all; 2 and 3 as well; every number up to 8."""
    some = range(2, 9) if check.at("full") else (2, 3) if check.at("standard") else ()
    return [n for n in some if n < available] + [available]


def messages(check: Check, devices: Sequence[Any]) -> Iterator[tuple[Any, int, list[np.dtype[Any]]]]:
    """(mesh, bytes, dtypes) of this run's level; each is one program."""
    check.need(len(devices) >= 2, f"needs 2 devices, found {len(devices)}")
    for n in counts(check, len(devices)):
        mesh = mesh_of(devices[:n])
        for size in chosen(check, SIZES if n == len(devices) else SHORT):
            dtypes = DTYPES if size in chosen(check, EVERY_DTYPE) else FLOATS[: 2 if size <= 8 * MIB else 1]
            yield mesh, size, [dtype for dtype in dtypes if holds_sums(dtype, n)]


def compared(
    check: Check,
    what: str,
    program: Callable[..., Any],
    given: Sequence[Array],
    expected: Callable[[Array], tuple[Array, Array]],
    compare: Callable[[str, Array, Array, Array], None] | None = None,
) -> None:
    """A program's results are the expected ones on every device.

    Args:
        check: told.
        what: begins the text of a failure.
        program: of `on_each`.
        given: stacked arrays.
        expected: of a stacked array, what each device must hold (stacked, or one for all), and what it must not.
        compare: instead of bit for bit: what, got, want, control.
    """
    for got, stacked in zip(program(*given), given, strict=True):
        want, control = expected(stacked)
        text = f"{what}, {stacked[0].nbytes} B of {stacked.dtype} on {len(stacked)} devices"
        if compare is None:
            want, control = want.astype(got.dtype, copy=False), control.astype(got.dtype, copy=False)
        want, control = np.broadcast_to(want, got.shape), np.broadcast_to(control, got.shape)
        if compare is None:
            check.equal(text, got, want, control=control)
        else:
            compare(text, got, want, control)


def turned(given: Sequence[Array], size: int) -> Iterator[list[Array]]:
    """The data; of a message too small for every device to stand out in it, each device's in each one's place."""
    n = len(given[0])
    for turn in range(n if size < 4 * n else 1):
        yield [np.roll(stacked, turn, axis=0) for stacked in given]


def _elements(size: int, dtype: np.dtype[Any], multiple: int = 1) -> int:
    """Elements of a message of `size` bytes, at least one for each of `multiple` parts, in equal parts."""
    return max(1, size // (dtype.itemsize * multiple)) * multiple


def reduced(
    check: Check,
    rng: np.random.Generator,
    devices: Sequence[Any],
    collective: Callable[..., Any],
    expected: Callable[[Array], tuple[Array, Array]],
) -> None:
    """A reduction over all devices, whose result each of them holds."""
    for mesh, size, dtypes in messages(check, devices):
        program = on_each(lambda *own: [collective(x, "data") for x in own], mesh)
        data = [coded(rng, mesh.size, _elements(size, dtype), dtype) for dtype in dtypes]
        for given in turned(data, size):
            compared(check, collective.__name__, program, given, expected)


@pytest.mark.law("collectives.psum")
def test_psum(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """The sum of all contributions; the control lacks one."""
    reduced(check, rng, devices, lax.psum, lambda stacked: (summed(stacked), summed(stacked[:-1])))


@pytest.mark.law("collectives.pmax")
def test_pmax(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """The largest; every device has it somewhere."""
    reduced(check, rng, devices, lax.pmax, lambda stacked: (stacked.max(axis=0), stacked.min(axis=0)))


@pytest.mark.law("collectives.pmin")
def test_pmin(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """The smallest; every device has it somewhere."""
    reduced(check, rng, devices, lax.pmin, lambda stacked: (stacked.min(axis=0), stacked.max(axis=0)))


@pytest.mark.law("collectives.pmean")
def test_pmean(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """The sum over their number: exact for a power of two."""
    for mesh, size, dtypes in messages(check, devices):
        program = on_each(lambda *own: [lax.pmean(x, "data") for x in own], mesh)
        exact = mesh.size & (mesh.size - 1) == 0
        room = 1 if exact else 4
        floats = [dtype for dtype in dtypes if dtype.kind not in "iu" and holds_sums(dtype, room * mesh.size)]
        data = [coded(rng, mesh.size, _elements(size, dtype), dtype, room=room) for dtype in floats]
        for given in turned(data, size):
            compared(check, "pmean", program, given, _means, None if exact else _quotients(check))


def _means(stacked: Array) -> tuple[Array, Array]:
    return summed(stacked) / len(stacked), summed(stacked[:-1]) / len(stacked)


def _quotients(check: Check) -> Callable[[str, Array, Array, Array], None]:
    """Compares each mean with an allowance of its own, in units of u = 1 / `exact_limit`.

    Where n is no power of two, XLA multiplies by 1 / n, rounded, and rounds again: (1 + d)(1 + e) - 1 <= 2 u + u^2. A
    float32 division on a GPU errs by up to 2 units in the last place, which are 4 u. A sum that is wrong is at least 2
    off where `room` keeps it at or below limit / room: 2 room u, twice the bound at least. Most sums are multiples
    of n, whose quotients often come out exact: a median margin of 0 is expected.
    """

    def compare(what: str, got: Array, want: Array, control: Array) -> None:
        u = 1.0 / (exact_limit(got.dtype) or 1)
        bound = Bound(4.0 if got.dtype.itemsize >= 4 else 2.01, 1.0, f"rounded reciprocal and product, u = {u:.1e}")
        check.within(what, got, want, u * want, bound, control=control)

    return compare


@pytest.mark.law("collectives.all_gather")
def test_all_gather(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Every device holds what each one had, in the order of the devices; stacked, and joined along an axis."""
    for mesh, size, dtypes in messages(check, devices):
        n = mesh.size
        for tiled in (False, True):
            program = on_each(lambda *own, tiled=tiled: [lax.all_gather(x, "data", tiled=tiled) for x in own], mesh)
            data = [signed(rng, (n, _elements(size, dtype, n) // n), dtype) for dtype in dtypes]
            compared(check, f"all_gather, tiled={tiled}", program, data, partial(_gathered, tiled=tiled))
            if size != 3 * KIB:
                break


def _gathered(stacked: Array, tiled: bool) -> tuple[Array, Array]:
    both = stacked, np.roll(stacked, 1, axis=0)
    return (both[0].ravel(), both[1].ravel()) if tiled else both


@pytest.mark.law("collectives.psum_scatter")
def test_psum_scatter(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Device i holds part i of the sum."""
    for mesh, size, dtypes in messages(check, devices):
        n = mesh.size
        program = on_each(lambda *own: [lax.psum_scatter(x, "data", tiled=True) for x in own], mesh)
        data = [coded(rng, n, _elements(size, dtype, n), dtype) for dtype in dtypes]
        for given in turned(data, size):
            compared(check, "psum_scatter", program, given, _scattered)


def _scattered(stacked: Array) -> tuple[Array, Array]:
    n = len(stacked)
    return summed(stacked).reshape(n, -1), summed(stacked[:-1]).reshape(n, -1)


@pytest.mark.law("collectives.all_to_all")
def test_all_to_all(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Part j of device i becomes part i of device j; along one axis, and from one axis to another."""
    for mesh, size, dtypes in messages(check, devices):
        n = mesh.size
        program = on_each(lambda *own: [lax.all_to_all(x, "data", 0, 0, tiled=True) for x in own], mesh)
        # On a CPU each of them takes 0.2 s to compile, and moves bytes of whatever dtype.
        some = dtypes if size == 3 * KIB else dtypes[:1]
        data = [signed(rng, (n, _elements(size, dtype, n)), dtype) for dtype in some]
        compared(check, "all_to_all", program, data, _exchanged)
        if size == 3 * KIB:
            across = on_each(lambda *own: [lax.all_to_all(x, "data", 1, 0, tiled=True) for x in own], mesh)
            blocks = [stacked.reshape(n, -1, n) for stacked in (data if check.at("standard") else data[:2])]
            compared(check, "all_to_all, columns to rows", across, blocks, _columns_to_rows)


def _exchanged(stacked: Array) -> tuple[Array, Array]:
    n = len(stacked)
    got = stacked.reshape(n, n, -1).swapaxes(0, 1).reshape(n, -1)
    return got, np.roll(got, 1, axis=0)


def _columns_to_rows(blocks: Array) -> tuple[Array, Array]:
    """[N, r, N]: device j collects column j of every device, device after device."""
    got = np.stack([blocks[:, :, j].reshape(-1, 1) for j in range(len(blocks))])
    return got, np.roll(got, 1, axis=0)


def permutations(rng: np.random.Generator, n: int) -> dict[str, list[tuple[int, int]]]:
    """Who sends to whom: rings, swaps with devices left in place, a random order, a part of the devices, one pair."""
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


@pytest.mark.law("collectives.ppermute")
def test_ppermute(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Who is sent something holds it, and who is not holds zeros."""
    for mesh, size, dtypes in messages(check, devices):
        data = [signed(rng, (mesh.size, _elements(size, dtype)), dtype) for dtype in dtypes]
        for name, pairs in permutations(rng, mesh.size).items():
            if name != "ring" and size != 3 * KIB:
                continue
            program = on_each(lambda *own, pairs=pairs: [lax.ppermute(x, "data", pairs) for x in own], mesh)
            compared(check, f"ppermute, {name}", program, data, partial(_permuted, pairs=pairs))


def _permuted(stacked: Array, pairs: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    want = np.zeros_like(stacked)
    for source, target in pairs:
        want[target] = stacked[source]
    return want, np.roll(want, 1, axis=0)


@pytest.mark.law("collectives.repeated")
def test_repeated(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """One program many times with other data each time: faults that come and go. BERT's small gradients, at 4 sizes."""
    check.need(len(devices) >= 2, f"needs 2 devices, found {len(devices)}")
    n, dtype = len(devices), FLOATS[0]
    times = 500 if check.at("full") else 100 if check.at("standard") else 20

    def leaves(*own: jax.Array) -> list[jax.Array]:
        return [lax.psum(x, "data") for x in own] + [lax.psum_scatter(x, "data", tiled=True) for x in own]

    program = on_each(leaves, mesh_of(devices))
    sizes = (4 * n, 3 * KIB, 256 * KIB, 512 * KIB - 4)
    base = [coded(rng, n, _elements(size, dtype, n), dtype) for size in sizes]
    for time in range(times):
        given = [np.roll(stacked, (time, 7 * time), axis=(0, 1)) for stacked in base]
        got = program(*given)
        for whole, part, stacked in zip(got[: len(base)], got[len(base) :], given, strict=True):
            want, control = summed(stacked).astype(dtype), summed(stacked[:-1]).astype(dtype)
            for name, result in (("psum", whole), ("psum_scatter", part.reshape(1, -1))):
                wants = np.broadcast_to(want, result.shape), np.broadcast_to(control, result.shape)
                check.equal(f"{name} of {stacked[0].nbytes} B, time {time}", result, wants[0], control=wants[1])
