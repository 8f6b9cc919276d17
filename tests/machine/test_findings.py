"""Problems of a machine before JAX is imported: each finding on an invented machine, and none on a good one."""

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from invented import CASES, CUDA, JAX, ROCM, TPU, findings_on
from machines import machine, write
from sftref.conformance.machine.findings import LEVELS, least_jaxlib
from sftref.conformance.machine.host import facts, opens, present
from sftref.conformance.workers.plan import KIT

TEXTS = tomllib.loads((KIT / "machine" / "findings.toml").read_text())
OLD_DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14\n"


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
    assert least_jaxlib("0.10.2") == "0.10.1"
    assert least_jaxlib("999.0") == "0", "nothing is known of it"
    host = machine(tmp_path, count=0, driver=False, files=False)
    (finding,) = findings_on(host, JAX | {"jaxlib": "0.4.1"})
    assert finding.what == "jaxlib 0.4.1 does not match jax 0.10.2, which needs jaxlib 0.10.1 to 0.10.2"


@pytest.mark.parametrize(
    ("board", "compat", "level"),
    [
        ("NVIDIA GeForce RTX 4090", False, "broken"),
        ("NVIDIA H100 80GB HBM3", False, "risk"),
        ("", False, "risk"),
        ("NVIDIA H100 80GB HBM3", True, None),
    ],
)
def test_an_old_driver_is_broken_only_where_cuda_compat_does_not_run(
    tmp_path: Path, board: str, compat: bool, level: str | None
) -> None:
    host = machine(tmp_path, "nvidia", tools={"nvidia-smi": f"{board}, 550.54.14, 81559 MiB"} if board else {})
    write(tmp_path, "proc/driver/nvidia/version", OLD_DRIVER)
    if compat:
        write(tmp_path, "usr/local/cuda-13.0/compat/libcuda.so.1")
    found = findings_on(host, CUDA)
    assert [finding.level for finding in found] == ([level] if level else [])
    if level:
        words = f" ({board})" if board else ""
        assert found[0].what == f"jax-cuda13-pjrt needs driver 580 or newer; found driver 550.54{words}"
        assert "pip install 'jax[cuda12]==0.10.2'" in found[0].next


def test_access_is_what_opening_a_file_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of access (ACL) lets a user open a file whose mode does not; a container's rules refuse where it does."""
    file = write(tmp_path, "dev/kfd")
    assert opens(file)
    for error, access in ((PermissionError("ACL"), False), (OSError(16, "busy"), True)):

        def fail(*_: object, error: OSError = error, **__: object) -> int:
            raise error

        monkeypatch.setattr(os, "open", fail)
        assert opens(file) is access


def test_a_tpus_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", lambda *_, **__: pytest.fail("a TPU's file is for one process at a time"))
    assert opens(write(tmp_path, "dev/accel0"))
    assert opens(write(tmp_path, "dev/vfio/0"))


@pytest.mark.parametrize(
    ("container", "gid", "words"),
    [
        (".dockerenv", 109, "docker run --group-add 109"),
        ("run/.containerenv", 109, "podman run --group-add keep-groups"),
        (None, 109, "sudo usermod -a -G render"),
        (None, 0, "udev rule"),
    ],
)
def test_the_next_command_gives_access_and_never_roots_group(
    tmp_path: Path, container: str | None, gid: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = machine(tmp_path, mode=0o660)
    if container:
        write(tmp_path, container)
    about = facts(host)
    for file in about["device_files"]["amd"]:
        file |= {"gid": gid, "group": "render" if gid else "root"}
    monkeypatch.setattr("invented.facts", lambda _: about)
    (finding,) = findings_on(host, ROCM)
    assert words in finding.next
    assert "-G 0" not in finding.next
    assert "-G root" not in finding.next


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
