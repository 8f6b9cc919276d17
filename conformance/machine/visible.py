"""The variables that hide devices -> which of them leaves none, by the rules of the runtimes that read them.

HIP: https://github.com/ROCm/rocm-systems, `projects/clr/rocclr/device/rocm/rocdevice.cpp`, Device::init: the list is
HIP_VISIBLE_DEVICES or, if that is empty, CUDA_VISIBLE_DEVICES; it counts within the devices that ROCR_VISIBLE_DEVICES
leaves, and ends at the first entry that is not one of them. GPU_DEVICE_ORDINAL is for OpenCL only.
CUDA: https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html. An empty list hides
every device. NVIDIA_VISIBLE_DEVICES is read when a container starts, not by CUDA: it hides nothing from a process, and
is `void` in every container that CDI made (https://github.com/NVIDIA/nvidia-container-toolkit/pull/395).
"""

from collections.abc import Iterator, Mapping

# Beginnings of entries that name a device by its own identifier, which cannot be judged without the driver.
NAMED = ("GPU-", "MIG-")


def left(value: str, count: int) -> int:
    """How many of `count` devices a list leaves."""
    kept = 0
    for word in value.split(","):
        text = word.strip()
        if not text.startswith(NAMED) and not (text.isdigit() and int(text) < count):
            break
        kept += 1
    return kept


def hiding(vendor: str, variables: Mapping[str, str], count: int) -> Iterator[tuple[str, str]]:
    """(variable, why) of the variable that hides all of a vendor's `count` devices, if one does."""
    if vendor == "nvidia" and "CUDA_VISIBLE_DEVICES" in variables:
        yield from _all_hidden("CUDA_VISIBLE_DEVICES", variables, count, f"this machine has {_numbers(count)}")
    if vendor != "amd":
        return
    within = f"this machine has {_numbers(count)}"
    if "ROCR_VISIBLE_DEVICES" in variables:
        outer = left(variables["ROCR_VISIBLE_DEVICES"], count)
        if outer == 0:
            yield from _all_hidden("ROCR_VISIBLE_DEVICES", variables, count, within)
            return
        count, within = outer, f"ROCR_VISIBLE_DEVICES leaves {_numbers(outer)}"
    name = "HIP_VISIBLE_DEVICES" if variables.get("HIP_VISIBLE_DEVICES") else "CUDA_VISIBLE_DEVICES"
    if variables.get(name):
        yield from _all_hidden(name, variables, count, within)


def _all_hidden(name: str, variables: Mapping[str, str], count: int, why: str) -> Iterator[tuple[str, str]]:
    if left(variables[name], count) == 0:
        yield name, why


def _numbers(count: int) -> str:
    return "one device, number 0" if count == 1 else f"devices 0 to {count - 1}"
