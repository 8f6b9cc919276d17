"""Invented machines: a root folder with the system files of a machine with accelerators, and a user."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sftref.conformance.machine.host import Host

PCI = {"amd": ("0x1002", "0x120000"), "nvidia": ("0x10de", "0x030200"), "google": ("0x1ae0", "0x120000")}
RENDER, USER = 109, 54321


def write(root: Path, path: str, text: str = "", mode: int = 0o644) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def machine(
    root: Path,
    vendor: str = "amd",
    count: int = 8,
    *,
    driver: bool = True,
    files: bool = True,
    mode: int = 0o666,
    cmdline: str = "quiet iommu=pt",
    tools: dict[str, str] | None = None,
    **more: Any,
) -> Host:
    """Make a machine with `count` accelerators and, by default, without a problem."""
    write(root, "etc/os-release", 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n')
    write(root, "proc/sys/kernel/osrelease", "6.12.1\n")
    write(root, "proc/cmdline", f"BOOT_IMAGE=/vmlinuz {cmdline}\n")
    for number in range(count):
        where = f"sys/bus/pci/devices/0000:{number:02x}:00.0"
        write(root, f"{where}/vendor", f"{PCI[vendor][0]}\n")
        write(root, f"{where}/class", f"{PCI[vendor][1]}\n")
    write(root, "sys/bus/pci/devices/0000:f0:00.0/vendor", "0x1002\n")  # a bridge of the same vendor
    write(root, "sys/bus/pci/devices/0000:f0:00.0/class", "0x060400\n")
    if driver:
        _driver(root, vendor)
    if files:
        _files(root, vendor, count, mode)
    settings: dict[str, Any] = {
        "variables": {}, "user": USER, "groups": (USER,), "group_names": {RENDER: "render", USER: "me"},
        "shm": 16 << 30, "run": lambda command: (tools or {}).get(command[0]),
        # The tests may run as root, who may open everything; this user is neither the owner nor in the group.
        "opens": lambda path: path.stat().st_mode & 6 == 6,
    }  # fmt: skip
    return Host(root=root, **(settings | more))


def _driver(root: Path, vendor: str) -> None:
    if vendor == "amd":
        write(root, "sys/module/amdgpu/version", "6.14.14\n")
        write(root, "opt/rocm/.info/version", "7.0.2-56\n")
    elif vendor == "nvidia":
        text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 13\n"
        write(root, "proc/driver/nvidia/version", text)


def _files(root: Path, vendor: str, count: int, mode: int) -> None:
    names: Sequence[str] = {
        "amd": ["kfd", *(f"dri/renderD{128 + n}" for n in range(count))],
        "nvidia": ["nvidiactl", "nvidia-uvm", *(f"nvidia{n}" for n in range(count))],
        "google": [f"accel{n}" for n in range(count)],
    }[vendor]
    for name in names:
        file = write(root, f"dev/{name}", mode=mode)
        with contextlib.suppress(PermissionError):  # only root may give a file to another group
            os.chown(file, -1, RENDER)
