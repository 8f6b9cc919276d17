"""This machine -> facts from files, groups, variables and tools, read before JAX is imported and without root.

`findings.py` judges these facts. All of them are read through a `Host`, so that tests can invent a machine.
"""

import grp
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import rocm

# PCI vendors of accelerators, and the PCI classes of accelerators: display, coprocessor.
VENDORS = {"0x1002": "amd", "0x10de": "nvidia", "0x1ae0": "google"}
CLASSES = ("0x03", "0x0b", "0x12")
# Files that a user's process must be able to open, by vendor.
DEVICE_FILES = {
    "amd": ("dev/kfd", "dev/dri/renderD*"),
    "nvidia": ("dev/nvidia[0-9]*", "dev/nvidiactl", "dev/nvidia-uvm"),
    "google": ("dev/accel[0-9]*", "dev/vfio/[0-9]*"),
}
# A file for each single device.
SINGLE = {"amd": r"/dev/dri/renderD\d+", "nvidia": r"/dev/nvidia\d+", "google": r"/dev/(accel|vfio/)\d+"}
DRIVERS = {"amd": "sys/module/amdgpu/version", "nvidia": "proc/driver/nvidia/version"}
MODULES = {"amd": "sys/module/amdgpu", "nvidia": "sys/module/nvidia"}
CUDA = "usr/local/cuda/version.json"
# Newer versions of ROCm have no rocm-smi (https://rocm.docs.amd.com/projects/amdsmi/en/latest/).
TOOLS = {
    "nvidia-smi": ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"),
    "amd-smi": ("amd-smi", "static", "--asic", "--csv"),
    "rocm-smi": ("rocm-smi", "--showproductname", "--csv"),
}
# The kernel's list of AMD's devices. A processor is a node without SIMD units.
NODES = "sys/class/kfd/kfd/topology/nodes/*/properties"
# Folders of NVIDIA's packages for CUDA 13 on an older driver (https://docs.nvidia.com/deploy/cuda-compatibility/).
COMPAT = ("usr/local/cuda/compat/libcuda.so*", "usr/local/cuda-1[3-9]*/compat/libcuda.so*")
# Words of the kernel command line that affect traffic between devices.
KERNEL_WORDS = re.compile(r"(\w*iommu\w*|amdgpu\.\S+|nvidia\S*|pci)=\S+|\w*iommu\w*")
CONTAINERS = {".dockerenv": "docker", "run/.containerenv": "podman", "var/run/secrets/kubernetes.io": "kubernetes"}
TOOL_SECONDS = 10.0
TOOL_FAILURES = NO_ANSWER, NO_START, EXIT_CODE = "no answer", "cannot be run", "exit code"
MOST_LINES = 40


def run(command: Sequence[str]) -> str | None:
    """The output of a tool, or one of `TOOL_FAILURES` with its reason; None if the tool is not installed."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TOOL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{NO_ANSWER} within {TOOL_SECONDS:g} s"
    except OSError as error:
        return f"{NO_START} ({error.strerror})"
    failure = f"{EXIT_CODE} {done.returncode}: {(done.stderr or done.stdout)[:300]}"
    return done.stdout if done.returncode == 0 else failure


def opens(path: Path) -> bool:
    """Whether this process may read and write a device file, which only opening it shows.

    Its mode does not: there are lists of access (ACLs), and rules of a container. A TPU's files are for one process at
    a time, so they are not opened; another error, as EBUSY, is not about access.
    """
    if path.name.startswith("accel") or path.parent.name == "vfio":
        return os.access(path, os.R_OK | os.W_OK)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:
        return True
    return True


def shm_bytes() -> int | None:
    """Size of /dev/shm, through which collective libraries pass messages between processes; None if it is missing."""
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return None
    return status.f_blocks * status.f_frsize


@dataclass(frozen=True, kw_only=True)
class Host:
    """The sources of a machine's facts."""

    root: Path = Path("/")
    variables: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    user: int = field(default_factory=os.geteuid)  # the user's number
    groups: tuple[int, ...] = field(default_factory=lambda: (os.getegid(), *os.getgroups()))  # ids of the user's groups
    # Names of all groups, by id.
    group_names: Mapping[int, str] = field(default_factory=lambda: {g.gr_gid: g.gr_name for g in grp.getgrall()})
    shm: int | None = field(default_factory=shm_bytes)  # bytes of /dev/shm; None if it is missing
    run: Callable[[Sequence[str]], str | None] = run  # a command -> its output, or None
    opens: Callable[[Path], bool] = opens  # a device file -> whether the user may read and write it

    def read(self, path: str) -> str | None:
        """A file's text; None if it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return None

    def device_files(self, vendor: str) -> list[dict[str, Any]]:
        """A vendor's device files: path, mode, owner, group, and whether the user can read and write them."""
        files = []
        for pattern in DEVICE_FILES[vendor]:
            for path in sorted(self.root.glob(pattern)):
                try:
                    status = path.stat()
                except OSError:
                    continue
                group = self.group_names.get(status.st_gid, str(status.st_gid))
                files.append({
                    "path": f"/{path.relative_to(self.root)}", "mode": stat.filemode(status.st_mode),
                    "owner": status.st_uid, "group": group, "gid": status.st_gid, "usable": self.opens(path),
                })  # fmt: skip
        return files

    def accelerators(self) -> list[dict[str, str]]:
        """Address, vendor, class and driver of the accelerators on the PCI bus."""
        devices = []
        for device in sorted((self.root / "sys/bus/pci/devices").glob("*")):
            vendor, kind = (self.read(f"{device.relative_to(self.root)}/{name}") or "" for name in ("vendor", "class"))
            if vendor in VENDORS and kind.startswith(CLASSES):
                driver = device / "driver"
                name = driver.resolve().name if driver.exists() else "none"
                devices.append({"address": device.name, "vendor": VENDORS[vendor], "class": kind, "driver": name})
        return devices

    def gfx(self) -> list[str]:
        """The architecture of each AMD device that the kernel lists, as gfx942: version 90402 is 9, 4 and 2."""
        names = []
        for file in sorted(self.root.glob(NODES)):
            text = self.read(str(file.relative_to(self.root))) or ""
            values = dict(line.split(None, 1) for line in text.splitlines() if len(line.split()) == 2)
            version = int(values.get("gfx_target_version", "0"))
            if values.get("simd_count", "0") != "0":
                names.append(f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}")
        return names

    def tools(self) -> dict[str, list[str]]:
        """Each installed tool of a vendor -> the first lines of its output; rocm-smi only where amd-smi is missing."""
        lines: dict[str, list[str]] = {}
        for name, command in TOOLS.items():
            if name == "rocm-smi" and "amd-smi" in lines:
                continue
            if (output := self.run(command)) is not None:
                lines[name] = output.strip().splitlines()[:MOST_LINES]
        return lines

    def cuda(self) -> str | None:
        """The version of the CUDA in /usr/local; None if there is none."""
        try:
            return str(json.loads(self.read(CUDA) or "")["cuda"]["version"])
        except (ValueError, KeyError, TypeError):
            return None


