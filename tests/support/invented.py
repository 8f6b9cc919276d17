"""Invented machines with one fault each, as rows (finding, arguments of `machine`, versions, words in its message)."""

from typing import Any

from sftref.conformance.machine.findings import findings
from sftref.conformance.machine.host import Host, facts

JAX = {"jax": "0.10.2", "jaxlib": "0.10.2", "python": "3.11.7"}
ROCM = JAX | {"jax-rocm7-plugin": "0.10.2", "jax-rocm7-pjrt": "0.10.2"}
ROCM60 = {"jax": "0.5.0", "jaxlib": "0.5.0", "python": "3.12.1", "jax-rocm60-plugin": "0.5.0",
          "jax-rocm60-pjrt": "0.5.0"}  # fmt: skip
CUDA = JAX | {"jax-cuda13-plugin": "0.10.2", "jax-cuda13-pjrt": "0.10.2"}
TPU = JAX | {"libtpu": "0.0.42.1"}
WHEELS = {"nvidia-cublas": "13.0.0.19"}
# (finding, arguments of `machine`, versions, words that the finding's message must have)
CASES: list[tuple[str, dict[str, Any], dict[str, str], list[str]]] = [
    ("driver-missing", {"driver": False, "files": False}, ROCM, ["amd: 8 on the PCI bus", "sudo modprobe amdgpu"]),
    ("driver-missing", {"vendor": "nvidia", "driver": False, "files": False}, CUDA, ["nvidia: 8", "nvidia-modprobe"]),
    ("device-files-missing", {"files": False}, ROCM, ["/dev/kfd or /dev/dri/renderD", "--device=/dev/kfd"]),
    ("device-files-missing", {"vendor": "nvidia", "files": False}, CUDA, ["/dev/nvidia-uvm", "--gpus all"]),
    ("device-permission", {"mode": 0o660}, ROCM, ["/dev/kfd (mode -rw-rw----", "sudo usermod -a -G"]),
    ("plugin-missing", {}, JAX, ["pip install 'jax[rocm7-local]==0.10.2'"]),
    ("plugin-missing", {"vendor": "google"}, JAX, ["pip install 'jax[tpu]==0.10.2'"]),
    ("plugin-without-device", {"count": 0, "files": False, "driver": False}, CUDA, ["jax-cuda13-pjrt", "nvidia"]),
    ("versions", {}, ROCM | {"jax-rocm7-plugin": "0.9.1"}, ["jax-rocm7-plugin 0.9.1", "jaxlib 0.10.2"]),
    ("two-plugins", {"vendor": "nvidia"}, CUDA | {"jax-cuda12-plugin": "0.10.2", "jax-cuda12-pjrt": "0.10.2"},
     ["jax-cuda12-plugin, jax-cuda13"]),
    ("runtime-version", {}, ROCM60, ["needs ROCm 6; found ROCm 7.0.2", "pip install 'jax[rocm7-local]==0.12.0'"]),
    ("platforms-variable", {"variables": {"JAX_PLATFORMS": "cpu"}}, ROCM, ["JAX_PLATFORMS=cpu", "name rocm"]),
    ("hidden-devices", {"variables": {"ROCR_VISIBLE_DEVICES": ""}}, ROCM, ["ROCR_VISIBLE_DEVICES=''", "unset"]),
    ("hidden-devices", {"vendor": "nvidia", "variables": {"CUDA_VISIBLE_DEVICES": "-1"}}, CUDA, ["'-1'"]),
    ("shared-memory", {"shm": 64 << 20}, ROCM, ["/dev/shm has 64 MiB, for 8", "--shm-size=16g"]),
    ("iommu", {"cmdline": "amd_iommu=on"}, ROCM, ["without iommu=pt (amd_iommu=on)"]),
    ("gfx-override", {"variables": {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}}, ROCM, ["10.3.0"]),
    ("library-path", {"vendor": "nvidia", "variables": {"LD_LIBRARY_PATH": "/opt/cuda/lib64"}}, CUDA | WHEELS,
     ["cuda/lib"]),
    ("empty-list", {"variables": {"HIP_VISIBLE_DEVICES": ""}}, ROCM, ["set and empty"]),
    ("cpu-first", {"variables": {"JAX_PLATFORMS": "cpu,rocm"}}, ROCM, ["JAX_PLATFORMS=rocm,cpu"]),
    ("platform-unavailable", {"count": 0, "files": False, "driver": False, "variables": {"JAX_PLATFORMS": "cuda"}},
     JAX, ["cuda is requested"]),
    ("flags", {"variables": {"XLA_FLAGS": "--xla_gpu_autotune_level=0"}}, ROCM, ["autotune_level=0"]),
    ("tool-silent", {"tools": {"rocm-smi": "no answer within 10 s"}}, ROCM, ["rocm-smi: no answer within 10 s"]),
]  # fmt: skip


def findings_on(host: Host, versions: dict[str, str]) -> list[Any]:
    return findings(facts(host), versions, host.variables)
