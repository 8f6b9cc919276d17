"""What the README shows is true: its commands parse, its Python runs, its files exist, and every file is in it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from sftref.conformance.adapter import CAPABILITIES
from sftref.conformance.cli import COMMANDS as KIT

from sftref import cli, presets

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "conformance" / "docs"
PAGES = ["README.md", "conformance/README.md", *(f"conformance/docs/{path.name}" for path in DOCS.glob("*.md"))]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    shlex.split(command, comments=True)[1:]
    for language, text in BLOCKS
    if language == "bash"
    for command in re.findall(r"^(?:.*&& \S*/)?(sftref .*)$", text, flags=re.MULTILINE)
]


def test_the_commands_were_found() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("arguments", COMMANDS, ids=[" ".join(c) for c in COMMANDS])
def test_a_command_is_one_that_the_program_takes(arguments: list[str]) -> None:
    if arguments[0] in KIT:
        assert cli.parser().parse_args(arguments).command == arguments[0]
        return
    if arguments[-1] == "--help":
        with pytest.raises(SystemExit) as end:
            cli.parser().parse_args(arguments)
        assert end.value.code == 0
        return
    given = vars(cli.parser().parse_args(arguments))
    presets.make_config(given)


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "python"])
def test_a_python_block_runs(text: str) -> None:
    exec(compile(text, "README.md", "exec"), {})


def test_every_module_is_in_the_table_and_the_other_way_round() -> None:
    section = README.split("## Where things are")[1].split("## ")[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    named = set(re.findall(r"`(\w+)\.py`", table))
    modules = {path.stem for path in (ROOT / "sftref").glob("*.py")} - {"__init__"}
    assert named == modules


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    headings = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", text.replace("\n", "")):
        file, _, heading = target.partition("#")
        assert target.startswith("https://") or ((ROOT / page).parent / file).exists(), target
        assert file or heading in headings, target


def test_the_kits_page_names_what_there_is() -> None:
    """Its capabilities are those of the protocol, its example has the methods that an adapter needs."""
    text = (ROOT / "conformance/README.md").read_text()
    section = text.split("### Capabilities")[1].split("\n## ")[0]
    claims = set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`[^|]*) \|", section, re.M))))
    assert claims == CAPABILITIES
    example = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    assert set(re.findall(r"def (\w+)\(self", example)) == {"start", "step", "evaluate", "params"}


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert re.search(r"<!-- test command -->\n```bash\n.*tox run -e py\n```", README)
