"""tox's environments for accelerators: install sftref beside the JAX that is already here, and leave that as it is.

    python conformance/machine/host_jax.py PROJECT [PLATFORM]

Without care pip replaces a vendor's jaxlib or plugin by the newest from PyPI, and everything then passes on the CPU.
So whatever JAX stands on is frozen first, sftref is installed under that constraint, and it is looked at again.

SFTREF_JAX names an extra of JAX to install instead: rocm7-local, cuda13, cuda12, tpu; for PLATFORM `cpu` JAX comes from
PyPI where there is none. Exit code 2: there is no JAX, or it would have had to change.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# What a JAX with a vendor's plugin is made of, and what it was compiled against.
FROZEN = re.compile(
    r"(jax|jaxlib|jax[-_].*|libtpu.*|nvidia[-_].*|.*rocm.*|numpy|scipy|ml[-_]dtypes|opt[-_]einsum)", re.IGNORECASE
)


def installed() -> dict[str, str]:
    """Name -> version of what must stay as it is; of two of a name, the one that Python imports."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name and FROZEN.fullmatch(name):
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is not as it was, a text each; what came new is no change."""
    return [f"{name} {version} -> {after.get(name, 'gone')}" for name, version in before.items()
            if after.get(name) != version]  # fmt: skip


def refuse(said: str) -> int:
    """One line on stderr, and the exit code for it."""
    print(f"sftref: {said}", file=sys.stderr)
    return 2


def pip(*words: str) -> int:
    """Run pip for this interpreter; its exit code."""
    return subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *words], check=False).returncode


def main() -> int:
    """Freeze, install, look again."""
    project, platform = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    extra = os.environ.get("SFTREF_JAX") or ("cpu" if platform == "cpu" and "jax" not in installed() else "")
    if extra and pip(f"jax[{extra}]" if extra != "cpu" else "jax"):
        return refuse(f"SFTREF_JAX = {extra}: pip could not install jax[{extra}]; see above")
    before = installed()
    if not {"jax", "jaxlib"} <= before.keys():
        return refuse(
            f"no JAX is installed for {sys.base_prefix}: set SFTREF_JAX to the extra that it needs (rocm7-local, "
            "cuda13, tpu), or run tox with the Python that has JAX; one in a virtual environment is not seen: "
            f"there, `pip install --no-deps {project}` and `sftref verify`"
        )
    print("kept as they are:", ", ".join(f"{name} {version}" for name, version in sorted(before.items())), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in before.items()))
        if pip("--constraint", str(constraints), f"{project}[train]"):
            return refuse("sftref cannot be installed beside this JAX; see above for what does not go with it")
    importlib.invalidate_caches()
    odd = changed(before, installed())
    if odd:
        return refuse(f"the installation replaced what was here: {', '.join(odd)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
