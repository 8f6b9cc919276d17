"""Installs sftref beside the JAX of this machine without changing that JAX, for tox's accelerator environments.

    python conformance/machine/host_jax.py PROJECT [PLATFORM]

A plain `pip install` can replace a vendor's jaxlib or plugin by the newest release on PyPI; tests then run, and
pass, on the CPU. So the versions of JAX and its dependencies are given to pip as constraints, and compared afterwards.

tox runs it as a file, in an environment that has pip only: it imports nothing but the standard library.

SFTREF_JAX names an extra of JAX to install instead: rocm7-local, cuda13, cuda12, tpu. For PLATFORM `cpu`, a missing JAX
is installed from PyPI. Exit code 2: Python is too old, there is no JAX, or sftref cannot be installed without changing
it.
"""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# The packages of a JAX with a vendor's plugin, and the packages that this JAX was compiled against.
FROZEN = re.compile(
    r"(jax|jaxlib|jax[-_].*|libtpu.*|nvidia[-_].*|.*rocm.*|numpy|scipy|ml[-_]dtypes|opt[-_]einsum)", re.IGNORECASE
)

# As requires-python in pyproject.toml.
LEAST_PYTHON = (3, 11)


def installed() -> dict[str, str]:
    """Name -> version of the packages that must not change; of two with the same name, the one that Python imports."""
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name and FROZEN.fullmatch(name):
            versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return versions


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """A text for each package whose version changed or that was removed; new packages do not count."""
    return [f"{name} {version} -> {after.get(name, 'removed')}" for name, version in before.items()
            if after.get(name) != version]  # fmt: skip


def refuse(message: str) -> int:
    """Print one line on stderr; returns the exit code."""
    print(f"sftref: {message}", file=sys.stderr)
    return 2


def pip(*words: str) -> int:
    """`pip install` for this interpreter; returns its exit code."""
    return subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *words], check=False).returncode


def main() -> int:
    """Install PROJECT and compare the versions; returns the exit code."""
    if sys.version_info[:2] < LEAST_PYTHON:  # pip would try every release of every requirement for minutes
        have, least = (".".join(map(str, numbers)) for numbers in (sys.version_info[:2], LEAST_PYTHON))
        return refuse(
            f"Python {have} ({sys.executable}) is too old: sftref needs Python >= {least}. Run tox with a newer "
            "Python that has JAX, or use a newer image of rocm/jax"
        )
    project, platform = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    extra = os.environ.get("SFTREF_JAX") or ("cpu" if platform == "cpu" and "jax" not in installed() else "")
    if extra and pip(f"jax[{extra}]" if extra != "cpu" else "jax"):
        return refuse(f"SFTREF_JAX = {extra}: pip could not install jax[{extra}]; see its output above")
    before = installed()
    if not {"jax", "jaxlib"} <= before.keys():
        return refuse(
            f"no JAX is installed for {sys.base_prefix}: set SFTREF_JAX to the extra to install (rocm7-local, cuda13, "
            "tpu), or run tox with the Python that has JAX. tox does not see a JAX in a virtual environment: there, "
            f"run `pip install --no-deps {project}` and `sftref verify`"
        )
    print("unchanged:", ", ".join(f"{name} {version}" for name, version in sorted(before.items())), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in before.items()))
        if pip("--constraint", str(constraints), f"{project}[train]"):
            return refuse("sftref cannot be installed beside this JAX; see pip's conflict above")
    importlib.invalidate_caches()
    changes = changed(before, installed())
    if changes:
        return refuse(f"the installation changed JAX or its dependencies: {', '.join(changes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
