"""After a failure on an accelerator, `verify` tries one setting after another, and reports which one fixes it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ladders import KIT, Copy, Ended
from pages import INSTALL, WORKAROUND
from sftref.conformance.machine.remedies import Remedy, Tries, Try, listed, remedies
from sftref.conformance.report.page import page

pytestmark = pytest.mark.once

SIMPLE = "NCCL_PROTO=Simple"


def ran(folder: Path, ladder: list[tuple[int, str]], *words: str, platform: str = "gpu", **variables: str) -> Ended:
    made = Copy(folder / "copy", ladder, tries=True).on(platform, "rocm 60400" if platform == "gpu" else platform)
    ended = made.verify("--no-self-test", *words, **variables)
    schema = json.loads((KIT / "report" / "report.schema.json").read_text())
    jsonschema.validate(ended.report, schema)
    return ended


def results(ended: Ended) -> dict[str, str]:
    return {one["words"]: one["result"] for one in ended.report["tries"]["tries"]}


def test_a_setting_with_which_everything_passes_is_a_workaround(tmp_path: Path) -> None:
    ended = ran(tmp_path, [(1, "passes"), (2, "needs_simple"), (6, "passes-2")])
    assert (ended.code, ended.report["verdict"]) == (1, "WORKAROUND")
    assert (
        f"WORKAROUND: everything passes with {SIMPLE}, and without it: 2 of 3 checks passed, 1 wrong" in ended.verdict
    )
    assert ended.statuses["r2.needs_simple"] == "fail", "the results are those of the default settings"
    assert ended.report["tries"]["passed_unchanged"] == 0
    by_setting = results(ended)
    assert by_setting[SIMPLE] == "mends"
    assert by_setting["HSA_ENABLE_SDMA=0"] == "does not mend"
    assert "NCCL_P2P_DISABLE=1" not in by_setting, "ROCm ignores it"
    diagnosis = ended.report["diagnosis"]
    assert diagnosis["layer"] == "collectives"
    assert diagnosis["evidence"][0] == f"{SIMPLE}: everything passes with it"
    assert diagnosis["cause"].startswith(
        f"Results are wrong with this machine's settings and right with {SIMPLE}, which turns off "
    )
    assert "until it is fixed upstream (https://github.com/ROCm/rocm-systems/issues/5480)" in diagnosis["next_step"]
    assert " s left" not in ended.err.rpartition("rerunning")[2]
    markdown = (tmp_path / "copy/sftref-report/report.md").read_text()
    assert f"| `{SIMPLE}` | fixes it |" in markdown
    assert f"<code>{SIMPLE}</code>" in page(ended.report)
    # The page for a fresh install shows this run.
    [block] = WORKAROUND.findall(INSTALL.read_text(encoding="utf-8"))
    lines = [re.sub(r"\d+ s,", "# s,", line) for line in ended.out.splitlines()]
    for line in block.splitlines():
        start = re.sub(r"\d+ s,", "# s,", line.removesuffix(" ..."))
        assert any(one.startswith(start) for one in lines), f"{line}: python tests/pages.py"


def test_a_setting_that_breaks_something_else_is_no_workaround(tmp_path: Path) -> None:
    ended = ran(tmp_path, [(1, "passes"), (2, "needs_simple"), (3, "hates_simple")])
    assert (ended.code, ended.report["verdict"]) == (1, "NONCONFORMANT")
    assert results(ended)[SIMPLE] == "mends"
    assert ended.report["tries"]["workaround"] == ""
    (tried,) = [one for one in ended.report["tries"]["tries"] if one["words"] == SIMPLE]
    assert "1 wrong (rung 3, operators: r3.hates_simple)" in tried["everything"]


def test_a_setting_that_fixes_a_hang(tmp_path: Path) -> None:
    ended = ran(tmp_path, [(1, "passes"), (2, "hangs_in_graphs")])
    assert (ended.code, ended.report["verdict"]) == (1, "WORKAROUND")
    assert ended.report["tries"]["workaround"] == "XLA_FLAGS=--xla_gpu_enable_command_buffer="


def test_an_intermittent_failure_has_no_workaround(tmp_path: Path) -> None:
    ended = ran(tmp_path, [(1, "passes"), (2, "comes_and_goes")])
    assert ended.report["verdict"] == "NONCONFORMANT"
    assert ended.report["tries"]["passed_unchanged"] == 2
    assert ended.report["tries"]["tries"] == []
    assert "intermittent; 2 of 2 reruns without any change passed" in ended.report["diagnosis"]["evidence"][0]
    assert ended.report["diagnosis"]["next_step"].startswith("Rerun, to see how often it fails")


def test_a_flag_that_this_jax_does_not_know_has_its_own_result(tmp_path: Path) -> None:
    ended = ran(tmp_path, [(1, "passes"), (2, "knows_no_flag")])
    assert results(ended)["XLA_FLAGS=--xla_gpu_enable_command_buffer="] == "is not known here"
    assert results(ended)[SIMPLE] == "does not mend"
    assert ended.report["verdict"] == "NONCONFORMANT"


def test_a_users_own_variable_is_tried_on_a_cpu_too(tmp_path: Path) -> None:
    flags = "--xla_cpu_enable_fast_math=true --xla_force_host_platform_device_count=3"
    ended = ran(tmp_path, [(1, "passes"), (2, "needs_plain")], platform="cpu", XLA_FLAGS=flags)
    assert ended.report["verdict"] == "WORKAROUND"
    assert ended.report["tries"]["workaround"] == "unset XLA_FLAGS"
    assert "Keep this setting, and rerun" in ended.report["diagnosis"]["next_step"]


@pytest.mark.parametrize("words", [["--no-remedies"], []])
def test_nothing_is_tried_with_no_remedies_or_if_no_setting_could_matter(tmp_path: Path, words: list[str]) -> None:
    ended = ran(tmp_path, [(1, "passes"), (2, "differs")], *words, platform="gpu" if words else "cpu")
    assert ended.code == 1
    assert ended.report["tries"] is None


def test_a_failure_of_another_trainer_is_not_the_machines(tmp_path: Path) -> None:
    ended = ran(tmp_path, [(2, "passes"), (6, "needs_simple")])
    assert ended.code == 1
    assert ended.report["tries"] is None


def test_jax_that_does_not_start_is_started_with_other_settings(tmp_path: Path) -> None:
    """A library hangs when JAX is imported: only the user's own variable can be unset there."""
    made = Copy(tmp_path / "copy", [(1, "passes"), (2, "passes-2")], tries=True).on("gpu", "rocm")
    stand_in = made.folder / "jax" / "__init__.py"
    hang = "import os, time\nif os.environ.get('HSA_OVERRIDE_GFX_VERSION'): time.sleep(60)\n"
    more = "def device_count(): return len(devices())\n"
    more += "import numpy as np\nclass _Sum:\n    lower = compile = lambda self, *_: self\n"
    more += "    def __call__(self, *_): return 128.0 ** 3\n"
    stand_in.write_text(hang + stand_in.read_text() + more)
    ended = made.verify(
        "--no-self-test", "--platform", "gpu", HSA_OVERRIDE_GFX_VERSION="11.0.0", SFTREF_START_SECONDS="3"
    )
    assert ended.report["start"]["phase"] == "import"
    tries = ended.report["tries"]
    assert tries["asked"] == ["JAX's start (import)"]
    assert [one["words"] for one in tries["tries"]] == ["unset HSA_OVERRIDE_GFX_VERSION"]
    assert "phase 'import'" not in tries["tries"][0]["message"], "the start got further"
    assert (ended.code, ended.report["verdict"]) == (3, "UNRESPONSIVE")


