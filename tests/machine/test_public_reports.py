"""Machines of public reports: what is present is not what is wanted, and every variable by what reads it.

Each row is (source on GitHub, machine, versions, finding and its level, or None for none).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invented import CUDA, JAX, ROCM, TPU, findings_on
from machines import PCI, machine, write
from sftref.conformance.machine import rocm
from sftref.conformance.machine.env import exit_code
from sftref.conformance.machine.host import Host, facts, present

pytestmark = pytest.mark.once

NO_FILES = {"driver": False, "files": False}


def invented(
    root: Path,
    vendor: str = "amd",
    *,
    also: str | None = None,
    add: dict[str, str] | None = None,
    remove: tuple[str, ...] = (),
    **made: Any,
) -> Host:
    """A machine; `also` is another vendor's device on its bus; `add` has more files, `remove` those it lacks."""
    host = machine(root, vendor, **made)
    if also:
        write(root, "sys/bus/pci/devices/0000:e0:00.0/vendor", f"{PCI[also][0]}\n")
        write(root, "sys/bus/pci/devices/0000:e0:00.0/class", "0x030000\n")
    for path, text in (add or {}).items():
        write(root, path, text, 0o666)
    for pattern in remove:
        for file in root.glob(pattern):
            file.unlink()
    return host


def nodes(count: int, version: int = 90402) -> dict[str, str]:
    """The kernel's list of AMD devices; the first node is the processor."""
    text = "cpu_cores_count 0\nsimd_count {}\ngfx_target_version {}\n"
    listed = {
        f"sys/class/kfd/kfd/topology/nodes/{n}/properties": text.format(304, version) for n in range(1, count + 1)
    }
    return listed | {"sys/class/kfd/kfd/topology/nodes/0/properties": text.format(0, 0)}


def seen(**variables: str) -> dict[str, Any]:
    return {"variables": variables}


