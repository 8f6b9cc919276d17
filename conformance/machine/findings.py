"""Facts of a machine -> what is wrong with it, why that matters, and the next command; before JAX is imported.

The texts are in `findings.toml`; here are the conditions.
"""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .versions import plugins, unpaired

LEVELS = ("broken", "risk", "note")
# Vendor -> how JAX calls its platforms, the extra that installs its plugin, and its plugin's name.
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
# The files without which nothing works; of the others one of a kind will do.
NEEDED = {"amd": ("/dev/kfd", "/dev/dri/renderD"), "nvidia": ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"),
          "google": ()}  # fmt: skip
# The least driver for each major version of CUDA, as JAX's installation page has them.
LEAST_DRIVER = {"12": 525, "13": 580}
HIDING = {
    "amd": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
    "nvidia": ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
    "google": (),
}
NOTHING = ("", "-1", "none", "void", "NoDevFiles")
LEAST_SHM = 1 << 30


@dataclass(frozen=True)
class Finding:
    """Something about this machine that a person should know.

    Attributes:
        id: its entry in `findings.toml`.
        level: one of `LEVELS`.
        what: was found.
        why: it matters.
        next: what to do.
        source: where that is said.
    """

    id: str
    level: str
    what: str
    why: str
    next: str
    source: str

    def to_json(self) -> dict[str, str]:
        """For a report."""
        return asdict(self)


@cache
def _texts() -> dict[str, dict[str, str]]:
    return tomllib.loads((Path(__file__).parent / "findings.toml").read_text(encoding="utf-8"))


def _found(finding: str, /, **words: Any) -> Finding:
    text = _texts()[finding]
    filled = {key: text[key].format(**words) if key in ("what", "next") else text[key] for key in text}
    return Finding(id=finding, **filled)


def findings(facts: Mapping[str, Any], versions: Mapping[str, str], variables: Mapping[str, str]) -> list[Finding]:
    """What is wrong, the worst first.

    Args:
        facts: of `host.facts`.
        versions: of the distributions that are installed.
        variables: of the environment.
    """
    found = [*_devices(facts), *_software(facts, versions), *_variables(facts, variables), *_system(facts)]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def present(facts: Mapping[str, Any]) -> dict[str, int]:
    """Vendor -> how many of its accelerators are here: on the bus, or by their files where no bus is shown."""
    counts: dict[str, int] = {}
    for vendor, files in facts["device_files"].items():
        on_bus = sum(device["vendor"] == vendor for device in facts["accelerators"])
        # A virtual machine for TPUs shows its chips as files; so does a container without /sys.
        single = [f for f in files if re.search(r"renderD\d+|nvidia\d+|accel\d+|vfio/\d+", f["path"])]
        counts[vendor] = on_bus or (len(single) if vendor != "amd" or any("kfd" in f["path"] for f in files) else 0)
    return {vendor: count for vendor, count in counts.items() if count}


def _devices(facts: Mapping[str, Any]) -> Iterator[Finding]:
    for vendor, count in present(facts).items():
        files = facts["device_files"][vendor]
        if vendor not in facts["drivers"] and not files and vendor != "google":
            yield _found("driver-missing", vendor=vendor, count=count, module=MODULE[vendor], load=LOAD[vendor])
            continue
        missing = [path for path in NEEDED[vendor] if not any(f["path"].startswith(path) for f in files)]
        if missing:
            yield _found("device-files-missing", vendor=vendor, paths=" or ".join(missing), start=START[vendor])
        for file in files:
            if not file["usable"]:
                yield _found("device-permission", **file, join=_join(facts, file))
                break  # the others are alike


def _join(facts: Mapping[str, Any], file: Mapping[str, Any]) -> str:
    if facts["container"]:
        return f"docker run --group-add {file['gid']} ..."
    return f"sudo usermod -a -G {file['group']} $LOGNAME, and log in again"


