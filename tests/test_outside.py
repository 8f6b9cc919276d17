"""What a shell, a terminal, a disk and other runs do to a command: one line that names the thing, and nothing lost."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest
from sftref.conformance.core import output
from sftref.conformance.run import surroundings

from sftref import cli
from sftref.cluster import devices, distributed, supervise
from sftref.config import ConfigError, TrainConfig
from sftref.train import folder, records
from sftref.train.checkpoint import Checkpoints

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space, or choose another folder"),
        (errno.EDQUOT, "free some space, or choose another folder"),
        (errno.EACCES, "change its permissions, or choose another"),
        (errno.EROFS, "choose a folder on a file system that can be written"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
        (errno.EMFILE, "raise the limit of open files (ulimit -n)"),
        (errno.ENOENT, ""),
        (errno.EIO, ""),
    ],
)
def test_only_a_known_cause_gets_advice(number: int, advice: str) -> None:
    error = OSError(number, os.strerror(number), "a\nb")
    message = f"a b: {os.strerror(number)}{f'; {advice}' if advice else ''}"
    assert surroundings.reason(error) == message
    assert cli._explain(error) == (message, 2)


def test_a_current_folder_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        assert "the current folder no longer exists" in surroundings.reason(FileNotFoundError(errno.ENOENT, "No"))
    finally:
        monkeypatch.chdir(tmp_path)


WRITES = """
import os, sys
from sftref.conformance.run import surroundings
surroundings.keep_streams()
for _ in range(3):
    print('x' * 100000, flush=True)
