"""The machine under JAX -> facts, read before JAX is imported and without root: files, groups, variables, tools.

Nothing here judges; `findings.py` does. A `Host` stands for all that is asked, so that a recorded or invented machine
can be asked the same.
"""

from __future__ import annotations

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

# PCI vendors of accelerators, and the kinds of PCI device that can be one: display, coprocessor.
VENDORS = {"0x1002": "amd", "0x10de": "nvidia", "0x1ae0": "google"}
CLASSES = ("0x03", "0x0b", "0x12")
# What a user's process must be able to open, by vendor.
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
# Words of the kernel's command line that decide how devices reach each other.
KERNEL_WORDS = re.compile(r"(\w*iommu\w*|amdgpu\.\S+|nvidia\S*|pci)=\S+|\w*iommu\w*")
CONTAINERS = {".dockerenv": "docker", "run/.containerenv": "podman", "var/run/secrets/kubernetes.io": "kubernetes"}
TOOL_SECONDS = 10.0
MOST_LINES = 40


def run(command: Sequence[str]) -> str | None:
    """What a tool says; None where it is missing, fails or hangs: some hang where the driver does."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TOOL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {TOOL_SECONDS:g} s"
    except OSError as error:
        return f"cannot be run ({error.strerror})"
    return done.stdout if done.returncode == 0 else f"exit code {done.returncode}: {(done.stderr or done.stdout)[:300]}"


def shm_bytes(root: Path) -> int | None:
    """Size of /dev/shm, through which the devices' libraries pass messages between processes."""
    try:
        found = os.statvfs(root / "dev/shm")
    except OSError:
        return None
    return found.f_blocks * found.f_frsize


def _groups() -> dict[int, str]:
    return {entry.gr_gid: entry.gr_name for entry in grp.getgrall()}


@dataclass(frozen=True, kw_only=True)
class Host:
    """Where a machine's facts are read.

    Attributes:
        root: of its files.
        variables: of the environment.
        user: its number.
        groups: numbers of the groups that the user is in.
        group_names: number -> name of all groups.
        shm: bytes of /dev/shm; None where there is none.
        run: a command -> what it says.
    """

    root: Path = Path("/")
    variables: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    user: int = field(default_factory=os.geteuid)
    groups: tuple[int, ...] = field(default_factory=lambda: (os.getegid(), *os.getgroups()))
    group_names: Mapping[int, str] = field(default_factory=_groups)
    shm: int | None = field(default_factory=lambda: shm_bytes(Path("/")))
    run: Callable[[Sequence[str]], str | None] = run

    def read(self, path: str) -> str | None:
        """A file's text, or None."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return None

    def device_files(self, vendor: str) -> list[dict[str, Any]]:
        """What of a vendor's files is there, whose it is, and whether the user may read and write it."""
        found = []
        for pattern in DEVICE_FILES[vendor]:
            for path in sorted(self.root.glob(pattern)):
                try:
                    status = path.stat()
                except OSError:
                    continue
                group = self.group_names.get(status.st_gid, str(status.st_gid))
                found.append({
                    "path": f"/{path.relative_to(self.root)}", "mode": stat.filemode(status.st_mode),
                    "owner": status.st_uid, "group": group, "gid": status.st_gid, "usable": self._may_use(status),
                })  # fmt: skip
        return found

    def _may_use(self, status: os.stat_result) -> bool:
        """Read and write, by owner, group and others; root may, and a container's device rules are not seen here."""
        if self.user == 0:
            return True
        shift = 6 if status.st_uid == self.user else 3 if status.st_gid in self.groups else 0
        return (status.st_mode >> shift) & 6 == 6

    def accelerators(self) -> list[dict[str, str]]:
        """What is on the PCI bus of a vendor that makes accelerators, with the driver that has it."""
        found = []
        for device in sorted((self.root / "sys/bus/pci/devices").glob("*")):
            vendor, kind = (
                self.read(f"{device.relative_to(self.root)}/vendor"),
                (self.read(f"{device.relative_to(self.root)}/class") or ""),
            )
            if vendor in VENDORS and kind.startswith(CLASSES):
                driver = device / "driver"
                name = driver.resolve().name if driver.exists() else "none"
                found.append({"address": device.name, "vendor": VENDORS[vendor], "class": kind, "driver": name})
        return found

    def container(self) -> str | None:
        """What kind of container this is in, if it can be told."""
        return next((name for path, name in CONTAINERS.items() if (self.root / path).exists()), None)


def facts(host: Host) -> dict[str, Any]:
    """All of a machine, in JSON's own values."""
    release = dict(re.findall(r'^(\w+)="?(.*?)"?$', host.read("etc/os-release") or "", re.MULTILINE))
    words = (host.read("proc/cmdline") or "").split()
    rocm = next((path.name.removeprefix("rocm-") for path in sorted(host.root.glob("opt/rocm-*"))), None)
    runtimes = {name: text.split("\n")[0] for name, path in RUNTIMES.items() if (text := host.read(path))}
    if rocm:
        runtimes.setdefault("rocm", rocm)
    tools = {name: said.strip().splitlines()[:MOST_LINES] for name, command in TOOLS.items()
             if (said := host.run(command)) is not None}  # fmt: skip
    return {
        "system": release.get("PRETTY_NAME", "unknown"),
        "kernel": host.read("proc/sys/kernel/osrelease") or "unknown",
        "kernel_words": [word for word in words if KERNEL_WORDS.fullmatch(word)],
        "container": host.container(),
        "shm_bytes": host.shm,
        "user": host.user,
        "groups": sorted({host.group_names.get(gid, str(gid)) for gid in host.groups}),
        "accelerators": host.accelerators(),
        "device_files": {vendor: host.device_files(vendor) for vendor in DEVICE_FILES},
        "drivers": {vendor: (text.split("\n")[0] if (text := host.read(path)) else None)
                    for vendor, path in DRIVERS.items() if text_or_module(host, vendor)},
        "runtimes": runtimes,
        "tools": tools,
    }  # fmt: skip


def text_or_module(host: Host, vendor: str) -> bool:
    """Whether a vendor's driver is loaded, with or without a version to read."""
    return (host.root / DRIVERS[vendor]).exists() or (host.root / MODULES[vendor]).exists()
