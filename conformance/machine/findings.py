"""Facts of a machine -> problems, why they matter, and the next command, before JAX is imported.

The texts of the problems are in `findings.toml`, their conditions in this file.
"""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .host import TOOL_FAILURES
from .versions import plugins, unpaired

TEXTS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("findings.toml").read_text(encoding="utf-8"))
LEVELS = ("broken", "risk", "note")
# By vendor: JAX's names for its platforms, the extra of JAX that installs its plugin, and the names of its plugins.
PLATFORMS = {"amd": ("rocm", "gpu"), "nvidia": ("cuda", "gpu"), "google": ("tpu",)}
EXTRAS = {"amd": "rocm7-local", "nvidia": "cuda13", "google": "tpu"}
PLUGINS = {"amd": re.compile(r"jax-rocm(\d+)-.*"), "nvidia": re.compile(r"jax-cuda(\d+)-.*"),
           "google": re.compile(r"libtpu.*")}  # fmt: skip
LOAD = {"amd": "sudo modprobe amdgpu", "nvidia": "sudo modprobe nvidia && sudo nvidia-modprobe -u",
        "google": "start a TPU VM image"}  # fmt: skip
MODULE = {"amd": "amdgpu", "nvidia": "nvidia", "google": "TPU"}
START = {"amd": "docker run --device=/dev/kfd --device=/dev/dri --group-add video --group-add render ...",
         "nvidia": "docker run --gpus all ...; outside of one: sudo nvidia-modprobe -u",
         "google": "docker run --privileged ..."}  # fmt: skip
# Required device files; one file of each kind is enough.
NEEDED = {"amd": ("/dev/kfd", "/dev/dri/renderD"), "nvidia": ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"),
          "google": ()}  # fmt: skip
