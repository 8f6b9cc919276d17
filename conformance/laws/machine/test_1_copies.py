"""Rung 1: copies between host and devices arrive unchanged, and stay unchanged."""

import collections
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ...adapter import HostBatch, TrainerUnderTest
from ...core.check import Check
from ...machine.meshes import Array, mesh_of
from ...oracle.draws import batch_of, draw_case
from ..support.compilation import precision, wide_types
from ..support.running import at_level, law
from ..support.trainer_checks import check_same_run

# Numbers of 4-byte words: one, three, a page (4 KiB) minus and plus one word, just over 256 KiB, 1 MiB, just under
# 8 MiB; 64 MiB; the word embeddings of BERT-base, 30,522 x 768.
SIZES = {"quick": (1, 3, 1023, 1025, 65_537, 262_144, 2_097_151), "standard": (16_777_216,), "full": (23_440_896,)}
KINDS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "bfloat16", "float32")
# On platforms that have all of them, under JAX's setting for 64-bit types.
WIDE_KINDS = ("int64", "uint64", "float64", "complex64", "complex128")
WIDE_PLATFORMS = ("cpu", "gpu")
# Lengths of one-dimensional arrays of each dtype, as of labels, weights and biases.
LENGTHS = (1, 3, 17, 1001)


def words(rng: np.random.Generator, size: int | tuple[int, ...]) -> Array:
    """Random words of 32 bits."""
    return rng.integers(0, 2**32, size, dtype=np.uint32)


def of_kind(rng: np.random.Generator, kind: str, length: int) -> Array:
    """Random bits as an array of a dtype; truth values are 0 or 1."""
    dtype = jnp.dtype(kind)
    bits = rng.integers(0, 256, length * dtype.itemsize, dtype=np.uint8)
    return (bits & 1).astype(bool) if kind == "bool" else bits.view(dtype)


def check_copy(check: Check, what: str, got: Array, want: Array) -> None:
    """Compare the bits that arrived with those sent; the control is `want` with the bits of its first element inverted.

    They are compared as unsigned integers, since some of the random bits are NaN.
    """
    check.same(f"{what}: dtype", str(got.dtype), str(want.dtype))
    got, want = (
        np.ascontiguousarray(x).view(np.uint8 if x.dtype.itemsize > 8 else f"u{x.dtype.itemsize}") for x in (got, want)
    )
    control = want.copy()
    control.flat[0] ^= 1
    check.equal(what, got, want, control=control)


