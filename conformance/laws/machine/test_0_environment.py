"""Rung 0: what is installed belongs together, and what is asked of a device is computed on it."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ...core.check import Check
from ...core.comparison import EXACT, Bound
from ...core.meshes import FLOATS
from ...core.result import MISMATCH
from ...core.settings import Settings
from ...machine.snapshot import platform_names, static
from ...machine.versions import plugins, unpaired
from ...oracle.masks import threefry_2x32

# What decides which devices JAX sees; a failure names those that are set.
VARIABLES = (
    "JAX_PLATFORMS",
    "JAX_PLATFORM_NAME",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
)


@pytest.mark.law("environment.versions")
def test_versions(check: Check) -> None:
    """The distributions that are installed, and the modules that were imported, are of releases that go together."""
    import jaxlib

    versions = static()["versions"]
    check.facts["versions"] = versions
    for module in (jax, jaxlib):
        name = module.__name__
        check.same(f"version of the imported {name} ({module.__file__})", module.__version__, versions.get(name))
    check.same("parts that do not go together", unpaired(versions, jax.version._minimum_jaxlib_version), [])


def names_of(device: Any) -> list[str]:
    """What a device's platform is called, the most exact name last."""
    return platform_names(device.platform, str(device.client.platform_version))


@pytest.mark.law("environment.platform")
def test_platform(check: Check, settings: Settings) -> None:
    """The platform asked for is the one on which arrays live, whichever way they were made."""
    given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    under = "".join(f", {name}={value}" for name, value in given.items())
    try:
        first = jax.devices()[0]
    except RuntimeError as error:
        check.same(f"platform{under}", f"none: {error}", settings.platform or "any")
        raise
    names = names_of(first)
    check.facts |= {"platform": names[-1], "kind": first.device_kind, "runtime": str(first.client.platform_version)}
    unused = plugins(static()["versions"]) if names == ["cpu"] else []
    if unused:
        check.facts["unused"] = unused
        under += f"; installed but not in use: {', '.join(unused)}"
    if settings.expect is not None:
        _, count, kind = settings.expectation
        here = [f"{names_of(device)[-1]} {device.device_kind}" for device in jax.devices()]
        said = f"--expect {settings.expect}{under}"
        check.same(f"number of devices, {said}", len(here), count or len(here))
        others = [found for found in here if kind.lower() not in found.lower()]
        check.same(f"devices of another kind, {said}", others, [])
    wanted = settings.platform or names[-1]
    host = np.arange(3, dtype=np.int32)
    arrays = {
        "device_put": jax.device_put(host),
        "an eager operation": jnp.asarray(host) + 1,
        "a jitted function": jax.jit(lambda x: x * 3)(host),
        "jax.random": jax.random.bits(jax.random.key(0), (3,)),
    }
    for how, array in arrays.items():
        for device in array.devices():
            found = names_of(device)
            check.same(f"platform of {how}{under}", wanted if wanted in found else found[-1], wanted)


@pytest.mark.law("environment.devices")
def test_devices(check: Check, devices: list[Any], settings: Settings) -> None:
    """As many devices as asked for, each its own, all alike; each computes what it is given, and keeps it."""
    check.facts["devices"] = [str(device) for device in devices]
    if settings.devices is not None:
        check.same("number of devices", len(devices), settings.devices)
    check.same("number of distinct devices", len({device.id for device in devices}), len(devices))
    kinds = sorted({f"{names_of(device)[-1]} {device.device_kind}" for device in devices})
    check.same("kinds of device", kinds, kinds[:1])
    triple = jax.jit(lambda x: 3 * x + 1)
    for place, device in enumerate(devices):
        placed = jax.device_put(np.arange(place, place + 64, dtype=np.int32), device)
        result = triple(placed)
        check.same(f"where {device} left its result", result.devices(), {device})
        # From what arrived there: whether it is what was sent is for rung 1 to say.
        given = np.asarray(placed)
        check.equal(f"3 x + 1 on {device}", np.asarray(result), 3 * given + 1, control=given)


# A kernel that computes in bfloat16 or TF32 passes, the wrong function does not: how accurate it is, rung 3 asks. So a
# margin far below 0.001 is expected of float32.
ROUGH = Bound(2.0**-6, 2.0**-24, "four roundings of bfloat16, 2^-8 each")