def test_time_for_tries_is_bounded(tmp_path: Path) -> None:
    made = Copy(tmp_path / "copy", [(1, "passes"), (2, "sleeps")], tries=True).on("gpu", "rocm")
    made.edit("run/workarounds.py", r'"standard": 900.0', '"standard": 1.0')
    ended = made.verify("--no-self-test")
    assert ended.report["verdict"] == "UNRESPONSIVE"
    assert ended.report["tries"]["unchanged"] == 1
    assert set(results(ended).values()) == {"was not tried"}


def test_a_remedy_that_changes_nothing_is_not_tried() -> None:
    environment = {"NCCL_PROTO": "Simple", "XLA_FLAGS": "--xla_gpu_autotune_level=0"}
    ids = {remedy.id for remedy in remedies(["gpu", "cuda"], 2, ["fail"], environment, 2)}
    assert ids == {"without-NCCL_PROTO", "without-XLA_FLAGS", "command-buffers-off", "peer-to-peer-off"}


@pytest.mark.parametrize(
    ("platforms", "rung", "statuses", "expected"),
    [
        (["gpu", "rocm"], 1, ["fail"], {"command-buffers-off", "copy-engines-off", "one-device"}),
        (["tpu"], 3, ["fail"], {"highest-precision", "one-device"}),
        (["cpu"], 2, ["hang"], {"synchronous-dispatch"}),
        (["cpu"], 2, ["fail"], set()),
    ],
)
def test_a_remedy_is_tried_on_its_platforms_rungs_and_statuses(
    platforms: list[str], rung: int, statuses: list[str], expected: set[str]
) -> None:
    assert {remedy.id for remedy in remedies(platforms, rung, statuses, {"PATH": "/bin"}, 8)} == expected