def _software(facts: Mapping[str, Any], versions: Mapping[str, str]) -> Iterator[Finding]:
    installed = {vendor: sorted(name for name in versions if pattern.fullmatch(name))
                 for vendor, pattern in PLUGINS.items()}  # fmt: skip
    here = present(facts)
    for vendor, names in installed.items():
        if vendor in here and not names:
            yield _found("plugin-missing", vendor=vendor, extra=EXTRAS[vendor], jax=versions.get("jax", "(none)"))
        if names and vendor not in here:
            yield _found("plugin-without-device", plugin=names[0], vendor=vendor)
    kinds = {match.group() for name in plugins(versions) if (match := re.match(r"jax-[a-z]+\d*", name))}
    if len(kinds) > 1:
        yield _found("two-plugins", plugins=", ".join(sorted(plugins(versions))))
    if {"jax", "jaxlib"} <= versions.keys():
        for odd in unpaired(versions, least_jaxlib(versions["jax"])):
            yield _found("versions", odd=odd)
    yield from _runtimes(facts, installed)


def _runtimes(facts: Mapping[str, Any], installed: Mapping[str, list[str]]) -> Iterator[Finding]:
    rocm = facts["runtimes"].get("rocm")
    for name in installed["amd"]:
        major = PLUGINS["amd"].fullmatch(name).group(1)  # type: ignore[union-attr]
        if rocm and rocm.split(".")[0] != major:
            other = f"jax-rocm{rocm.split('.')[0]}-plugin"
            yield _found("runtime-version", plugin=name, needs=f"ROCm {major}", found=f"ROCm {rocm}", other=other)
            break
    driver = re.search(r"\b(\d{3})\.\d+", facts["drivers"].get("nvidia") or "")
    for name in installed["nvidia"]:
        major = PLUGINS["nvidia"].fullmatch(name).group(1)  # type: ignore[union-attr]
        least = LEAST_DRIVER.get(major)
        if driver and least and int(driver.group(1)) < least:
            others = [version for version, needs in LEAST_DRIVER.items() if needs <= int(driver.group(1))]
            other = f"jax-cuda{others[-1]}-plugin" if others else "none is old enough"
            said = f"driver {driver.group()}"
            yield _found("runtime-version", plugin=name, needs=f"driver {least} or newer", found=said, other=other)
            break


def least_jaxlib(jax: str) -> str:
    """The oldest jaxlib that this version of jax takes, by its own requirements; 0 where it is not installed here."""
    if importlib.metadata.version("jax") != jax:
        return "0"
    for text in importlib.metadata.requires("jax") or []:
        match = re.match(r"jaxlib\b[^;]*>=\s*([0-9.]+)", text)
        if match and "extra" not in text:
            return match.group(1)
    return "0"


def _variables(facts: Mapping[str, Any], variables: Mapping[str, str]) -> Iterator[Finding]:
    asked = variables.get("JAX_PLATFORMS")
    for vendor in present(facts):
        for name in HIDING[vendor]:
            if variables.get(name, "0").strip() in NOTHING:
                yield _found("hidden-devices", name=name, value=variables[name])
        if asked and not set(asked.split(",")) & set(PLATFORMS[vendor]):
            yield _found("platforms-variable", value=asked, vendor=vendor, platform=PLATFORMS[vendor][0])
    override = variables.get("HSA_OVERRIDE_GFX_VERSION")
    if override:
        yield _found("gfx-override", value=override)
    path = variables.get("LD_LIBRARY_PATH", "")
    if "cuda" in path.lower() and "nvidia" in present(facts):
        yield _found("library-path", value=path)
    if variables.get("XLA_FLAGS", "").strip():
        yield _found("flags", value=variables["XLA_FLAGS"])


def _system(facts: Mapping[str, Any]) -> Iterator[Finding]:
    count = sum(present(facts).values())
    size = facts["shm_bytes"]
    if count > 1 and size is not None and size < LEAST_SHM:
        yield _found("shared-memory", size=f"{size / 2**20:.0f} MiB", count=count)
    words = [word for word in facts["kernel_words"] if "iommu" in word]
    on = [word for word in words if word.endswith("=on")]
    if count > 1 and on and "iommu=pt" not in words:
        yield _found("iommu", count=count, words=" ".join(words))
    for tool, lines in facts["tools"].items():
        said = lines[0] if lines else "says nothing"
        if said.startswith(("no answer", "cannot be run", "exit code", "says nothing")):
            yield _found("tool-silent", tool=tool, said=said)