@law("copies.round_trip")
def test_round_trip(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Copies random words, dtypes of every width, and host arrays of every memory order to each device and back."""
    for size in at_level(check, SIZES):
        sent = words(rng, size)
        for device in devices:
            placed = jax.device_put(sent, device)
            check.same(f"where {size} words for {device} lie", placed.devices(), {device})
            check_copy(check, f"{size} words through {device}", np.asarray(placed), sent)
    block = words(rng, 4 * 1001).reshape(13, 28, 11)
    layouts = {
        "Fortran-ordered": np.asfortranarray(block),
        "transposed": block.transpose(1, 2, 0),
        "strided": block[1::3, ::-2, 2::4],
        "reversed": block[::-1],
        "broadcast": np.broadcast_to(block[:, :1], block.shape),
    }
    for device in devices:
        for order, sent in layouts.items():
            got = np.asarray(jax.device_put(sent, device))
            check_copy(check, f"{order} array through {device}", got, np.array(sent, order="C"))
    with wide_types(devices[0].platform in WIDE_PLATFORMS):
        for kind, length, device in itertools.product(_kinds(devices), LENGTHS, devices):
            sent = of_kind(rng, kind, length)
            check_copy(check, f"{length} of {kind} through {device}", np.asarray(jax.device_put(sent, device)), sent)


def _kinds(devices: Sequence[Any]) -> tuple[str, ...]:
    return (*KINDS, *(WIDE_KINDS if devices[0].platform in WIDE_PLATFORMS else ()))


@law("copies.between_devices", devices=2)
def test_between_devices(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Copies different words between every ordered pair of devices, then one array from device to device around all."""
    n = len(devices)
    for size in (2, *at_level(check, SIZES)):
        base = words(rng, size)
        for source, target in itertools.permutations(range(n), 2):
            # Large arrays go between neighbours only, in both directions: all N (N - 1) pairs would take too long.
            if size > (4_000_000 if check.at("standard") else 100_000) and abs(source - target) not in (1, n - 1):
                continue
            sent = base ^ np.uint32(0x9E3779B1 * (1 + source * n + target) % 2**32)
            at_source = jax.block_until_ready(jax.device_put(sent, devices[source]))
            at_target = jax.block_until_ready(jax.device_put(at_source, devices[target]))
            what = f"{size} words from {devices[source]} to {devices[target]}"
            check.same(f"{what}: where they lie", at_target.devices(), {devices[target]})
            check_copy(check, what, np.asarray(at_target), sent)
            check_copy(check, f"{what}: what was sent", np.asarray(at_source), sent)
        passed = jax.device_put(base, devices[0])
        for device in (*devices[1:], devices[0]):
            passed = jax.device_put(passed, device)
        check_copy(check, f"{size} words round all devices", np.asarray(passed), base)
    with wide_types(devices[0].platform in WIDE_PLATFORMS):
        around = itertools.pairwise((*range(n), 0))
        for kind, length, (source, target) in itertools.product(_kinds(devices), LENGTHS, around):
            sent = of_kind(rng, kind, length)
            at_target = jax.device_put(jax.device_put(sent, devices[source]), devices[target])
            what = f"{length} of {kind} from {devices[source]} to {devices[target]}"
            check_copy(check, what, np.asarray(at_target), sent)


@law("copies.sharded", devices=2)
def test_sharded(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Compares each device's block of a sharded array, then the whole array, for several meshes and shardings."""
    width = 65_536 if check.at("full") else 4_096 if check.at("standard") else 36
    for mesh, spec, axes in _shardings(devices):
        # One-dimensional arrays have an odd number of elements on each device.
        shape = (33 * mesh.size,) if axes == 1 else (6 * mesh.size, (width if axes == 2 else 36) * mesh.size)
        sent = words(rng, (5, *shape) if axes == 3 else shape)
        placed = jax.device_put(sent, NamedSharding(mesh, spec))
        what = f"{axes} axes as {spec} on a mesh of {dict(mesh.shape)}"
        shards = {shard.device: np.asarray(shard.data) for shard in placed.addressable_shards}
        check.same(f"{what}: devices with a shard", sorted(map(str, shards)), sorted(map(str, mesh.devices.flat)))
        for at, device in np.ndenumerate(mesh.devices):
            check_copy(check, f"{what}: shard of {device}", shards[device], _block(sent, mesh, spec, at))
        check_copy(check, f"{what}: all of it", np.asarray(placed), sent)


def _shardings(devices: Sequence[Any]) -> Iterator[tuple[Mesh, PartitionSpec, int]]:
    """(mesh, sharding, number of the array's axes): of matrices, of one-dimensional arrays, and of stacked matrices."""
    both, halves = ("data", "model"), len(devices) // 2
    one_axis = [(mesh_of(some), (("data",), (None, "data"), ())) for some in (devices, devices[::-1])]
    grids = [mesh_of(devices, *shape) for shape in ((2, halves), (halves, 2)) if halves >= 2]
    specs = (both, both[::-1], ("data",), (None, "model"), (both,), (None, both[::-1]), ())
    for mesh, several in [*one_axis, *((grid, specs) for grid in grids)]:
        for spec in several:
            yield mesh, PartitionSpec(*spec), 2
            if len(spec) <= 1:
                yield mesh, PartitionSpec(*spec), 1
            else:
                yield mesh, PartitionSpec(None, *spec), 3


def _block(matrix: Array, mesh: Mesh, spec: PartitionSpec, at: tuple[int, ...]) -> Array:
    """The block of the device at mesh coordinates `at`. If axes share a dimension, the leftmost varies slowest."""
    where = dict(zip(mesh.axis_names, at, strict=True))
    for dimension, entry in enumerate(spec):
        number, count = 0, 1
        for axis in () if entry is None else (entry,) if isinstance(entry, str) else entry:
            number, count = number * mesh.shape[axis] + where[axis], count * mesh.shape[axis]
        matrix = np.split(matrix, count, axis=dimension)[number]
    return matrix


@law("copies.host_buffer")
def test_host_buffer(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Overwrites host buffers after `jnp.array`, which must have copied them, and `device_put`, which may share them.

    `device_put` shares some buffers (on CPU those that are 64-byte aligned), which JAX does not document. The report
    calls that a hazard for callers that reuse a buffer, not a fault of the machine.
    """
    followed: collections.Counter[str] = collections.Counter()
    size, tries = 4_099, 4
    for offset, device, _ in itertools.product((0, 4), devices, range(tries)):
        old, new = words(rng, size), words(rng, size)
        buffer = aligned(old, offset)
        private = jnp.array(buffer, device=device)
        placed = jax.block_until_ready(jax.device_put(buffer, device))
        buffer[:] = new
        got = np.array(placed)
        check_copy(check, f"what jnp.array copied of a buffer that changes, offset {offset}", np.asarray(private), old)
        changed = bool((got == new).all())
        # The device must have either the old words or the new ones, never a mixture.
        want = new if changed else old
        check_copy(check, f"what {device} holds of a buffer that changes, offset {offset}", got, want)
        followed["64-byte aligned" if offset == 0 else "not aligned"] += changed
    total = tries * len(devices)
    if any(followed.values()):
        counts = ", ".join(f"{count} of {total} {key}" for key, count in followed.items())
        check.facts["hazard"] = f"device_put keeps the caller's buffer: writing to it changes the device ({counts})"
    check.facts["followed"] = {key: count / total for key, count in followed.items()}


@law("copies.trainer_is_immune")
def test_trainer_is_immune(check: Check, rng: np.random.Generator, subject: TrainerUnderTest, n: int) -> None:
    """Overwrites the trainer's input buffers, which `device_put` may share, and compares with an undisturbed run."""
    case, params, _ = draw_case(subject, rng)
    batches = [batch_of(case, rng) for _ in range(3)]
    single = {name: leaf.astype(np.float32) for name, leaf in params.items()}
    with precision(case):
        subject.start(case, {name: leaf.copy() for name, leaf in single.items()}, n)
        clean_losses = [subject.step(HostBatch(*map(np.copy, batch))).loss for batch in batches]
        clean_end = {name: np.array(leaf, np.float64) for name, leaf in subject.params().items()}
        inputs = {name: aligned(leaf) for name, leaf in single.items()}
        buffers = HostBatch._make(map(aligned, batches[0]))
        losses = []
        subject.start(case, inputs, n)
        for name, leaf in inputs.items():
            check.equal(f"{name} after start, which must not write to it", leaf, single[name])
            leaf[...] = 3.0
        for number, batch in enumerate(batches):
            for buffer, leaf in zip(buffers, batch, strict=True):
                buffer[...] = leaf
            losses.append(subject.step(buffers).loss)
            for field, buffer, leaf in zip(HostBatch._fields, buffers, batch, strict=True):
                check.equal(f"{field} after step {number}, which must not write to it", buffer, leaf, control=leaf + 1)
                buffer[...] = 1
            if number == 1:
                early = subject.params()
                copies = {name: np.array(leaf) for name, leaf in early.items()}
        end = subject.params()
    for name, leaf in early.items():
        check.equal(f"{name} as params() gave it, one update later", np.asarray(leaf), copies[name])
    whats = "loss of the first update with buffers that are written again", "with buffers that are written again,"
    check_same_run(check, whats, case, params, batches, (losses[0], end), (clean_losses[0], clean_end))


def aligned(values: Array, offset: int = 0) -> Array:
    """A copy whose memory starts `offset` bytes after a multiple of 64."""
    room = np.empty(values.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy
