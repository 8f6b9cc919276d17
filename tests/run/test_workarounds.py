"""Where something falls on an accelerator, `verify` tries one setting after another, and says which one mends it."""

from __future__ import annotations

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


def test_a_setting_that_mends_all_is_a_workaround_and_never_a_pass(tmp_path: Path) -> None:
    ended = ran(tmp_path, [(1, "passes"), (2, "needs_simple"), (6, "passes-2")])
    assert (ended.code, ended.report["verdict"]) == (1, "WORKAROUND")
    assert (
        f"WORKAROUND: everything passes with {SIMPLE}, and without it: 2 of 3 checks passed, 1 wrong" in ended.verdict
    )
    assert ended.statuses["r2.needs_simple"] == "fail", "the records are those of the default settings"
    assert ended.report["tries"]["passed_unchanged"] == 0
    found = results(ended)
    assert found[SIMPLE] == "mends"
    assert found["NCCL_P2P_DISABLE=1"] == "does not mend"
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
    said = [re.sub(r"\d+ s,", "# s,", line) for line in ended.out.splitlines()]
    for line in block.splitlines():
        start = re.sub(r"\d+ s,", "# s,", line.removesuffix(" ..."))
        assert any(one.startswith(start) for one in said), f"{line}: python tests/pages.py"


def test_a_setting_that_breaks_something_else_is_no_workaround(tmp_path: Path) -> None:
    ended = ran(tmp_path, [(1, "passes"), (2, "needs_simple"), (3, "hates_simple")])
    assert (ended.code, ended.report["verdict"]) == (1, "NONCONFORMANT")
    assert results(ended)[SIMPLE] == "mends"
    assert ended.report["tries"]["workaround"] == ""
    (tried,) = [one for one in ended.report["tries"]["tries"] if one["words"] == SIMPLE]
    assert "1 wrong (rung 3, operators: r3.hates_simple)" in tried["everything"]


def test_a_setting_that_mends_a_hang_is_found_within_deadlines(tmp_path: Path) -> None:
    ended = ran(tmp_path, [(1, "passes"), (2, "hangs_in_graphs")])
    assert (ended.code, ended.report["verdict"]) == (1, "WORKAROUND")
    assert ended.report["tries"]["workaround"] == "XLA_FLAGS=--xla_gpu_enable_command_buffer="


def test_what_passes_when_it_is_asked_again_is_mended_by_nothing(tmp_path: Path) -> None:
    ended = ran(tmp_path, [(1, "passes"), (2, "comes_and_goes")])
    assert ended.report["verdict"] == "NONCONFORMANT"
    assert ended.report["tries"]["passed_unchanged"] == 2
    assert ended.report["tries"]["tries"] == []
    assert "intermittent; 2 of 2 reruns without any change passed" in ended.report["diagnosis"]["evidence"][0]
    assert ended.report["diagnosis"]["next_step"].startswith("Rerun, to see how often it fails")


def test_a_flag_that_this_jax_does_not_know_is_told_from_one_that_does_not_help(tmp_path: Path) -> None:
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
def test_nothing_is_tried_where_nobody_wants_it_or_nothing_could_matter(tmp_path: Path, words: list[str]) -> None:
    ended = ran(tmp_path, [(1, "passes"), (2, "differs")], *words, platform="gpu" if words else "cpu")
    assert ended.code == 1
    assert ended.report["tries"] is None


def test_a_trainer_of_somebody_else_is_not_the_machine(tmp_path: Path) -> None:
    ended = ran(tmp_path, [(2, "passes"), (6, "needs_simple")])
    assert ended.code == 1
    assert ended.report["tries"] is None


def test_jax_that_does_not_start_is_started_with_other_settings(tmp_path: Path) -> None:
    """A preloaded library that hangs when JAX is imported: the user's own variable is the only thing to try there."""
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
    assert "phase 'import'" not in tries["tries"][0]["message"], "it came further"
    assert (ended.code, ended.report["verdict"]) == (3, "UNRESPONSIVE")


