"""The pages of the kit are true: their commands are run, their files written, in a folder of a stranger's.

A mark in front of a block says what it is: `run` and the exit codes it may have (0 where none is named; a block of text
behind it holds words of its output, line by line), `write FILE`, `append FILE`. Other commands are parsed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, FINDINGS, finding
from sftref.conformance.machine.startup import HANG, Started
from sftref.conformance.machine.startup_phases import PHASES
from test_findings import TEXTS

from sftref import cli

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
STEP = re.compile(
    r"<!-- (?P<what>run|write|append) ?(?P<how>[^>]*?) -->\n```\w+\n(?P<text>.*?)```\n"
    r"(?:\n```text\n(?P<said>.*?)```\n)?",
    re.DOTALL,
)
PAGES = ["install.md", "upgrade.md", "vendor.md", "extend.md"]


def call(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A block of commands, each of which must be reached; in a folder that knows the installed sftref and its clone."""
    here = Path(sys.executable).parent
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHONPATH"))}
    variables |= {"PATH": f"{here}{os.pathsep}{os.environ['PATH']}", "SFTREF": str(ROOT), "OLD": str(here.parent)}
    words = ["bash", "-euo", "pipefail", "-c", text]
    return subprocess.run(words, cwd=folder, env=variables, text=True, capture_output=True, timeout=600, check=False)


# A minute for the upgrade's page, whose commands `test_bench_cli.py` and `test_bench_paired.py` run too.
SLOW = {"upgrade.md": [pytest.mark.slow]}


@pytest.mark.parametrize("page", [pytest.param(page, marks=SLOW.get(page, [])) for page in PAGES])
def test_the_blocks_of_a_page_do_what_it_says(page: str, tmp_path: Path) -> None:
    for step in STEP.finditer((DOCS / page).read_text(encoding="utf-8")):
        if step["what"] == "run":
            ended = call(step["text"], tmp_path)
            said = f"{step['text']}{ended.stdout}{ended.stderr}"
            assert ended.returncode in [int(word) for word in (step["how"] or "0").split()], said
            for line in (step["said"] or "").splitlines():
                assert line.strip() in said, line
        else:
            file = tmp_path / step["how"]
            before = file.read_text() + "\n\n" if step["what"] == "append" else ""
            file.write_text(before + step["text"])


@pytest.mark.parametrize("page", PAGES)
def test_other_commands_are_ones_that_the_program_takes(page: str) -> None:
    text = STEP.sub("", (DOCS / page).read_text(encoding="utf-8"))
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            assert cli.parser().parse_args(shlex.split(line)[1:]).command


def test_a_hang_reads_as_the_page_says() -> None:
    """In the words that `test_env.py` sees of stub plugins which do hang."""
    phase = "first device"
    hung = Started(HANG, phase, f"no answer within {PHASES[phase]:g} s; it was in initialize (...)")
    assert f"\nUNRESPONSIVE: {hung.line}\n" in (DOCS / "install.md").read_text(encoding="utf-8")


def test_every_finding_is_on_the_page_as_it_is_printed() -> None:
    shown = dict(FINDINGS.findall((DOCS / "install.md").read_text(encoding="utf-8")))
    assert shown.keys() == TEXTS.keys()
    for name, block in shown.items():
        assert block == finding(name), f"python tests/pages.py {name}"
