"""What pyproject.toml cannot say: the kit's folder becomes `sftref.conformance`, and a release has its MANIFEST."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from conformance.core.release import MANIFEST, manifest, write  # noqa: E402

KIT = "sftref/conformance"


class Build(build_py):
    """Into a wheel; an editable installation has the clone's files, which git knows."""

    def run(self) -> None:
        """Copy the files, then list them: a stale one in the build folder is not listed."""
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, KIT)
        files = sorted(Path(name) for name in self.get_outputs(include_bytecode=False))
        digests = {
            file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
            if file.is_relative_to(folder)
        }
        (folder / MANIFEST).write_text(manifest(digests), encoding="utf-8")


class Source(sdist):
    """Into a source distribution."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy the files, then list those of the kit."""
        super().make_release_tree(base_dir, files)
        write(Path(base_dir, "conformance"))


setup(
    # The kit is at the top level, so that it can be copied whole. It is installed inside the package, so that no folder
    # called `conformance` in a user's own project can take its place.
    packages=[
        *find_packages(include=["sftref", "sftref.*"]),
        *(f"sftref.{name}" for name in find_packages(include=["conformance", "conformance.*"])),
    ],
    package_dir={"sftref.conformance": "conformance"},
    cmdclass={"build_py": Build, "sdist": Source},
)
