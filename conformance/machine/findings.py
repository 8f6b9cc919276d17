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

from . import rocm
from .host import SINGLE, TOOL_FAILURES, present
from .releases import families, halves, install, jax_row, major, table
from .versions import LEVELS, conflicts
from .visible import hiding

TEXTS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("findings.toml").read_text(encoding="utf-8"))
# By vendor: JAX's names for its platforms, its runtime in the names of plugins, and the names of its packages.
PLATFORMS = {"amd": ("rocm", "gpu"), "nvidia": ("cuda", "gpu"), "google": ("tpu",)}
RUNTIMES = {"amd": "rocm", "nvidia": "cuda"}
PLUGINS = {"amd": re.compile(r"jax-rocm(\d+)-.*"), "nvidia": re.compile(r"jax-cuda(\d+)-.*"),
           "google": re.compile(r"libtpu.*")}  # fmt: skip
LOAD = {"amd": "sudo modprobe amdgpu", "nvidia": "sudo modprobe nvidia && sudo nvidia-modprobe -u",
        "google": "start a TPU VM image"}  # fmt: skip
MODULE = {"amd": "amdgpu", "nvidia": "nvidia", "google": "TPU"}
START = {"amd": "docker run --device=/dev/kfd --device=/dev/dri --group-add video --group-add render ...",
         "nvidia": "docker run --gpus all ...; outside of one: sudo nvidia-modprobe -u",
         "google": "docker run --privileged ..."}  # fmt: skip
# Required device files; one file of each kind is enough: a container with one GPU of eight may have /dev/nvidia3 only.
NEEDED = {"amd": {"/dev/kfd": r"/dev/kfd", "/dev/dri/renderD": r"/dev/dri/renderD\d+"},
          "nvidia": {"/dev/nvidia0": r"/dev/nvidia\d+", "/dev/nvidiactl": r"/dev/nvidiactl",
                     "/dev/nvidia-uvm": r"/dev/nvidia-uvm"},
          "google": {}}  # fmt: skip
# The oldest driver for each major version of CUDA, from JAX's installation page.
DRIVER = re.compile(r"\b(\d{3,4})\.\d+")
LEAST_DRIVER = {"12": 525, "13": 580}
# Boards that cannot use NVIDIA's packages for a newer CUDA on an older driver.
NO_COMPAT = re.compile(r"geforce|titan", re.IGNORECASE)
NVIDIA_LIBRARIES = re.compile(r"nvidia-(cublas|cuda-runtime|cudnn).*")
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


def _finding(id: str, /, level: str | None = None, source: str | None = None, **words: Any) -> Finding:
    """The finding of this id; `level` and `source` replace those in `findings.toml`."""
    texts = {key: text.format(**words) if key in ("what", "next") else text for key, text in TEXTS[id].items()}
    return Finding(id=id, **(texts | {key: text for key, text in (("level", level), ("source", source)) if text}))


def findings(
    facts: Mapping[str, Any],
    versions: Mapping[str, str],
    variables: Mapping[str, str],
    platform: str | None = None,
) -> list[Finding]:
    """The problems of a machine with these `host.facts`, installed versions and variables, the worst first.

    A device that JAX has no plugin for, or that the user did not ask for, is no problem: `platform` is the one that the
    user named (--platform), else JAX_PLATFORMS has the names; without either, JAX uses what its plugins can.
    """
    value = platform or variables.get("JAX_PLATFORMS", "")
    asked = [name.strip().lower() for name in value.split(",") if name.strip()]
    installed = {vendor: sorted(name for name in versions if pattern.fullmatch(name))
                 for vendor, pattern in PLUGINS.items()}  # fmt: skip
    wanted = [vendor for vendor, names in PLATFORMS.items()
              if (set(names) & set(asked) if asked else installed[vendor])]  # fmt: skip
    if "gpu" in asked and any(installed[vendor] for vendor in RUNTIMES):
        wanted = [vendor for vendor in wanted if installed[vendor] or RUNTIMES.get(vendor) in asked]
    problems = [
        *_devices(facts, wanted), *_software(facts, versions, variables, wanted, installed),
        *_platforms(facts, variables, asked, installed), *_variables(facts, versions, variables, wanted),
        *_system(facts, wanted),
    ]  # fmt: skip
    return sorted(problems, key=lambda finding: LEVELS.index(finding.level))


