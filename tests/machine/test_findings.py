"""Problems of a machine before JAX is imported: each finding on an invented machine, and none on a good one."""

import importlib.metadata
import tomllib
from pathlib import Path
from typing import Any

import pytest
from invented import CASES, CUDA, JAX, ROCM, TPU, findings_on
from machines import machine
from sftref.conformance.machine.findings import LEVELS, least_jaxlib, present
from sftref.conformance.machine.host import Host, facts
from sftref.conformance.machine.versions import release
from sftref.conformance.workers.plan import KIT

TEXTS = tomllib.loads((KIT / "machine" / "findings.toml").read_text())


@pytest.mark.parametrize(("vendor", "versions"), [("amd", ROCM), ("nvidia", CUDA), ("google", TPU)])
def test_a_good_machine_has_no_finding(tmp_path: Path, vendor: str, versions: dict[str, str]) -> None:
    host = machine(tmp_path, vendor)
    assert findings_on(host, versions) == []
    assert present(facts(host)) == {vendor: 8}


def test_a_machine_without_accelerators_has_no_finding(tmp_path: Path) -> None:
    host = machine(tmp_path, count=0, driver=False, files=False, variables={"JAX_PLATFORMS": "cpu"}, shm=1 << 20)
    assert findings_on(host, JAX) == []


@pytest.mark.parametrize(("name", "made", "versions", "words"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_each_problem_is_the_only_finding(
    tmp_path: Path, name: str, made: dict[str, Any], versions: dict[str, str], words: list[str]
) -> None:
    (finding,) = findings_on(machine(tmp_path, **made), versions)
    assert finding.id == name
    text = f"{finding.what}\n{finding.next}"
    for word in words:
        assert word in text
    assert "{" not in text


def test_a_jaxlib_that_is_too_old_is_named(tmp_path: Path) -> None:
    jax = importlib.metadata.version("jax")
    least = least_jaxlib(jax)
    assert release("0.4") < release(least) <= release(importlib.metadata.version("jaxlib"))
    host = machine(tmp_path, count=0, driver=False, files=False)
    (finding,) = findings_on(host, {"jax": jax, "jaxlib": "0.4.1", "python": "3.11.7"})
    assert finding.what == f"jaxlib 0.4.1 does not match jax {jax}, which needs jaxlib {least} to {jax}"


def test_an_old_driver_is_named_with_the_plugin_that_goes_with_it(tmp_path: Path) -> None:
    host = machine(tmp_path, "nvidia")
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14\n")
    (finding,) = findings_on(host, CUDA)
    assert finding.what == "jax-cuda13-pjrt needs driver 580 or newer; found driver 550.54"
    assert "jax-cuda12-plugin" in finding.next


def test_a_group_opens_the_files_and_root_needs_none(tmp_path: Path) -> None:
    host = machine(tmp_path, mode=0o660)
    gid = (tmp_path / "dev/kfd").stat().st_gid
    for more in ({"groups": (gid,)}, {"user": 0}):
        files = Host(**(vars(host) | more)).device_files("amd")
        assert all(file["usable"] for file in files)


def test_in_a_container_the_next_command_is_the_containers(tmp_path: Path) -> None:
    host = machine(tmp_path, mode=0o660)
    (tmp_path / ".dockerenv").touch()
    (finding,) = findings_on(host, ROCM)
    assert finding.next.startswith("docker run --group-add ")


def test_the_worst_comes_first(tmp_path: Path) -> None:
    host = machine(tmp_path, mode=0o660, shm=1, variables={"XLA_FLAGS": "--a"})
    assert [finding.level for finding in findings_on(host, ROCM)] == list(LEVELS)


def test_every_text_is_shown_by_a_case_and_says_what_to_do() -> None:
    assert set(TEXTS) == {name for name, *_ in CASES}
    for text in TEXTS.values():
        assert text.keys() == {"level", "what", "why", "next", "source"}
        assert text["level"] in LEVELS
        assert text["source"].startswith("https://")
        assert "{" not in text["why"]
