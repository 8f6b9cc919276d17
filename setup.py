"""What pyproject.toml cannot express: `conformance/` is installed as `sftref.conformance`, with a MANIFEST."""

import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from conformance.core.release import write  # noqa: E402


class Build(build_py):
    """Builds a wheel with a MANIFEST. An editable installation needs none: git compares the files of the clone."""

    def run(self) -> None:
        """Delete the files of an earlier build, copy the files, and write the kit's MANIFEST."""
        if self.editable_mode:
            return super().run()
        shutil.rmtree(Path(self.build_lib, "sftref"), ignore_errors=True)
        super().run()
        write(Path(self.build_lib, "sftref", "conformance"))
        return None


class Source(sdist):
    """Builds a source distribution with a MANIFEST."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy the files, then write the kit's MANIFEST."""
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