def _devices(facts: Mapping[str, Any], wanted: list[str]) -> Iterator[Finding]:
    """Drivers and device files of the devices that JAX would use."""
    for vendor, count in present(facts).items():
        files = facts["device_files"][vendor]
        if vendor not in wanted or facts["wsl"]:
            continue
        if vendor not in facts["drivers"] and not files and vendor != "google":
            yield _finding("driver-missing", vendor=vendor, count=count, module=MODULE[vendor], load=LOAD[vendor])
            continue
        missing = [path for path, pattern in NEEDED[vendor].items()
                   if not any(re.fullmatch(pattern, f["path"]) for f in files)]  # fmt: skip
        if missing and not (vendor == "nvidia" and facts["modprobe"] and not facts["container"]):
            yield _finding("device-files-missing", vendor=vendor, paths=" or ".join(missing), start=START[vendor])
        # Of several devices of one kind, those that can be opened are enough for JAX.
        kinds = [r"/dev/kfd", r"/dev/nvidiactl", r"/dev/nvidia-uvm", SINGLE[vendor]]
        for kind in kinds:
            here = [f for f in files if re.fullmatch(kind, f["path"])]
            if here and not any(f["usable"] for f in here):
                yield _finding("device-permission", **here[0], join=_access(facts, here[0]))
                break  # the others have the same mode


def _access(facts: Mapping[str, Any], file: Mapping[str, Any]) -> str:
    """The command that gives access to a device file."""
    if facts["container"] == "podman":
        return "podman run --group-add keep-groups ..."
    if facts["container"]:
        return f"docker run --group-add {file['gid']} ..."
    if file["gid"] == 0:
        name = file["path"].rsplit("/", 1)[-1]
        rule = f'KERNEL=="{name}", GROUP="render", MODE="0660"'
        return f"ask the administrator for a udev rule ({rule}), and to add you to that group"
    return f"sudo usermod -a -G {file['group']} $LOGNAME, and log in again"


def _software(
    facts: Mapping[str, Any],
    versions: Mapping[str, str],
    variables: Mapping[str, str],
    wanted: list[str],
    installed: Mapping[str, list[str]],
) -> Iterator[Finding]:
    devices = present(facts)
    for vendor, names in installed.items():
        if vendor in devices and not names:
            level = "broken" if vendor in wanted else "note"
            if vendor in wanted or not variables.get("JAX_PLATFORMS"):
                command = _missing_plugin(facts, vendor, versions)
                yield _finding("plugin-missing", level, vendor=vendor, install=command)
        if names and vendor not in devices and vendor in wanted and not facts["wsl"]:
            yield _finding("plugin-without-device", plugin=names[0], vendor=vendor)
    found = sorted(halves(versions))
    if len(found) > 1:
        yield _finding("two-plugins", plugins=", ".join(f"jax-{family}-plugin" for family in found))
    if {"jax", "jaxlib"} <= versions.keys():
        for conflict in conflicts(versions, least_jaxlib(versions["jax"])):
            level = conflict.level if conflict.vendor in (None, *wanted) else "note"
            yield _finding("versions", level, conflict.source, conflict=conflict.what, next=conflict.next)
    for vendor in set(wanted) & set(RUNTIMES):
        yield from (_rocm if vendor == "amd" else _driver)(facts, versions, installed[vendor])