# The oldest driver for each major version of CUDA, from JAX's installation page.
LEAST_DRIVER = {"12": 525, "13": 580}
HIDING = {"amd": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
          "nvidia": ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"), "google": ()}  # fmt: skip
NOTHING = ("", "-1", "none", "void", "NoDevFiles")
LEAST_SHM = 1 << 30


@dataclass(frozen=True)
class Finding:
    """A problem of this machine."""

    id: str  # its entry in `findings.toml`
    level: str  # one of `LEVELS`
    what: str  # the problem
    why: str  # why it matters
    next: str  # what to do
    source: str  # a link to its documentation


def _finding(id: str, /, **words: Any) -> Finding:
    texts = {key: text.format(**words) if key in ("what", "next") else text for key, text in TEXTS[id].items()}
    return Finding(id=id, **texts)


def findings(facts: Mapping[str, Any], versions: Mapping[str, str], variables: Mapping[str, str]) -> list[Finding]:
    """The problems of a machine with these `host.facts`, installed versions and variables, the worst first."""
    problems = [*_devices(facts), *_software(facts, versions), *_variables(facts, variables), *_system(facts)]
    return sorted(problems, key=lambda finding: LEVELS.index(finding.level))


def present(facts: Mapping[str, Any]) -> dict[str, int]:
    """Vendor -> number of its accelerators on the PCI bus or, if that shows none, of their device files."""
    counts: dict[str, int] = {}
    for vendor, files in facts["device_files"].items():
        on_bus = sum(device["vendor"] == vendor for device in facts["accelerators"])
        # A TPU virtual machine shows its chips as files only; so does a container without /sys.
        single = [f for f in files if re.search(r"renderD\d+|nvidia\d+|accel\d+|vfio/\d+", f["path"])]
        counts[vendor] = on_bus or (len(single) if vendor != "amd" or any("kfd" in f["path"] for f in files) else 0)
    return {vendor: count for vendor, count in counts.items() if count}


def _devices(facts: Mapping[str, Any]) -> Iterator[Finding]:
    for vendor, count in present(facts).items():
        files = facts["device_files"][vendor]
        if vendor not in facts["drivers"] and not files and vendor != "google":
            yield _finding("driver-missing", vendor=vendor, count=count, module=MODULE[vendor], load=LOAD[vendor])
            continue
        missing = [path for path in NEEDED[vendor] if not any(f["path"].startswith(path) for f in files)]
        if missing:
            yield _finding("device-files-missing", vendor=vendor, paths=" or ".join(missing), start=START[vendor])
        for file in files:
            if not file["usable"]:
                join = f"sudo usermod -a -G {file['group']} $LOGNAME, and log in again"
                join = f"docker run --group-add {file['gid']} ..." if facts["container"] else join
                yield _finding("device-permission", **file, join=join)
                break  # the others have the same mode


def _software(facts: Mapping[str, Any], versions: Mapping[str, str]) -> Iterator[Finding]:
    installed = {vendor: sorted(name for name in versions if pattern.fullmatch(name))
                 for vendor, pattern in PLUGINS.items()}  # fmt: skip
    devices = present(facts)
    for vendor, names in installed.items():
        if vendor in devices and not names:
            yield _finding("plugin-missing", vendor=vendor, extra=EXTRAS[vendor], jax=versions.get("jax", "(none)"))
        if names and vendor not in devices:
            yield _finding("plugin-without-device", plugin=names[0], vendor=vendor)
    kinds = {match.group() for name in plugins(versions) if (match := re.match(r"jax-[a-z]+\d*", name))}
    if len(kinds) > 1:
        yield _finding("two-plugins", plugins=", ".join(sorted(plugins(versions))))
    if {"jax", "jaxlib"} <= versions.keys():
        for conflict in unpaired(versions, least_jaxlib(versions["jax"])):
            yield _finding("versions", conflict=conflict)
    yield from _runtimes(facts, installed)


def _runtimes(facts: Mapping[str, Any], installed: Mapping[str, list[str]]) -> Iterator[Finding]:
    rocm = facts["runtimes"].get("rocm")
    for name in installed["amd"]:
        major = PLUGINS["amd"].fullmatch(name).group(1)  # type: ignore[union-attr]
        if rocm and rocm.split(".")[0] != major:
            other = f"jax-rocm{rocm.split('.')[0]}-plugin"
            yield _finding("runtime-version", plugin=name, needs=f"ROCm {major}", found=f"ROCm {rocm}", other=other)
            break
    driver = re.search(r"\b(\d{3})\.\d+", facts["drivers"].get("nvidia") or "")
    for name in installed["nvidia"]:
        major = PLUGINS["nvidia"].fullmatch(name).group(1)  # type: ignore[union-attr]
        least = LEAST_DRIVER.get(major)
        if driver and least and int(driver.group(1)) < least:
            others = [version for version, needs in LEAST_DRIVER.items() if needs <= int(driver.group(1))]
            other = f"jax-cuda{others[-1]}-plugin" if others else "none is old enough"
            needs, current = f"driver {least} or newer", f"driver {driver.group()}"
            yield _finding("runtime-version", plugin=name, needs=needs, found=current, other=other)
            break


def least_jaxlib(jax: str) -> str:
    """The oldest jaxlib that this version of jax accepts, by its own requirements; "0" if that is not known."""
    if importlib.metadata.version("jax") != jax:
        return "0"
    for text in importlib.metadata.requires("jax") or []:
        match = re.match(r"jaxlib\b[^;]*>=\s*([0-9.]+)", text)
        if match and "extra" not in text:
            return match.group(1)
    return "0"


def _variables(facts: Mapping[str, Any], variables: Mapping[str, str]) -> Iterator[Finding]:
    platforms = variables.get("JAX_PLATFORMS")
    for vendor in present(facts):
        for name in HIDING[vendor]:
            if variables.get(name, "0").strip() in NOTHING:
                yield _finding("hidden-devices", name=name, value=variables[name])
        if platforms and not set(platforms.split(",")) & set(PLATFORMS[vendor]):
            yield _finding("platforms-variable", value=platforms, vendor=vendor, platform=PLATFORMS[vendor][0])
    override = variables.get("HSA_OVERRIDE_GFX_VERSION")
    if override:
        yield _finding("gfx-override", value=override)
    path = variables.get("LD_LIBRARY_PATH", "")
    if "cuda" in path.lower() and "nvidia" in present(facts):
        yield _finding("library-path", value=path)
    if variables.get("XLA_FLAGS", "").strip():
        yield _finding("flags", value=variables["XLA_FLAGS"])


def _system(facts: Mapping[str, Any]) -> Iterator[Finding]:
    count = sum(present(facts).values())
    size = facts["shm_bytes"]
    if count > 1 and size is not None and size < LEAST_SHM:
        yield _finding("shared-memory", size=f"{size / 2**20:.0f} MiB", count=count)
    words = [word for word in facts["kernel_words"] if "iommu" in word]
    on = [word for word in words if word.endswith("=on")]
    if count > 1 and on and "iommu=pt" not in words:
        yield _finding("iommu", count=count, words=" ".join(words))
    for tool, lines in facts["tools"].items():
        answer = lines[0] if lines else "no output"
        if answer.startswith(("no output", *TOOL_FAILURES)):
            yield _finding("tool-silent", tool=tool, answer=answer)