# Samples of the kind: present devices that JAX cannot use or was not asked to use.
PRESENT = [
    ("ollama/ollama/pull/2195", {"vendor": "nvidia", "also": "amd"}, CUDA, ("plugin-missing", "note")),
    ("ollama/ollama/pull/2195", {"count": 1, "add": {"etc/x": ""}}, JAX, ("plugin-missing", "note")),
    ("ROCm/ROCm-docker/issues/123", {"vendor": "nvidia", **NO_FILES}, JAX, ("plugin-missing", "note")),
    ("ROCm/ROCm-docker/issues/123", {**NO_FILES, **seen(JAX_PLATFORMS="cpu")}, JAX, None),
    ("ROCm/ROCm-docker/issues/123", {**NO_FILES, **seen(JAX_PLATFORMS="cpu")}, ROCM, ("platforms-variable", "note")),
    ("CDCgov/cfa-variant-forecasting-2026/issues/20", {"vendor": "nvidia", "count": 1}, JAX,
     ("plugin-missing", "note")),
    ("sanchit-gandhi/whisper-jax/issues/211", {"vendor": "nvidia", **seen(JAX_PLATFORMS="cuda")}, JAX,
     ("plugin-missing", "broken")),
    # A host of virtual machines has vfio files, and no TPU.
    ("jax-ml/jax/blob/main/jax/_src/hardware_utils.py",
     {"count": 0, **NO_FILES, "add": {"dev/vfio/12": "", "dev/vfio/13": ""}}, JAX, None),
    # WSL2 has /dev/dxg only.
    ("giovtorres/slurm-docker-cluster/pull/105",
     {"vendor": "nvidia", "count": 0, **NO_FILES, "add": {"dev/dxg": ""}}, CUDA, None),
    ("ROCm/librocdxg/issues/5", {"count": 0, **NO_FILES, "add": {"dev/dxg": ""}}, ROCM, None),
]  # fmt: skip
# Device files and variables of containers and schedulers.
VISIBLE = [
    ("GoogleCloudPlatform/container-engine-accelerators/issues/72",
     {"vendor": "nvidia", "remove": ("dev/nvidia[0-24-7]",)}, CUDA, None),
    # In that container the device is number 0.
    ("GoogleCloudPlatform/container-engine-accelerators/issues/72",
     {"vendor": "nvidia", "remove": ("dev/nvidia[0-24-7]",), **seen(CUDA_VISIBLE_DEVICES="3")}, CUDA,
     ("hidden-devices", "broken")),
    # CUDA's first program makes /dev/nvidia-uvm.
    ("NVIDIA/nvidia-modprobe",
     {"vendor": "nvidia", "remove": ("dev/nvidia-uvm",), "add": {"usr/bin/nvidia-modprobe": ""}}, CUDA, None),
    ("NVIDIA/nvidia-container-toolkit/pull/395", {"vendor": "nvidia", **seen(NVIDIA_VISIBLE_DEVICES="void")}, CUDA,
     None),
    ("NVIDIA/nvidia-container-toolkit/issues/1429",
     {"vendor": "nvidia", "files": False, "add": {".dockerenv": ""}, **seen(NVIDIA_VISIBLE_DEVICES="void")}, CUDA,
     ("device-files-missing", "broken")),
    ("ROCm/ROCR-Runtime/issues/155", seen(ROCR_VISIBLE_DEVICES="4,5", HIP_VISIBLE_DEVICES="4,5"), ROCM,
     ("hidden-devices", "broken")),
    ("mcmonkeyprojects/SwarmUI/issues/565", {"count": 2, **seen(ROCR_VISIBLE_DEVICES="1", HIP_VISIBLE_DEVICES="1")},
     ROCM, ("hidden-devices", "broken")),
    ("lumi-ai-factory/laifs-container-recipes/issues/13",
     seen(ROCR_VISIBLE_DEVICES="0,3,4,7", HIP_VISIBLE_DEVICES="0,1"), ROCM, None),
    ("radical-cybertools/radical.pilot/issues/2560",
     seen(ROCR_VISIBLE_DEVICES="4,5,6,7", CUDA_VISIBLE_DEVICES="4"), ROCM, ("hidden-devices", "broken")),
    ("mcmonkeyprojects/SwarmUI/issues/566", seen(ROCR_VISIBLE_DEVICES="GPU-f980f88ef31631a2"), ROCM, None),
    ("ROCm/legacy-rocm-build/issues/1170", seen(HIP_VISIBLE_DEVICES=""), ROCM, ("empty-list", "risk")),
    ("ROCm/legacy-rocm-build/issues/841", seen(GPU_DEVICE_ORDINAL=""), ROCM, None),
    ("ROCm/TheRock/issues/3392", {"add": nodes(2), "count": 2, **seen(HIP_VISIBLE_DEVICES="1")}, ROCM, None),
    # One board that is split into eight devices (CPX): the bus shows one.
    ("https://instinct.docs.amd.com/projects/amdgpu-docs/en/latest/gpu-partitioning/index.html",
     {"count": 1, "add": nodes(8) | {f"dev/dri/renderD{n}": "" for n in range(128, 136)},
      **seen(ROCR_VISIBLE_DEVICES="7")}, ROCM, None),
    ("https://docs.nvidia.com/datacenter/tesla/mig-user-guide/",
     {"vendor": "nvidia", **seen(CUDA_VISIBLE_DEVICES="MIG-7")}, CUDA, None),
    ("https://docs.jax.dev/en/latest/config_options.html", seen(JAX_PLATFORMS="rocm,cpu"), ROCM, None),
    ("https://docs.jax.dev/en/latest/config_options.html", {"vendor": "google", **seen(JAX_PLATFORMS="cpu,tpu")},
     TPU, ("cpu-first", "risk")),
]  # fmt: skip
OLD = {"opt/rocm/.info/version": "6.4.1-83\n"}
LIBRARY = "opt/rocm-6.4.1/lib/libamdhip64.so.6"
SDK = ROCM | {"rocm-sdk-core": "7.13.0a20260415"}
# Places of ROCm.
PLACES = [
    ("ROCm/rocm-jax/pull/438", {"add": OLD}, SDK, None),
    ("ROCm/TheRock/issues/4578", {"add": OLD | {"sdk/.info/version": "7.13.0"}, **seen(ROCM_PATH="/sdk")}, ROCM, None),
    ("ROCm/TheRock/issues/5475",
     {"remove": ("opt/rocm/.info/version",), "add": {"opt/rocm/core-7.14/.info/version": "7.14.0"}}, ROCM, None),
    ("ROCm/TheRock/issues/5475", {"remove": ("opt/rocm/.info/version",), "add": {
        "opt/rocm-7.2.0/.info/version": "7.2.0", "opt/rocm-10.1.0/.info/version": "10.1.0"}}, ROCM,
     ("runtime-version", "risk")),
    ("ROCm/TheRock/issues/1011", {"add": {LIBRARY: "", "opt/rocm-6.4.1/.info/version": "6.4.1"},
     **seen(LD_LIBRARY_PATH="/opt/rocm-6.4.1/lib")}, SDK, ("runtime-version", "risk")),
    ("ROCm/TheRock/issues/1011", {"add": {"old/lib/libamdhip64.so.7": "", "old/.info/version": "7.0.2"},
     **seen(LD_LIBRARY_PATH="/old/lib")}, SDK, ("library-path", "risk")),
    ("ROCm/jax/issues/268", {"add": OLD}, ROCM, ("runtime-version", "broken")),
]  # fmt: skip
ALL = (
    [("present", *row) for row in PRESENT] + [("visible", *row) for row in VISIBLE] + [("rocm", *row) for row in PLACES]
)