os.system('echo from a child')
print(f'done {surroundings.unwritten()}', file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        ("| true", "done "),
        ("> /dev/full", "done standard output: No space left on device; what the command printed is lost"),
        (">&-", "done "),
    ],
)
def test_a_run_goes_on_without_its_output(redirection: str, message: str) -> None:
    ended = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, WRITES],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.stderr.startswith(message), ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_closed_terminal_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with surroundings.without_terminal():
            signal.raise_signal(signal.SIGHUP)  # would end this process
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--xla_no_such_flag=1", "--xla_no_such_flag=1"),
        ("--xla_cpu_enable_fast_math=maybe", "xla_cpu_enable_fast_math"),
        ("--xla_cpu_enable_fast_math=false", ""),
        ("--xla_force_host_platform_device_count=4", ""),
        ("", ""),
    ],
)
def test_flags_that_xla_refuses_are_named(flags: str, named: str) -> None:
    if named:
        with pytest.raises(ValueError, match=rf"^XLA_FLAGS={flags}: this jaxlib refuses it .*{named}"):
            surroundings.check_flags(os.environ | {"XLA_FLAGS": flags})
    else:
        surroundings.check_flags(os.environ | {"XLA_FLAGS": flags})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("JAX_ENABLE_X64", "maybe", "JAX refuses a variable"), ("XLA_FLAGS", "--xla_no_such=1", "--xla_no_such=1: this")],
)
def test_a_variable_that_jax_refuses_is_named(name: str, value: str, message: str) -> None:
    start = "import sys; from sftref.cli import main; sys.exit(main(['train', '--out', '/proc/no']))"
    ended = subprocess.run(
        [sys.executable, "-c", start], env=os.environ | {name: value}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert message in ended.stderr
    assert name in ended.stderr


def test_pytest_names_a_flag_that_xla_refuses(tmp_path: Path) -> None:
    # XLA ends the process, and pytest has captured what it writes: no output at all.
    words = ["-m", "pytest", "-q", "--pyargs", "sftref.conformance", "--sftref-only=1", "--sftref-level=quick"]
    variables = os.environ | {"XLA_FLAGS": "--xla_no_such=1"}
    ended = subprocess.run(
        [sys.executable, *words], env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert "XLA_FLAGS=--xla_no_such=1: this jaxlib refuses it" in ended.stderr


def test_a_platform_that_jax_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    def fails() -> None:
        raise RuntimeError("Unable to initialize backend 'rocm'")

    monkeypatch.setattr(jax, "devices", fails)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu,rocm")
    with pytest.raises(ConfigError, match=r"^JAX_PLATFORMS=cpu,rocm: no backend starts .*; unset JAX_PLATFORMS"):
        devices._devices()


def test_the_users_number_of_devices_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    updates: list[str] = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: updates.append(name))
    monkeypatch.setattr(devices, "_devices", lambda: [SimpleNamespace(platform="cpu")] * 4)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
    assert len(devices.start(TrainConfig())) == 4
    with pytest.raises(ConfigError, match="must be at most 4, the cpu devices that JAX_NUM_CPU_DEVICES sets"):
        devices.start(TrainConfig(devices=8))
    assert "jax_num_cpu_devices" not in updates
    # Debugging aids that a shell may set, under which Flax and optax fail.
    assert {"jax_transfer_guard", "jax_numpy_dtype_promotion", "jax_numpy_rank_promotion"} <= set(updates)


def test_processes_connect_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    from sftref.conformance.laws.support import process_group

    for name in ("http_proxy", "HTTPS_PROXY", "grpc_proxy", "no_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with distributed.without_proxies():
        assert not [name for name in os.environ if name.lower().endswith("_proxy")]
    assert os.environ["HTTPS_PROXY"] == os.environ["no_proxy"] == "http://127.0.0.1:9"
    assert not [name for name in process_group._variables() if name.lower().endswith("_proxy")]


@pytest.mark.parametrize("error", [KeyError("OMPI_COMM_WORLD_RANK"), ValueError("invalid literal"), OSError("no host")])
def test_variables_of_another_job_are_named(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", fails)
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1.0;tcp://127.0.0.1:1")
    with pytest.raises(ConfigError, match="OMPI_MCA_orte_hnp_uri may be left over from another job"):
        distributed.join(distributed.Cluster(auto=True))


def test_a_log_that_cannot_be_written_does_not_stop_the_worker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    copied = supervise.Output(tmp_path / "file")
    copied.copy(iter([f"{supervise.JOINED}0 of 2\n", "a line\n"]), sys.stdout)  # type: ignore[arg-type]
    printed = capsys.readouterr()
    assert printed.out == "a line\n"
    assert "Not a directory; the run goes on without this log" in printed.err


@pytest.mark.parametrize(
    ("variables", "home", "wanted"),
    [
        ({"SFTREF_CACHE": "/c"}, "/h", "/c"),
        ({"XDG_CACHE_HOME": "/x"}, "/h", "/x/sftref"),
        ({"XDG_CACHE_HOME": ""}, "/h", "/h/.cache/sftref"),
        ({"XDG_CACHE_HOME": "relative"}, "/h", "/h/.cache/sftref"),
        ({}, "~", None),  # neither HOME nor a user of this number
    ],
)
def test_the_cache_needs_no_home(
    variables: dict[str, str], home: str, wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda text: text.replace("~", home))
    assert cli.cache_folder(variables) == (None if wanted is None else Path(wanted))


@pytest.mark.parametrize(("text", "message"), [("", "is empty"), ("x\udcff", r"'x\\xff' is not in the encoding utf-8")])
def test_a_path_that_libraries_cannot_take_is_refused(
    text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("train", "verify"):
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--out", text])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert message.replace(r"\\", "\\") in error
        assert error.endswith(f"; see sftref {command} --help\n")
        assert error.count("\n") == 1
    assert output.path("~/x") == Path.home() / "x"


@pytest.mark.parametrize(("save", "word"), [("run", "is"), ("run/../run", "is"), (".", "contains")])
def test_a_model_is_not_saved_among_records(
    save: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    with pytest.raises(ConfigError, match=f"{word} the folder of the records, --out run"):
        folder.check_save(Path(save), Path("run"))
    folder.check_save(Path("run/model"), Path("run"))
    with pytest.raises(ConfigError, match="--save /proc/no/model: cannot be written"):
        folder.check_save(Path("/proc/no/model"), Path("run"))


def test_a_second_run_in_one_folder_is_refused(tmp_path: Path) -> None:
    with filelock.FileLock(tmp_path / folder.LOCK), pytest.raises(ConfigError, match="another run writes to this"):
        folder.locked(tmp_path).__enter__()
    report = tmp_path / "report"
    with output.prepared(report), pytest.raises(ValueError, match="another run writes to this folder"):
        output.prepared(report).__enter__()
    with folder.locked(tmp_path), output.prepared(report):
        pass


def test_runs_that_begin_together_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [folder.new_folder(None, TrainConfig(), overwrite=False) for _ in range(3)]
    assert [str(path) for path in paths] == [f"runs/qqp-mesh-{k}" for k in (1, 2, 3)]


def test_overwriting_leaves_nothing_of_the_earlier_run(tmp_path: Path) -> None:
    for name in (records.SUMMARY, "curves.png", "checkpoints/4/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_records_are_json_and_damaged_lines_are_left_out(tmp_path: Path) -> None:
    value = {"a": [math.nan, 1.5], "b": (math.inf,), "c": "NaN"}
    assert json.loads(records.as_json(value)) == {"a": [None, 1.5], "b": [None], "c": "NaN"}
    file = tmp_path / records.METRICS
    good = '{"kind": "step", "step": 1}'
    file.write_bytes(
        f'{good}\n{good}{good}\n[1]\n{{"kind": "ste\n\0\0\n'.encode() + b'\xff\n{"kind": "step", "step": 9}'
    )
    assert records._earlier(file, 2) == [{"kind": "step", "step": 1}]


def test_pictures_are_tried_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match="matplotlib") as raised:
        records.check_pictures()
    assert cli._explain(raised.value)[0].endswith("pip install 'sftref[demo]'")
    assert cli._explain(ImportError("numpy.core.multiarray failed to import")) == (
        "numpy.core.multiarray failed to import", 2,
    )  # fmt: skip


def test_a_run_without_a_finished_checkpoint_says_so(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "1.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"ended before its first save was finished.* --resume auto does so"):
        Checkpoints(tmp_path, must_exist=True)