def _missing_plugin(facts: Mapping[str, Any], vendor: str, versions: Mapping[str, str]) -> str:
    """The command that installs a plugin for this vendor's runtime here, this jax and this Python."""
    newest = next(reversed(table()["jax"]))
    jax, python = versions.get("jax", newest), versions.get("python", "3.11")
    if vendor == "google":
        return f"pip install 'jax[tpu]=={jax}'" if jax_row(jax) else "pip install --upgrade 'jax[tpu]'"
    if vendor == "amd":
        here = rocm.in_use(facts["rocm"], versions)
        number = here["version"].split(".")[0] if here else "7"
    else:
        driver = _driver_number(facts)
        number = "12" if driver and driver < LEAST_DRIVER["13"] else "13"
    commands = [install(jax, family, python) for family in families(RUNTIMES[vendor], number)]
    other = f"ask the vendor for a plugin for {RUNTIMES[vendor]} {number}, jax {jax} and Python {python}"
    return next(filter(None, commands), other)


def _rocm(facts: Mapping[str, Any], versions: Mapping[str, str], names: list[str]) -> Iterator[Finding]:
    """The ROCm that a plugin would load is of another major version than the plugin."""
    here = rocm.in_use(facts["rocm"], versions)
    for name in names:
        family = name.split("-")[1]
        needs = major(family)
        if here is None or needs is None or here["version"].split(".")[0] == needs:
            continue
        # Another place may be the one that is loaded: which one depends on how the plugin was built.
        elsewhere = any(each["version"].split(".")[0] == needs for each in facts["rocm"])
        others = families("rocm", here["version"].split(".")[0])
        jax, python = versions.get("jax", ""), versions.get("python", "3.11")
        commands = [command for each in others if jax and (command := install(jax, each, python))]
        other = " or ".join(commands) or f"no plugin for ROCm {here['version'].split('.')[0]} is on PyPI"
        words = f"ROCm {here['version']} ({here['place']})"
        yield _finding("runtime-version", "risk" if elsewhere else "broken", plugin=name, needs=f"ROCm {needs}",
                       found=words, other=other)  # fmt: skip
        break
    wheel = versions.get(rocm.WHEEL)
    loader = here if here and here["place"].startswith("LD_LIBRARY_PATH=") else None
    if wheel and loader and not rocm.same(wheel, loader["version"]):
        yield _finding("library-path", value=loader["place"].split("=", 1)[1],
                       before=f"ROCm {loader['version']} before ROCm {wheel} of {rocm.WHEEL}",
                       source="https://github.com/ROCm/TheRock/issues/1011")  # fmt: skip


def _driver_number(facts: Mapping[str, Any]) -> int | None:
    match = DRIVER.search(facts["drivers"].get("nvidia") or "")
    return int(match[1]) if match else None


def _driver(facts: Mapping[str, Any], versions: Mapping[str, str], names: list[str]) -> Iterator[Finding]:
    """NVIDIA's driver is older than the plugin's CUDA needs."""
    driver = _driver_number(facts)
    for name in names:
        number = major(name.split("-")[1])
        least = LEAST_DRIVER.get(number or "")
        if driver is None or least is None or driver >= least:
            continue
        compat = facts["cuda_compat"] and number == "13"
        if compat:
            continue
        older = [version for version, needs in LEAST_DRIVER.items() if needs <= driver]
        commands = [install(versions["jax"], f"cuda{version}", versions.get("python", "3.11"))
                    for version in reversed(older) if "jax" in versions]  # fmt: skip
        exact = DRIVER.search(facts["drivers"]["nvidia"])[0]  # type: ignore[index]
        board = facts["tools"].get("nvidia-smi", [""])[0].split(",")[0]
        fixed = bool(NO_COMPAT.search(board))
        other = next(filter(None, commands), "none is old enough")
        if not fixed:
            other += ", or NVIDIA's cuda-compat, which data-centre boards support"
        yield _finding("runtime-version", "broken" if fixed else "risk", plugin=name,
                       needs=f"driver {least} or newer", found=f"driver {exact}{f' ({board})' if board else ''}",
                       other=other)  # fmt: skip
        break


