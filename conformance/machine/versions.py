"""Versions of distributions -> conflicts between jax, jaxlib and the accelerator plugins, without importing JAX.

JAX ignores a plugin of another release, with a warning or, for ROCm, without a warning. JAX then runs on the CPU, or on
a backend that lists its devices but lacks kernels.
"""

import re
from collections.abc import Mapping

# jax-cuda12-plugin, jax-cuda13-pjrt, jax-rocm7-plugin, jax-oneapi-plugin ...
PLUGIN = re.compile(r"jax-[a-z]+[0-9]*-(plugin|pjrt)")


def plugins(versions: Mapping[str, str]) -> dict[str, str]:
    """The accelerator plugins among installed packages, with their versions, by normalised name."""
    return {name: version for name, version in versions.items() if PLUGIN.fullmatch(name)}


def release(version: str) -> tuple[int, ...]:
    """The numbers that two packages must share: 0.9.2.post1 and 0.9.2+rocm7 are of release 0.9.2."""
    match = re.match(r"[0-9]+(\.[0-9]+)*", version)
    if match is None:
        raise ValueError(f"version {version!r} does not begin with a number")
    numbers = [int(word) for word in match.group().split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def unpaired(versions: Mapping[str, str], least_jaxlib: str) -> list[str]:
    """The conflicts between these versions by jax's own requirements, one sentence each.

    Without a plugin, jaxlib may be older than jax, down to `least_jaxlib`. With a plugin, jax, jaxlib and plugins must
    be of one release: jax 0.12.0.1 requires jaxlib 0.12.0.1 and jax-rocm7-plugin 0.12.0.1.*.
    """
    jax, jaxlib = versions["jax"], versions["jaxlib"]
    conflicts = []
    if not release(least_jaxlib) <= release(jaxlib) <= release(jax):
        conflicts.append(f"jaxlib {jaxlib} does not match jax {jax}, which needs jaxlib {least_jaxlib} to {jax}")
    elif plugins(versions) and release(jaxlib) != release(jax):
        conflicts.append(f"jaxlib {jaxlib} and jax {jax} must be of one release with {', '.join(plugins(versions))}")
    conflicts += [
        f"{name} {version} does not match jaxlib {jaxlib}"
        for name, version in plugins(versions).items()
        if release(version) != release(jaxlib)
    ]
    return conflicts