def facts(host: Host) -> dict[str, Any]:
    """All facts of a machine, as a dict for JSON."""
    release = dict(re.findall(r'^(\w+)="?(.*?)"?$', host.read("etc/os-release") or "", re.MULTILINE))
    words = (host.read("proc/cmdline") or "").split()
    places = rocm.places(host.root, host.variables)
    runtimes = {name: text for name, text in (("rocm", places[0]["version"] if places else None), ("cuda", host.cuda()))
                if text}  # fmt: skip
    # A driver can be loaded without a readable version.
    drivers = {vendor: (host.read(path) or "").split("\n")[0] or None for vendor, path in DRIVERS.items()
               if (host.root / path).exists() or (host.root / MODULES[vendor]).exists()}  # fmt: skip
    return {
        "system": release.get("PRETTY_NAME", "unknown"),
        "kernel": host.read("proc/sys/kernel/osrelease") or "unknown",
        "kernel_words": [word for word in words if KERNEL_WORDS.fullmatch(word)],
        "container": next((name for path, name in CONTAINERS.items() if (host.root / path).exists()), None),
        "shm_bytes": host.shm,
        "user": host.user,
        "groups": sorted({host.group_names.get(gid, str(gid)) for gid in host.groups}),
        "wsl": (host.root / "dev/dxg").exists(),
        "accelerators": host.accelerators(),
        "gfx": host.gfx(),
        "device_files": {vendor: host.device_files(vendor) for vendor in DEVICE_FILES},
        "drivers": drivers,
        "runtimes": runtimes,
        "rocm": places,
        # With it, CUDA makes its missing device files itself, but not in a container.
        "modprobe": (host.root / "usr/bin/nvidia-modprobe").exists(),
        "cuda_compat": any(any(host.root.glob(pattern)) for pattern in COMPAT),
        "tools": host.tools(),
    }  # fmt: skip


def present(facts: Mapping[str, Any]) -> dict[str, int]:
    """Vendor -> number of its accelerators that this process can use, or else those on the PCI bus.

    A container has files for some of the devices on its host's bus. One AMD board can be several devices.
    """
    counts: dict[str, int] = {}
    for vendor, files in facts["device_files"].items():
        on_bus = sum(device["vendor"] == vendor for device in facts["accelerators"])
        single = [f["path"] for f in files if re.fullmatch(SINGLE[vendor], f["path"])]
        if vendor == "amd":
            on_bus = len(facts.get("gfx", ())) or on_bus
            single = single if any(f["path"] == "/dev/kfd" for f in files) else []
        if vendor == "google" and not on_bus:
            # Any machine can have vfio files, for devices of its virtual machines.
            single = [path for path in single if "accel" in path]
        # Other vendors' devices have files in /dev/dri too.
        counts[vendor] = min(on_bus, len(single)) if on_bus and single else on_bus or len(single)
    return {vendor: count for vendor, count in counts.items() if count}
