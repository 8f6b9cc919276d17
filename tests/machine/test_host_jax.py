"""tox's environments for accelerators do not change the machine's JAX; pip is a stub."""

import importlib.util
import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ROCM = {"jax": "0.9.2", "jaxlib": "0.9.2", "jax-rocm7-plugin": "0.9.2.post1", "numpy": "2.2.0"}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, with a stub of pip that can replace packages."""
    spec = importlib.util.spec_from_file_location("host_jax", ROOT / "conformance" / "machine" / "host_jax.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.here, module.installs, module.after, module.code = dict(ROCM), [], {}, 0

    def pip(*words: str) -> int:
        constraints = [Path(word).read_text() for word in words if word.endswith("constraints.txt")]
        module.installs.append((words, "".join(constraints)))
        module.here |= module.after
        return int(module.code)

    monkeypatch.setattr(module, "pip", pip)
    monkeypatch.setattr(module, "installed", lambda: dict(module.here))
    monkeypatch.setattr("sys.argv", ["host_jax.py", str(ROOT), "rocm"])
    monkeypatch.delenv("SFTREF_JAX", raising=False)
    return module


def test_installed_versions_are_constraints(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert host.main() == 0
    ((words, constraints),) = host.installs
    assert words[-1] == f"{ROOT}[train]"
    assert constraints.splitlines() == [f"{name}=={version}" for name, version in ROCM.items()]
    assert "jax-rocm7-plugin 0.9.2.post1" in capsys.readouterr().out


def test_a_replaced_jaxlib_is_refused(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    host.after = {"jaxlib": "0.12.0.1"}
    assert host.main() == 2
    err = capsys.readouterr().err
    assert err == "sftref: the installation changed JAX or its dependencies: jaxlib 0.9.2 -> 0.12.0.1\n"


def test_without_a_jax_the_message_says_how_to_install_one(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    host.here = {"numpy": "2.2.0"}
    assert host.main() == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "set SFTREF_JAX to the extra to install (rocm7-local, cuda13, tpu)" in err
    assert host.installs == []


@pytest.mark.parametrize(("extra", "platform", "wanted"), [("cuda13", "cuda", "jax[cuda13]"), ("", "cpu", "jax")])
def test_a_requested_jax_is_installed_first(
    host: Any, monkeypatch: pytest.MonkeyPatch, extra: str, platform: str, wanted: str
) -> None:
    monkeypatch.setenv("SFTREF_JAX", extra)
    monkeypatch.setattr("sys.argv", ["host_jax.py", str(ROOT), platform])
    host.here, host.after = {}, {"jax": "0.10.2", "jaxlib": "0.10.2"}
    assert host.main() == 0
    assert [words[0] for words, _ in host.installs] == [wanted, "--constraint"]


def test_an_old_python_is_named_before_pip_tries_every_release(
    host: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of rocm/jax have Python 3.10; requires-python in pyproject.toml is the same number."""
    monkeypatch.setattr("sys.version_info", (3, 10, 12, "final", 0))
    assert host.main() == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("sftref: Python 3.10 (")
    assert "sftref needs Python >= 3.11" in err
    assert host.installs == []
    least = ".".join(map(str, host.LEAST_PYTHON))
    assert f'requires-python = ">={least}"' in (ROOT / "pyproject.toml").read_text()


def test_an_extra_that_pip_does_not_know_is_refused(
    host: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SFTREF_JAX", "rocm99")
    host.code = 1
    assert host.main() == 2
    assert "SFTREF_JAX = rocm99: pip could not install jax[rocm99]" in capsys.readouterr().err


def test_tox_passes_on_every_variable_that_the_kit_looks_at() -> None:
    from sftref.conformance.machine.remedies import LOADER
    from sftref.conformance.machine.snapshot import PREFIXES

    tox = ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    env = tox["testenv:{cpu,gpu,rocm,cuda,tpu}"]
    passed = env["pass_env"].split()
    for prefix in PREFIXES:
        assert f"{prefix}*" in passed
    # AMD's own images set LLVM_PATH: https://github.com/ROCm/rocm-jax, `docker`.
    assert {"LLVM_PATH", *LOADER} <= set(passed)
    assert env["system_site_packages"] == "true"
    assert env["runner"] == "virtualenv"
    assert re.search(r"verify --platform \{env_name\}", env["commands"])
