"""This machine -> facts from files, groups, variables and tools, read before JAX is imported and without root.

`findings.py` judges these facts. All of them are read through a `Host`, so that tests can invent a machine.
"""

import grp
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# PCI vendors of accelerators, and the PCI classes of accelerators: display, coprocessor.
VENDORS = {"0x1002": "amd", "0x10de": "nvidia", "0x1ae0": "google"}
CLASSES = ("0x03", "0x0b", "0x12")
# Files that a user's process must be able to open, by vendor.
DEVICE_FILES = {
    "amd": ("dev/kfd", "dev/dri/renderD*"),
    "nvidia": ("dev/nvidia[0-9]*", "dev/nvidiactl", "dev/nvidia-uvm"),
    "google": ("dev/accel*", "dev/vfio/[0-9]*"),
}
DRIVERS = {"amd": "sys/module/amdgpu/version", "nvidia": "proc/driver/nvidia/version"}
MODULES = {"amd": "sys/module/amdgpu", "nvidia": "sys/module/nvidia"}
RUNTIMES = {"rocm": "opt/rocm/.info/version", "cuda": "usr/local/cuda/version.json"}
TOOLS = {
    "nvidia-smi": ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"),
    "amd-smi": ("amd-smi", "version"),
    "rocm-smi": ("rocm-smi", "--showproductname", "--csv"),
}
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
    user: int = field(default_factory=os.geteuid)
    groups: tuple[int, ...] = field(default_factory=lambda: (os.getegid(), *os.getgroups()))  # ids of the user's groups
    # Names of all groups, by id.
    group_names: Mapping[int, str] = field(default_factory=lambda: {g.gr_gid: g.gr_name for g in grp.getgrall()})
    shm: int | None = field(default_factory=shm_bytes)  # bytes of /dev/shm; None if it is missing
    run: Callable[[Sequence[str]], str | None] = run  # a command -> its output, or None

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
                    "owner": status.st_uid, "group": group, "gid": status.st_gid, "usable": self._may_use(status),
                })  # fmt: skip
        return files

    def _may_use(self, status: os.stat_result) -> bool:
        """Whether a file's mode lets the user read and write it; root always may. A container's rules are unknown."""
        if self.user == 0:
            return True
        shift = 6 if status.st_uid == self.user else 3 if status.st_gid in self.groups else 0
        return (status.st_mode >> shift) & 6 == 6

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


def facts(host: Host) -> dict[str, Any]:
    """All facts of a machine, as a dict for JSON."""
    release = dict(re.findall(r'^(\w+)="?(.*?)"?$', host.read("etc/os-release") or "", re.MULTILINE))
    words = (host.read("proc/cmdline") or "").split()
    rocm = next((path.name.removeprefix("rocm-") for path in sorted(host.root.glob("opt/rocm-*"))), None)
    runtimes = {name: text.split("\n")[0] for name, path in RUNTIMES.items() if (text := host.read(path))}
    if rocm:
        runtimes.setdefault("rocm", rocm)
    tools = {name: output.strip().splitlines()[:MOST_LINES] for name, command in TOOLS.items()
             if (output := host.run(command)) is not None}  # fmt: skip
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
        "accelerators": host.accelerators(),
        "device_files": {vendor: host.device_files(vendor) for vendor in DEVICE_FILES},
        "drivers": drivers,
        "runtimes": runtimes,
        "tools": tools,
    }  # fmt: skip
