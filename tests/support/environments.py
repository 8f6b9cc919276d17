"""Clones and environments as the documentation says to make them: exactly the named packages and their dependencies.

`linked` links the packages installed here, in a second and without a network; `fresh` runs the page's uv or pip.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from packaging.requirements import Requirement
from sftref.conformance.core.release import write

ROOT = Path(__file__).parents[2]
PROJECT = re.compile(r"^\.(\[\w+\])?$")
SCRIPT = "#!{python}\nimport sys\nfrom {module} import {name}\nsys.exit({attribute}())\n"


def clone(folder: Path) -> Path:
    """Copy this repository's files into `folder`, as a git repository with one commit."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
    else:
        left = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "MANIFEST")
        shutil.copytree(ROOT, folder, ignore=left, dirs_exist_ok=True)
    for words in (["init"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "clone"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)
    return folder


def closure(requirements: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """The installed distributions that `requirements` need, by name, with extras and markers."""
    found: dict[str, importlib.metadata.Distribution] = {}
    done: set[tuple[str, str]] = set()
    open_ = [Requirement(PROJECT.sub(r"sftref\1", text)) for text in requirements]
    while open_:
        wanted = open_.pop()
        distribution = _installed(wanted.name)
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        found[name] = distribution
        for extra in ("", *wanted.extras):
            if (name, extra) in done:
                continue
            done.add((name, extra))
            for text in distribution.requires or ():
                more = Requirement(text)
                if more.marker is None or more.marker.evaluate({"extra": extra}):
                    open_.append(more)
    return found


def _installed(name: str) -> importlib.metadata.Distribution:
    """The installed distribution `name`, not the `.egg-info` that a build leaves in the source tree."""
    everywhere = importlib.metadata.distributions(name=name)
    return next(one for one in everywhere if Path(str(one.locate_file(""))).resolve() != ROOT)


def linked(folder: Path, requirements: list[str]) -> Path:
    """Make a virtual environment with links to `requirements` as installed here; returns its folder of commands."""
    venv.EnvBuilder(symlinks=True).create(folder)
    commands, python = folder / "bin", folder / "bin" / "python"
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for distribution in closure(requirements).values():
        tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
        # An editable installation has an import hook instead of files; it would import from outside this environment.
        finder = {top for top in tops if top.startswith("__editable__")}
        for top in tops - finder:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())
        if finder:
            _install(site)
        for entry in distribution.entry_points:
            if entry.group == "console_scripts":
                script = commands / entry.name
                name = entry.attr.partition(".")[0]
                text = SCRIPT.format(python=python, module=entry.module, name=name, attribute=entry.attr)
                script.write_text(text)
                script.chmod(0o755)
    return commands


def _install(site: Path) -> None:
    """Install this project into `site`, with the files of its wheel."""
    left = shutil.ignore_patterns("__pycache__", ".*", "MANIFEST")
    shutil.copytree(ROOT / "sftref", site / "sftref", ignore=left)
    write(Path(shutil.copytree(ROOT / "conformance", site / "sftref" / "conformance", ignore=left)))


def fresh(folder: Path, command: str, here: Path) -> Path:
    """Make an environment by the command of a page, run in the folder `here`; returns its folder of commands."""
    command = command.replace(" && . .venv/bin/activate", "").replace(".venv", str(folder))
    if shutil.which("uv"):
        command = command.replace("python3 -m venv", f"uv venv --quiet --python {sys.executable}")
        command = command.replace(f"{folder}/bin/pip install", f"uv pip install --python {folder}/bin/python")
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=here, env=variables(), check=True)
    return folder / "bin"


def variables(commands: Path | None = None, **more: str) -> dict[str, str]:
    """The variables of a shell with an activated environment, without those of this run of pytest."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHONPATH"))}
    # Without this setting, git refuses submodules from a local path.
    kept |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.file.allow", "GIT_CONFIG_VALUE_0": "always"}
    if commands is not None:
        kept["PATH"] = f"{commands}{os.pathsep}{kept['PATH']}"
        kept["VIRTUAL_ENV"] = str(commands.parent)
    return kept | more