def random_bits(key: int, size: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """What `jax.random.bits` gives for `key(key)`: the exclusive or of both words, at counter (0, i)."""
    counter = np.zeros(size, np.uint32), np.arange(size, dtype=np.uint32)
    x, y = threefry_2x32((np.array(0, np.uint32), np.array(key, np.uint32)), counter)
    return x ^ y


def families(rng: np.random.Generator) -> dict[str, tuple[Callable[..., Any], Callable[..., Any], list[Any], Bound]]:
    """One kernel of each family that BERT uses: JAX's, NumPy's, their arguments, the bound.

    Integers of at most 16 in 48-term products are exact at any matmul precision, bfloat16 included.
    """
    small = [rng.integers(-16, 17, shape).astype(np.float32) for shape in ((33, 48), (48, 20))]
    values = rng.normal(0, 1.5, (33, 48)).astype(np.float32)
    words = rng.integers(-(2**31), 2**31, (64, 5)).astype(np.int32)
    rows = rng.integers(0, 64, 100).astype(np.int32)
    seed = int(rng.integers(2**31))

    def threefry(seed: Any) -> Any:
        # Whatever JAX_DEFAULT_PRNG_IMPL says.
        return jax.random.key(seed, impl="threefry2x32")

    def euclid(a: Any, b: Any) -> Any:
        return lax.while_loop(lambda c: (c[1] > 0).any(), lambda c: _remainder(jnp, *c), (a, b))[0]

    def added(table: Any, index: Any, updates: Any) -> Any:
        result = np.array(table)
        np.add.at(result, index, updates)
        return result

    pairs = [rng.integers(1, 10_000, 50).astype(np.int32) for _ in range(2)]
    updates = words[rows[::-1]]
    half = FLOATS[1]
    return {
        "matmul": (jnp.matmul, np.matmul, small, EXACT),
        "reduction": (lambda x: jnp.sum(x, 1), lambda x: x.sum(1), small[:1], EXACT),
        "elementwise": (_mixed(jnp), _mixed(np), [values], ROUGH),
        "gather": (lambda t, i: t[i], lambda t, i: t[i], [words, rows], EXACT),
        "scatter-add": (lambda t, i, u: t.at[i].add(u), added, [words, rows, updates], EXACT),
        "sort": (lambda x: jnp.sort(x, 0), lambda x: np.sort(x, 0), [words], EXACT),
        "random bits": (
            lambda s: jax.random.bits(threefry(s), (257,), np.uint32), lambda s: random_bits(s, 257), [seed], EXACT,
        ),
        "uniform": (
            lambda s: jax.random.uniform(threefry(s), (257,), np.float32),
            lambda s: (random_bits(s, 257) >> np.uint32(9)).astype(np.float32) * np.float32(2**-23), [seed], EXACT,
        ),
        "while loop": (euclid, np.gcd, pairs, EXACT),
        "convert": (lambda x: x.astype(half).astype(jnp.float32), lambda x: x.astype(half).astype(x.dtype), [values],
                    EXACT),
    }  # fmt: skip


def _remainder(xp: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """One step of Euclid's algorithm where it has not ended."""
    return xp.where(b > 0, b, a), xp.where(b > 0, a % xp.maximum(b, 1), b)


def _mixed(xp: Any) -> Callable[[Any], Any]:
    """The functions of BERT's activations, none of them lost in the sum."""
    return lambda x: xp.tanh(x) + xp.exp(-x * x) + xp.log1p(abs(x)) + 1 / xp.sqrt(1 + x * x)


@pytest.mark.law("environment.kernels")
def test_kernels(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Each family, eager and jitted, is what NumPy computes; all of them in one program on every device."""
    found = families(rng)
    given = {name: family[2] for name, family in found.items()}
    want = {name: np.asarray(numpys(*given[name])) for name, (_, numpys, _, _) in found.items()}

    def compare(how: str, name: str, got: Any) -> None:
        bound = found[name][3]
        if bound is EXACT:
            check.equal(f"{name}, {how}", np.asarray(got), want[name])
        else:
            check.close(f"{name}, {how}", np.asarray(got), want[name], bound)

    for name, (ours, _, _, _) in found.items():
        placed = jax.device_put(given[name], devices[0])
        compare(f"eager, on {devices[0]}", name, ours(*placed))
        compare(f"jitted, on {devices[0]}", name, jax.jit(ours)(*placed))
    if check.at("standard"):
        every = jax.jit(lambda arguments: {name: found[name][0](*arguments[name]) for name in found})
        for device in devices[1:]:
            for name, got in every(jax.device_put(given, device)).items():
                compare(f"among others, on {device}", name, got)


@contextlib.contextmanager
def stderr_lines() -> Iterator[list[str]]:
    """Everything that this process, its C++ included, writes to stderr meanwhile; handed on to stderr afterwards."""
    lines: list[str] = []
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            text = file.read()
            lines += text.decode(errors="replace").splitlines()
            if text:
                os.write(2, text)


@pytest.mark.law("environment.messages")
def test_messages(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """XLA compares the kernels it chooses among; that it found none that disagree is read from what it says."""
    silent = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")
    check.need(silent in ("0", "1", "2"), f"TF_CPP_MIN_LOG_LEVEL={silent} hides XLA's errors")
    # Shapes of BERT-base: projections, feed-forward, attention; forward, and transposed as in the backward pass.
    shapes = [(128, 768, 768), (128, 768, 3072)]
    if check.at("standard"):
        shapes += [(128, 3072, 768), (2048, 64, 128)]
    with stderr_lines() as lines:
        for rows, inner, columns in shapes:
            for dtype in FLOATS if check.at("standard") else FLOATS[:2]:
                # Sums of products of integers up to 2 in absolute value: exact in float32, whatever the order.
                a = rng.integers(-2, 3, (rows, inner)).astype(dtype)
                b = rng.integers(-2, 3, (inner, columns)).astype(dtype)
                for transposed in (False, True):
                    product = _product_of_transposed if transposed else _product
                    placed = jax.device_put((a.T, b.T) if transposed else (a, b), devices[0])
                    got = jax.jit(product)(*placed)
                    # From what arrived there: whether it is what was sent is for rung 1 to say.
                    left, right = (np.asarray(x, np.float32) for x in placed)
                    want = left.T @ right.T if transposed else left @ right
                    how = " transposed" if transposed else ""
                    check.equal(f"{rows} x {inner} x {columns} {dtype}{how}", np.asarray(got), want)
    check.facts["lines"] = len(lines)
    check.same(f"lines on stderr that say {MISMATCH!r}", [line for line in lines if MISMATCH in line], [])


def _product(a: Any, b: Any) -> Any:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _product_of_transposed(a: Any, b: Any) -> Any:
    return jnp.matmul(a.T, b.T, preferred_element_type=jnp.float32)