def least_jaxlib(jax: str) -> str:
    """The oldest jaxlib that this version of jax accepts, by its own requirements; "0" if that is not known."""
    if row := jax_row(jax):
        return row[2]
    try:
        if importlib.metadata.version("jax") != jax:
            return "0"
    except importlib.metadata.PackageNotFoundError:
        return "0"
    for text in importlib.metadata.requires("jax") or []:
        match = re.match(r"jaxlib\b[^;]*>=\s*([0-9.]+)", text)
        if match and "extra" not in text:
            return match.group(1)
    return "0"


def _platforms(
    facts: Mapping[str, Any], variables: Mapping[str, str], asked: list[str], installed: Mapping[str, list[str]]
) -> Iterator[Finding]:
    """What JAX_PLATFORMS, or --platform, leaves out, or asks for in vain."""
    value = variables.get("JAX_PLATFORMS", "")
    for vendor in present(facts):
        if asked and value and installed[vendor] and not set(asked) & set(PLATFORMS[vendor]):
            # The CPU alone is a choice; another vendor's platform may be a mistake.
            level = "note" if asked == ["cpu"] else "risk"
            yield _finding("platforms-variable", level, value=value, vendor=vendor, platform=PLATFORMS[vendor][0])
        if value and len(asked) > 1 and asked[0] == "cpu" and set(asked) & set(PLATFORMS[vendor]):
            others = ",".join(name for name in asked if name != "cpu")
            yield _finding("cpu-first", value=value, vendor=vendor, platforms=f"{others},cpu")
    for name in asked:
        vendors = [vendor for vendor, names in PLATFORMS.items() if name in names]
        if vendors and not any(installed[vendor] for vendor in vendors) and not set(vendors) & set(present(facts)):
            yield _finding("platform-unavailable", name=name)


def _variables(
    facts: Mapping[str, Any], versions: Mapping[str, str], variables: Mapping[str, str], wanted: list[str]
) -> Iterator[Finding]:
    for vendor, count in present(facts).items():
        for name, why in hiding(vendor, variables, count) if vendor in wanted else ():
            yield _finding("hidden-devices", name=name, value=variables[name], why=why)
    if "amd" in wanted and variables.get("HIP_VISIBLE_DEVICES") == "" and "amd" in present(facts):
        yield _finding("empty-list")
    override = variables.get("HSA_OVERRIDE_GFX_VERSION")
    if override and "amd" in wanted:
        yield _finding("gfx-override", value=override)
    path = variables.get("LD_LIBRARY_PATH", "")
    cuda = [word for word in path.split(":") if "cuda" in word.lower() and not re.search("compat|site-packages", word)]
    # Without NVIDIA's wheels (the extras cuda12-local, cuda13-local) these are the libraries that JAX is to use.
    if cuda and "nvidia" in wanted and any(map(NVIDIA_LIBRARIES.fullmatch, versions)):
        yield _finding("library-path", value=path, before="CUDA libraries before those of JAX's own packages")
    if variables.get("XLA_FLAGS", "").strip():
        yield _finding("flags", value=variables["XLA_FLAGS"])


def _system(facts: Mapping[str, Any], wanted: list[str]) -> Iterator[Finding]:
    count = sum(number for vendor, number in present(facts).items() if vendor in wanted)
    size = facts["shm_bytes"]
    if count > 1 and size is not None and size < LEAST_SHM:
        yield _finding("shared-memory", size=f"{size / 2**20:.0f} MiB", count=count)
    words = [word for word in facts["kernel_words"] if "iommu" in word]
    on = [word for word in words if word.endswith("=on")]
    if count > 1 and on and "iommu=pt" not in words:
        yield _finding("iommu", count=count, words=" ".join(words))
    for tool, lines in facts["tools"].items():
        answer = lines[0] if lines else "no output"
        vendor = "nvidia" if tool.startswith("nvidia") else "amd"
        if answer.startswith(("no output", *TOOL_FAILURES)) and vendor in wanted:
            yield _finding("tool-silent", tool=tool, answer=answer)