@pytest.mark.parametrize(("kind", "source", "made", "versions", "expected"), ALL,
                         ids=[f"{row[0]}-{row[1].split('/', 1)[1]}-{at}" for at, row in enumerate(ALL)])  # fmt: skip
def test_a_machine_of_a_public_report_is_judged_as_it_is(
    tmp_path: Path, kind: str, source: str, made: dict[str, Any], versions: dict[str, str],
    expected: tuple[str, str] | None,
) -> None:  # fmt: skip
    found = findings_on(invented(tmp_path, **made), versions)
    assert ((found[0].id, found[0].level) if found else None) == expected, f"{source}: {found}"
    content = {"start": None, "findings": [vars(each) for each in found]}
    assert exit_code(content) == int(expected is not None and expected[1] == "broken")


def test_the_newest_rocm_is_taken_by_its_number(tmp_path: Path) -> None:
    names = ("7.2.0", "7.14.0", "6.4.1")
    host = invented(tmp_path, remove=("opt/rocm/.info/version",),
                    add={f"opt/rocm-{name}/.info/version": name for name in names})  # fmt: skip
    about = facts(host)
    assert about["runtimes"]["rocm"] == "7.14.0"
    assert [each["version"] for each in about["rocm"]] == ["7.14.0", "7.2.0", "6.4.1"]


def test_every_place_of_rocm_is_seen(tmp_path: Path) -> None:
    write(tmp_path, "opt/rocm/core-7.14/.info/version", "7.14.0")
    write(tmp_path, "opt/rocm-6.4.1/lib/librccl.so")  # no version file: its name says it
    write(tmp_path, "sdk/.info/version", "7.13.0")
    write(tmp_path, "module/lib/libamdhip64.so.6")
    variables = {"ROCM_PATH": "/sdk", "LD_LIBRARY_PATH": ":/nowhere:/module/lib"}
    found = rocm.places(tmp_path, variables)
    assert [(each["place"], each["version"]) for each in found] == [
        ("LD_LIBRARY_PATH=/module/lib", "6"), ("ROCM_PATH=/sdk", "7.13.0"), ("/opt/rocm/core-7.14", "7.14.0"),
        ("/opt/rocm-6.4.1", "6.4.1"),
    ]  # fmt: skip
    wheels = {"rocm-sdk-core": "7.13.0a20260415"}
    used = [rocm.in_use(found[at:], versions) for at, versions in ((0, wheels), (1, wheels), (1, {}), (2, {}))]
    assert [each and each["version"] for each in used] == ["6", "7.13.0a20260415", "7.13.0", "7.14.0"]
    assert rocm.in_use([], {}) is None


def test_architectures_and_boards_are_named(tmp_path: Path) -> None:
    csv = "gpu,market_name,target_graphics_version\n0,AMD Instinct MI300X,gfx942\n"
    cuda = {"usr/local/cuda/version.json": json.dumps({"cuda": {"version": "13.0.1"}})}
    host = invented(tmp_path, add=nodes(8) | cuda,
                    tools={"amd-smi": csv, "rocm-smi": "old"})  # fmt: skip
    about = facts(host)
    assert about["gfx"] == ["gfx942"] * 8
    assert about["tools"] == {"amd-smi": csv.strip().splitlines()}, "rocm-smi only where amd-smi is missing"
    assert about["runtimes"]["cuda"] == "13.0.1"
    assert present(about) == {"amd": 8}
    (tmp_path / "sys/class/kfd/kfd/topology/nodes/1/properties").write_text(
        "simd_count 256\ngfx_target_version 90010\n"
    )
    assert facts(host)["gfx"][0] == "gfx90a"


@pytest.fixture
def run_amd_smi() -> Callable[..., Any]:
    return lambda command: "no answer within 10 s" if command[0] == "amd-smi" else None


def test_a_silent_tool_matters_only_where_its_devices_are_wanted(
    tmp_path: Path, run_amd_smi: Callable[..., Any]
) -> None:
    host = invented(tmp_path / "a", run=run_amd_smi)
    assert [each.id for each in findings_on(host, ROCM)] == ["tool-silent"]
    office = invented(tmp_path / "b", run=run_amd_smi)
    assert [each.id for each in findings_on(office, JAX)] == ["plugin-missing"]