def test_time_for_tries_is_bounded(tmp_path: Path) -> None:
    made = Copy(tmp_path / "copy", [(1, "passes"), (2, "sleeps")], tries=True).on("gpu", "rocm")
    made.edit("run/workarounds.py", r'"standard": 900.0', '"standard": 1.0')
    ended = made.verify("--no-self-test")
    assert ended.report["verdict"] == "UNRESPONSIVE"
    assert ended.report["tries"]["unchanged"] == 1
    assert set(results(ended).values()) == {"was not tried"}


def test_a_remedy_is_not_tried_where_it_is_so_already() -> None:
    given = {"NCCL_PROTO": "Simple", "XLA_FLAGS": "--xla_gpu_autotune_level=0"}
    found = {remedy.id for remedy in remedies(["gpu", "cuda"], 2, ["fail"], given, 2)}
    assert found == {"without-NCCL_PROTO", "without-XLA_FLAGS", "command-buffers-off", "peer-to-peer-off"}


@pytest.mark.parametrize(
    ("platforms", "rung", "statuses", "expected"),
    [
        (["gpu", "rocm"], 1, ["fail"], {"command-buffers-off", "copy-engines-off", "one-device"}),
        (["tpu"], 3, ["fail"], {"highest-precision", "one-device"}),
        (["cpu"], 2, ["hang"], {"synchronous-dispatch"}),
        (["cpu"], 2, ["fail"], set()),
    ],
)
def test_a_remedy_is_for_its_platforms_rungs_and_ends(
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
def test_what_says_which_devices_there_are_is_never_left_out(name: str) -> None:
    assert remedies(["cpu"], 2, ["fail"], {name: "1"}, 8) == []


def test_what_a_variable_holds_is_not_told_twice() -> None:
    """The report hides the values of secrets; a try names the variable only."""
    (found,) = remedies(["cpu"], 2, ["fail"], {"NCCL_AUTH_TOKEN": "s3cret"}, 8)
    assert "s3cret" not in f"{found.words} {found.does} {found.id}"


def test_the_count_of_simulated_devices_stays_where_flags_are_left_out() -> None:
    count = "--xla_force_host_platform_device_count=3"
    (found,) = remedies(["cpu"], 2, ["fail"], {"XLA_FLAGS": f"--xla_cpu_enable_fast_math=true {count}"}, 8)
    assert found.change({"XLA_FLAGS": f"--xla_cpu_enable_fast_math=true {count}"}) == {"XLA_FLAGS": count}
    assert remedies(["cpu"], 2, ["fail"], {"XLA_FLAGS": count}, 8) == []


def test_every_flag_of_the_list_is_one_that_this_jax_knows(tmp_path: Path) -> None:
    """An unknown one would end the process that is to try it."""
    flags = " ".join(flag for remedy in listed() for flag in remedy.flags)
    variables: dict[str, Any] = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    code = "import jax; jax.devices()"
    assert subprocess.run([sys.executable, "-c", code], env=variables, check=False, cwd=tmp_path).returncode == 0


def test_the_list_names_rungs_platforms_and_sources() -> None:
    assert len({remedy.id for remedy in listed()}) == len(listed())
    for remedy in listed():
        assert remedy.source.startswith("https://")
        assert remedy.words
        assert set(remedy.platforms) <= {"cpu", "gpu", "rocm", "cuda", "tpu"}
        assert set(remedy.rungs) <= set(range(11))
        assert set(remedy.ends) <= {"fail", "error", "hang", "crash"}


def test_what_is_said_names_each_result_once() -> None:
    def one(name: str, result: str) -> Try:
        return Try(
            id=name, words=name, does="", source="", result=result, everything="X: 1 wrong" if name == "a" else ""
        )

    tries = [one("a", "mends"), one("b", "does not mend"), one("c", "does not mend"), one("d", "was not tried")]
    said = Tries(asked=["r"], unchanged=2, tries=tries).evidence
    assert said == ["a: r passes with it; the whole run: X: 1 wrong", "does not fix it: b; c", "not tried: d"]
    assert Remedy(id="x", does="", source="", flags=("--a=", "--b=1")).words == "XLA_FLAGS='--a= --b=1'"
