"""`sftref env`, and JAX's start with its deadlines: stub plugins hang, fail and crash where real ones do."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from machines import machine
from sftref.conformance import cli as kit
from sftref.conformance.core.settings import Settings
from sftref.conformance.machine import env
from sftref.conformance.machine.startup import start
from sftref.conformance.machine.startup_phases import PHASES
from sftref.conformance.workers.plan import KIT

from sftref import cli

# What a plugin does, and in which phase.
PLUGINS = {
    "hangs when imported": ("import time\ntime.sleep(600)\n", "plugin"),
    "hangs when it looks for devices": ("import time\ndef initialize():\n    time.sleep(600)\n", "first device"),
    "aborts": ("import os\nos.write(2, b'HSA_STATUS_ERROR: queue died\\n')\nos.abort()\n", "plugin"),
    "ends": ("import os\nos._exit(0)\n", "plugin"),
    "raises": ("raise OSError('libamdhip64.so.7: cannot open shared object file')\n", "plugin"),
}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that installs a stub plugin for JAX into a folder that Python finds."""

    def install(text: str) -> None:
        folder = tmp_path / "site"
        about = folder / "jax_stub_plugin-1.0.dist-info"
        about.mkdir(parents=True)
        (folder / "jax_stub.py").write_text(text)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: jax-stub-plugin\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[jax_plugins]\nstub = jax_stub\n")
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
        monkeypatch.setenv("SFTREF_START_SECONDS", "15")

    return install


def test_a_good_start_goes_through_all_phases() -> None:
    waiting: list[str] = []
    started = start(Settings(platform="cpu", devices=3), waiting.append, os.environ)
    assert started.how == "ready", started.line
    assert list(started.seconds) == list(PHASES)
    assert len(started.live["devices"]) == 3
    assert started.line.startswith("JAX started: import ")
    assert {"Python", "import"} <= set(waiting)


@pytest.mark.parametrize(
    ("does", "how", "message"),
    [
        ("hangs when imported", "hang", "in the phase 'plugin': no answer within 15 s; it was in <module> (site/"),
        ("aborts", "crash", "JAX crashed in the phase 'plugin': SIGABRT; last output: HSA_STATUS_ERROR: queue died"),
        ("ends", "crash", "JAX crashed in the phase 'plugin': exit code 0"),
        ("raises", "failed", "JAX failed in the phase 'plugin': OSError: libamdhip64.so.7: cannot open shared"),
    ],
)  # fmt: skip
def test_a_bad_start_names_its_phase(plugin: Callable[[str], None], does: str, how: str, message: str) -> None:
    text, phase = PLUGINS[does]
    plugin(text)
    started = start(Settings(), lambda _: None, os.environ)
    assert (started.how, started.phase) == (how, phase)
    assert message in started.line
    assert "import" in started.seconds


def test_a_start_that_crashes_at_its_end_or_before_jax_is_named(plugin: Callable[[str], None]) -> None:
    plugin("import atexit, os\natexit.register(os._exit, 9)\ndef initialize():\n    pass\n")
    started = start(Settings(platform="cpu", devices=1), lambda _: None, os.environ)
    assert (started.how, started.phase, started.message) == ("crash", "Python", "exit code 9")
    assert list(started.seconds) == list(PHASES)
    broken = start(Settings(), lambda _: None, {**os.environ, "PYTHONHOME": "/nowhere"})
    assert (broken.how, broken.phase) == ("crash", "Python")
    # 3.11 and 3.12 name init_fs_encoding here, 3.13 the module encodings.
    assert re.search("Fatal Python error: .*encoding", broken.message)


def test_verify_does_not_wait_for_a_driver_that_hangs(plugin: Callable[[str], None], tmp_path: Path) -> None:
    plugin(PLUGINS["hangs when it looks for devices"][0])
    words = [sys.executable, "-P", "-m", "sftref.cli", "verify", "--level", "quick", "--out", str(tmp_path / "out")]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 3, ended.stdout + ended.stderr
    last = ended.stdout.strip().splitlines()[-1]
    assert last.startswith("UNRESPONSIVE: 0 of ")
    assert "JAX hung in the phase 'first device': no answer within 15 s; it was in initialize" in last
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    jsonschema.validate(report, json.loads((KIT / "report" / "report.schema.json").read_text()))
    assert report["start"]["phase"] == "first device"
    assert report["diagnosis"]["cause"] == "JAX does not start on this machine."
    assert {check["message"] for check in report["checks"]} == {"JAX did not start"}


def test_the_block_has_the_machine_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    host = machine(tmp_path, mode=0o660, shm=64 << 20, variables={"JAX_PLATFORMS": "rocm", "HF_TOKEN": "secret"})
    content = env.gather(Settings(), host, lambda _: None, starts=False)
    text = "\n".join(env.block(content))
    for words in (
        "Debian GNU/Linux 13 (trixie), kernel 6.12.1", "iommu=pt", "accelerators: 8 x amd", "/dev/shm: 64 MiB",
        "`/dev/kfd` -rw-rw----", "**no read/write access**", "drivers: amd 6.14.14", "runtimes: rocm 7.0.2", "jax ",
        "`JAX_PLATFORMS=rocm`", "**broken**: no read/write access to /dev/kfd",
        "**risk**: /dev/shm has 64 MiB", "next: docker run --shm-size",
    ):  # fmt: skip
        assert words in text
    assert "secret" not in text
    assert env.exit_code(content) == 1
    assert json.loads(json.dumps(content)) == content


def test_the_command_needs_jax_and_nothing_else() -> None:
    """In an environment with JAX alone, as that of tox's accelerator environments."""
    code = (
        "import sys\n"
        "for name in ('pytest', '_pytest', 'hypothesis', 'flax', 'optax', 'orbax', 'tokenizers', 'safetensors',\n"
        "             'rich', 'pyarrow', 'pytest_benchmark', 'jsonschema'):\n"
        "    sys.modules[name] = None\n"
        "from sftref import cli\n"
        "sys.exit(cli.main(['env', '--no-start']))\n"
    )
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode in (0, 1), ended.stderr
    assert ended.stdout.startswith("### sftref env, 20")


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    code = cli.main(["env", "--devices", "2", "--json"])
    content = json.loads(capsys.readouterr().out)
    assert code == env.exit_code(content)
    assert content["start"]["how"] == "ready"
    assert len(content["start"]["live"]["devices"]) == 2
    assert cli.main(["env", "--no-start"]) == int(any(f["level"] == "broken" for f in content["findings"]))
    assert capsys.readouterr().out.startswith("### sftref env, 20")
    assert cli.main(["env", "--devices", "0"]) == 2
    assert capsys.readouterr().err == "sftref: --devices = 0, must be at least 1\n"
    assert "env" in kit.COMMANDS
    assert os.environ["JAX_PLATFORMS"] == "cpu", "this process's environment is unchanged"
