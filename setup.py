"""What pyproject.toml cannot say: the kit's folder becomes `sftref.conformance`, and a release has its MANIFEST."""

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
    """Into a wheel; an editable installation has the clone's files, which git knows."""

    def run(self) -> None:
        """Copy the files, without what an earlier build left, and list those of the kit."""
        if self.editable_mode:
            return super().run()
        shutil.rmtree(Path(self.build_lib, "sftref"), ignore_errors=True)
        super().run()
        write(Path(self.build_lib, "sftref", "conformance"))
        return None


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