@pytest.mark.parametrize(
    "name",
    [
        "JAX_PLATFORMS",
        "TF_CLI_CONFIG_FILE",
        "XLA_PYTHON_CLIENT_PREALLOCATE",
        "CUDA_VISIBLE_DEVICES",
        "JAX_NUM_CPU_DEVICES",
        "ROCM_PATH",
        "HOME",
    ],
)
def test_variables_that_select_devices_are_never_unset(name: str) -> None:
    assert remedies(["cpu"], 2, ["fail"], {name: "1"}, 8) == []


def test_the_value_of_a_variable_is_hidden() -> None:
    """The report hides secrets; a try names the variable only."""
    (remedy,) = remedies(["cpu"], 2, ["fail"], {"NCCL_AUTH_TOKEN": "s3cret"}, 8)
    assert "s3cret" not in f"{remedy.words} {remedy.does} {remedy.id}"


def test_the_number_of_simulated_devices_stays_if_xla_flags_is_unset() -> None:
    count = "--xla_force_host_platform_device_count=3"
    (remedy,) = remedies(["cpu"], 2, ["fail"], {"XLA_FLAGS": f"--xla_cpu_enable_fast_math=true {count}"}, 8)
    assert remedy.change({"XLA_FLAGS": f"--xla_cpu_enable_fast_math=true {count}"}) == {"XLA_FLAGS": count}
    assert remedies(["cpu"], 2, ["fail"], {"XLA_FLAGS": count}, 8) == []


def test_this_jax_knows_every_listed_flag(tmp_path: Path) -> None:
    """An unknown flag ends the process."""
    flags = " ".join(flag for remedy in listed() for flag in remedy.flags)
    variables: dict[str, Any] = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    code = "import jax; jax.devices()"
    assert subprocess.run([sys.executable, "-c", code], env=variables, check=False, cwd=tmp_path).returncode == 0


def test_listed_remedies_have_sources_and_valid_fields() -> None:
    assert len({remedy.id for remedy in listed()}) == len(listed())
    for remedy in listed():
        assert remedy.source.startswith("https://")
        assert remedy.words
        assert set(remedy.platforms) <= {"cpu", "gpu", "rocm", "cuda", "tpu"}
        assert set(remedy.rungs) <= set(range(11))
        assert set(remedy.ends) <= {"fail", "error", "hang", "crash"}


def test_the_evidence_has_one_line_for_each_result() -> None:
    def one(name: str, result: str) -> Try:
        return Try(
            id=name, words=name, does="", source="", result=result, everything="X: 1 wrong" if name == "a" else ""
        )

    tries = [one("a", "mends"), one("b", "does not mend"), one("c", "does not mend"), one("d", "was not tried")]
    lines = Tries(asked=["r"], unchanged=2, tries=tries).evidence
    assert lines == ["a: r passes with it; the whole run: X: 1 wrong", "does not fix it: b; c", "not tried: d"]
    assert Remedy(id="x", does="", source="", flags=("--a=", "--b=1")).words == "XLA_FLAGS='--a= --b=1'"
