"""Where ROCm is on a machine, with versions: the loader's path, wheels, ROCM_PATH, and folders in /opt."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .releases import release

# The package that brings ROCm's runtime as wheels: https://github.com/ROCm/TheRock/blob/main/docs/packaging/python_packaging.md
WHEEL = "rocm-sdk-core"
# A plugin looks for its libraries in LD_LIBRARY_PATH, then in the wheels, then in /opt/rocm
# (https://github.com/ROCm/rocm-jax/pull/438). Newer packages use /opt/rocm/core-7.14
# (https://github.com/ROCm/TheRock/issues/5475).
FOLDERS = ("opt/rocm", "opt/rocm/core", "opt/rocm/core-*", "opt/rocm-*")
LIBRARY = "libamdhip64.so"


def places(root: Path, variables: Mapping[str, str]) -> list[dict[str, str]]:
    """Each place with a ROCm and its version, first the one that a plugin loads first; wheels are not among them."""
    found: dict[str, str] = {}
    for word in variables.get("LD_LIBRARY_PATH", "").split(":"):
        folder = root / word.lstrip("/")
        if word and any(folder.glob(f"{LIBRARY}*")):
            found.setdefault(f"LD_LIBRARY_PATH={word}", version(folder.parent) or _soname(folder) or "")
    own = variables.get("ROCM_PATH")
    if own:
        found["ROCM_PATH=" + own] = version(root / own.lstrip("/")) or ""
    link = version(root / FOLDERS[0])
    if link:
        found[f"/{FOLDERS[0]}"] = link
    others = {f"/{path.relative_to(root)}": text for pattern in FOLDERS[1:] for path in root.glob(pattern)
              if (text := version(path))}  # fmt: skip
    found |= dict(sorted(others.items(), key=lambda item: release(item[1]), reverse=True))
    return [{"place": place, "version": text} for place, text in found.items() if text]


def version(folder: Path) -> str | None:
    """The version of the ROCm in a folder, by its file or by its name; None if there is none."""
    try:
        text = (folder / ".info" / "version").read_text(errors="replace").strip().split("\n")[0]
    except OSError:
        text = ""
    named = re.fullmatch(r"(?:rocm|core)-(\d.*)", folder.name)
    text = text or (named[1] if named and folder.is_dir() else "")
    return text if re.match(r"\d", text) else None


def _soname(folder: Path) -> str | None:
    """The number in the name of HIP's library, which is the major version of ROCm, as in libamdhip64.so.7."""
    numbers = [match[1] for path in folder.glob(f"{LIBRARY}.*") if (match := re.search(r"\.so\.(\d+)$", path.name))]
    return numbers[0] if numbers else None


def in_use(found: Sequence[Mapping[str, str]], versions: Mapping[str, str]) -> Mapping[str, str] | None:
    """The ROCm that a plugin loads: the loader's path, wheels, ROCM_PATH, or /opt; None if there is none."""
    loader = next((each for each in found if each["place"].startswith("LD_LIBRARY_PATH=")), None)
    if loader is None and WHEEL in versions:
        return {"place": WHEEL, "version": versions[WHEEL]}
    return loader or next(iter(found), None)


def same(one: str, other: str) -> bool:
    """Whether two versions agree as far as both are known: 7 and 7.13.0, 7.2.0-43 and 7.2."""
    pairs = list(zip(release(one), release(other), strict=False))[:2]
    return all(a == b for a, b in pairs)
