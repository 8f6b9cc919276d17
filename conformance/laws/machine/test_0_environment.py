"""Rung 0: installed packages fit together, and each device runs small programs correctly."""

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...core.check import Check
from ...core.comparison import EXACT, Bound
from ...core.result import MISMATCH
from ...core.settings import Settings
from ...machine.meshes import FLOATS
from ...machine.snapshot import capability, is_kind, platform_names, static
from ...machine.versions import BROKEN, conflicts, plugins
from ..support.families import added
from ..support.running import at_level, law
from .test_5_random import bits_of, pair, uniform_of

# Variables that decide which devices JAX sees. A failure message shows the values of those that are set.
VARIABLES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
             "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")  # fmt: skip
# A loose bound: bfloat16 and TF32 pass, a wrong function fails. float32 errs by < 0.001 of it. Rung 3 checks accuracy.
ROUGH = Bound(2.0**-6, 2.0**-24, "four roundings of bfloat16, 2^-8 each")
# (M, K, N) of BERT-base's products [M, K] @ [K, N]; each is also run on transposed operands, as in the backward pass.
MATMULS = {"quick": ((128, 768, 768), (128, 768, 3072)), "standard": ((128, 3072, 768), (2048, 64, 128))}


@law("environment.versions")
def test_versions(check: Check) -> None:
    """Compares the versions of installed distributions and of imported modules."""
    import jaxlib

    versions = static()["versions"]
    check.facts["versions"] = versions
    for module in (jax, jaxlib):
        name = module.__name__
        check.same(f"version of the imported {name} ({module.__file__})", module.__version__, versions.get(name))
    found = conflicts(versions, jax.version._minimum_jaxlib_version)
    check.facts["mismatches"] = [each.what for each in found if each.level != BROKEN]
    check.same("parts that do not go together", [each.what for each in found if each.level == BROKEN], [])


def names_of(device: Any) -> list[str]:
    """Names of a device's platform, the most specific one last."""
    return platform_names(device.platform, str(device.client.platform_version))


@law("environment.platform")
def test_platform(check: Check, settings: Settings) -> None:
    """Compares the platform of arrays made in four ways with the requested platform."""
    under = "".join(f", {name}={os.environ[name]}" for name in VARIABLES if name in os.environ)
    try:
        first = jax.devices()[0]
    except RuntimeError as error:
        check.same(f"platform{under}", f"none: {error}", settings.platform or "any")
        raise
    names = names_of(first)
    check.facts |= {"platform": names[-1], "kind": first.device_kind, "runtime": str(first.client.platform_version)}
    unused = plugins(static()["versions"]) if names == ["cpu"] else {}
    if unused:
        check.facts["unused"] = unused
        under += f"; installed but not in use: {', '.join(unused)}"
    if settings.expect is not None:
        _, count, kind = settings.expectation
        here = jax.devices()
        option = f"--expect {settings.expect}{under}"
        check.same(f"number of devices, {option}", len(here), count or len(here))
        others = [" ".join(filter(None, (names_of(device)[-1], device.device_kind, capability(device))))
                  for device in here if not is_kind(device, kind)]  # fmt: skip
        check.same(f"devices of another kind, {option}", others, [])
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
            names = names_of(device)
            check.same(f"platform of {how}{under}", wanted if wanted in names else names[-1], wanted)


@law("environment.devices")
def test_devices(check: Check, devices: list[Any], settings: Settings) -> None:
    """Counts the devices, compares their kinds, and runs a program on each."""
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
        # Expected from the values that arrived on the device: rung 1 checks the copy itself.
        x = np.asarray(placed)
        check.equal(f"3 x + 1 on {device}", np.asarray(result), 3 * x + 1, control=x)


