"""Clusters of one machine for the tests of this folder: namespaces as hosts, and Slurm on them."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hosts as namespaces
import pytest
import slurm as slurms


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """An empty folder whose path is short enough for a socket; pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="sft") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def four_hosts(short_folder: Path) -> Iterator[namespaces.Hosts]:
    """Four network namespaces with a name and an address each."""
    if reason := namespaces.unavailable():
        pytest.skip(reason)
    with namespaces.hosts(4, short_folder) as running:
        yield running


@pytest.fixture(scope="module")
def slurm(four_hosts: namespaces.Hosts) -> Iterator[dict[str, str]]:
    """Slurm on the four hosts; the variables for its commands."""
    if reason := slurms.unavailable():
        pytest.skip(reason)
    with slurms.slurm(four_hosts) as variables:
        yield variables


@pytest.fixture(scope="module")
def mpirun() -> list[str]:
    """The command of Open MPI, as root, with more processes than cores."""
    if shutil.which("mpirun") is None:
        pytest.skip("not installed: Debian's openmpi-bin")
    return ["mpirun", "--allow-run-as-root", "--oversubscribe"]