def families(rng: np.random.Generator) -> dict[str, tuple[Callable[..., Any], Callable[..., Any], list[Any], Bound]]:
    """Family of kernels that BERT uses -> a JAX function, the NumPy function, their arguments, and the bound.

    Products of 48 terms of integers up to 16 are exact at any matmul precision, also in bfloat16.
    """
    small = [rng.integers(-16, 17, shape).astype(np.float32) for shape in ((33, 48), (48, 20))]
    values = rng.normal(0, 1.5, (33, 48)).astype(np.float32)
    words = rng.integers(-(2**31), 2**31, (64, 5)).astype(np.int32)
    rows = rng.integers(0, 64, 100).astype(np.int32)
    seed, shape = int(rng.integers(2**31)), (257,)
    # The generator is named, since JAX_DEFAULT_PRNG_IMPL changes the default one.
    threefry = functools.partial(jax.random.key, impl="threefry2x32")

    def remainder(pair: Any) -> Any:
        a, b = pair
        return jnp.where(b > 0, b, a), jnp.where(b > 0, a % jnp.maximum(b, 1), b)

    def euclid(*pair: Any) -> Any:
        return lax.while_loop(lambda pair: (pair[1] > 0).any(), remainder, pair)[0]

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
            lambda s: jax.random.bits(threefry(s), shape, np.uint32), lambda s: bits_of(pair(s), shape), [seed], EXACT,
        ),
        "uniform": (
            lambda s: jax.random.uniform(threefry(s), shape, np.float32),
            lambda s: uniform_of(bits_of(pair(s), shape)), [seed], EXACT,
        ),
        "while loop": (euclid, np.gcd, pairs, EXACT),
        "convert": (lambda x: x.astype(half).astype(jnp.float32), lambda x: x.astype(half).astype(x.dtype), [values],
                    EXACT),
    }  # fmt: skip


def _mixed(xp: Any) -> Callable[[Any], Any]:
    """A function of x: the sum of BERT's elementwise functions, all of similar size, by `xp` (`jnp` or `np`)."""
    return lambda x: xp.tanh(x) + xp.exp(-x * x) + xp.log1p(abs(x)) + 1 / xp.sqrt(1 + x * x)


# Families that are one jitted program in eager code too; it would only be compiled twice.
JITTED = ("random bits", "uniform")


@law("environment.kernels")
def test_kernels(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Compares each family, eager and jitted, with NumPy; from level standard on, also all in one program a device."""
    kernels = families(rng)
    arguments = {name: family[2] for name, family in kernels.items()}
    want = {name: np.asarray(numpys(*args)) for name, (_, numpys, args, _) in kernels.items()}

    def compare(how: str, name: str, got: Any) -> None:
        bound = kernels[name][3]
        if bound is EXACT:
            check.equal(f"{name}, {how}", np.asarray(got), want[name])
        else:
            check.close(f"{name}, {how}", np.asarray(got), want[name], bound)

    for name, (ours, _, args, _) in kernels.items():
        placed = jax.device_put(args, devices[0])
        if check.at("standard") or name not in JITTED:
            compare(f"eager, on {devices[0]}", name, ours(*placed))
        compare(f"jitted, on {devices[0]}", name, jax.jit(ours)(*placed))
    if check.at("standard"):
        every = jax.jit(lambda arguments: {name: kernels[name][0](*arguments[name]) for name in kernels})
        for device in devices[1:]:
            for name, got in every(jax.device_put(arguments, device)).items():
                compare(f"among others, on {device}", name, got)


@contextlib.contextmanager
def stderr_lines() -> Iterator[list[str]]:
    """Yield a list that has, after the block, the lines that Python and C++ wrote to stderr in it; then print them."""
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


@law("environment.messages")
def test_messages(check: Check, rng: np.random.Generator, devices: list[Any]) -> None:
    """Compiles matmuls, compares their integer results, and looks on stderr for XLA's report that kernels disagree."""
    log_level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")
    check.need(log_level in ("0", "1", "2"), f"TF_CPP_MIN_LOG_LEVEL={log_level} hides XLA's errors")
    with stderr_lines() as lines:
        for rows, inner, columns in at_level(check, MATMULS):
            for dtype in FLOATS if check.at("standard") else FLOATS[:2]:
                # Integers up to 2 in absolute value: sums of their products are exact in float32, in any order.
                a = rng.integers(-2, 3, (rows, inner)).astype(dtype)
                b = rng.integers(-2, 3, (inner, columns)).astype(dtype)
                for how, turn in (("", lambda x: x), (" transposed", lambda x: x.T)):
                    placed = jax.device_put((turn(a), turn(b)), devices[0])
                    got = jax.jit(lambda a, b, turn=turn: _product(turn(a), turn(b)))(*placed)
                    # Expected from the values that arrived on the device: rung 1 checks the copy itself.
                    left, right = (turn(np.asarray(x, np.float32)) for x in placed)
                    check.equal(f"{rows} x {inner} x {columns} {dtype}{how}", np.asarray(got), left @ right)
    check.facts["lines"] = len(lines)
    check.same(f"lines on stderr that say {MISMATCH!r}", [line for line in lines if MISMATCH in line], [])


def _product(a: Any, b: Any) -> Any:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)
