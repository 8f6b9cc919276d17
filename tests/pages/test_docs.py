"""The commands of the pages are run as written, in exactly the environment that the page has its reader make.

A mark in front of a block says what it is:

    environment           the command that makes the environment; `environment of PAGE`: that of another page
    new repository        what follows is run in another empty repository
    run [CODES]           commands, and the exit codes that the last may have (0 where none is named); a block of text
                          behind it has words of the output, line by line
    slow: REASON          run by the slow test only
    not run: REASON       parsed only: it needs an accelerator, the hub, or long
    write FILE, append FILE
    verify command, demo command, test command     of the README: the first is slow, the others are not run

The fast test links the environment from what is installed here, and compiles as the other tests do; the slow one makes
the environment as the page says.
"""

import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from environments import PROJECT, ROOT, clone, fresh, linked, variables
from pages import DOCS, FINDINGS, finding
from sftref.conformance.cli import COMMANDS
from sftref.conformance.machine.startup import HANG, Started
from sftref.conformance.machine.startup_phases import PHASES

from sftref import cli, presets

pytestmark = pytest.mark.once

MARK = re.compile(
    r"^<!-- (?P<what>environment(?: of)?|new repository|run|write|append|slow:|not run:|\w+ command)"
    r" ?(?P<how>[^>]*?) -->\n(?:```(?P<language>\w+)\n(?P<text>.*?)```\n)?(?:\n```text\n(?P<output>.*?)```\n)?",
    re.DOTALL | re.MULTILINE,
)
PAGES = ["README.md", "sftref/README.md", "tests/README.md", "conformance/README.md"]
PAGES += sorted(f"conformance/docs/{path.name}" for path in DOCS.glob("*.md"))
# Minutes: what it runs is benchmarks, which `tests/benchmarks` runs too.
LONG = ("conformance/docs/upgrade.md",)
OWN_TEST = "def test_own():\n    assert True\n"
TIMEOUT = 1200


class Step(NamedTuple):
    """One marked block."""

    what: str
    how: str
    language: str
    text: str
    output: str


def steps(page: str) -> list[Step]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Step(*(part or "" for part in mark.groups())) for mark in MARK.finditer(text)]


def environment(page: str) -> str:
    """The command that makes a page's environment, or that of the page it names; empty where it needs none."""
    for step in steps(page):
        if step.what == "environment":
            return step.text
        if step.what == "environment of":
            return environment(f"conformance/docs/{step.how}")
    return ""


def requirements(command: str) -> list[str]:
    """The requirements that `pip install` gets."""
    words = shlex.split(command)
    begin = next(place for place, word in enumerate(words) if word.endswith("pip")) + 2
    rest = words[begin:]
    return [word for word in rest[: rest.index("&&") if "&&" in rest else None] if not word.startswith("-")]


def run(text: str, folder: Path, commands: Path, source: Path) -> subprocess.CompletedProcess[str]:
    """A block, each command of which must be reached."""
    more = {"SFTREF": str(source), "OLD": str(commands.parent), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=variables(commands, **more), text=True,
        capture_output=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip


def repository(folder: Path) -> Path:
    """One of the reader's own, with a test in it."""
    (folder / "tests").mkdir(parents=True)
    (folder / "tests" / "test_own.py").write_text(OWN_TEST)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_a_mark(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text.count("```bash\n") == sum(step.language == "bash" for step in steps(page))
    for step in steps(page):
        assert step.how or step.what not in ("slow:", "not run:"), "a reason is missing"
    assert environment(page) or not any(step.what in ("run", "slow:") for step in steps(page))


@pytest.mark.parametrize("page", PAGES)
def test_an_option_under_pytest_is_one_word_with_its_value(page: str) -> None:
    """Pytest takes a word after an option that it does not know yet for a path."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert re.findall(r"--sftref-[a-z]+ (?!-)[\w.:/]+", text.replace("--sftref-benchmark ", "")) == []


RUN = [page for page in PAGES if any(step.what == "run" for step in steps(page))]
CASES = [pytest.param(page, False, id=page, marks=[pytest.mark.slow] if page in LONG else []) for page in RUN]
CASES += [pytest.param(page, True, id=f"{page}, as a stranger", marks=pytest.mark.slow) for page in RUN]


@pytest.mark.parametrize(("page", "stranger"), CASES)
def test_the_blocks_of_a_page_do_what_it_says(
    page: str, stranger: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not stranger:
        request.getfixturevalue("light_children")
    command = environment(page)
    needs = requirements(command)
    source = clone(tmp_path / "sftref")
    in_clone = any(PROJECT.match(name) for name in needs)
    folder = source if in_clone else repository(tmp_path / "mine")
    commands = fresh(tmp_path / "venv", command, folder) if stranger else linked(tmp_path / "venv", needs)
    for number, step in enumerate(steps(page)):
        if step.what in ("write", "append"):
            file = folder / step.how
            before = file.read_text() + "\n\n" if step.what == "append" else ""
            file.write_text(before + step.text)
        elif step.what == "new repository":
            folder = repository(tmp_path / f"mine-{number}")
        elif step.what == "run" or (stranger and step.what in ("slow:", "verify command")):
            ended = run(step.text, folder, commands, source)
            output = f"{step.text}{ended.stdout}{ended.stderr}"
            codes = step.how.split() if step.what == "run" else []
            assert str(ended.returncode) in (codes or ["0"]), output
            for line in step.output.splitlines() if step.what == "run" else ():
                assert line.strip() in output, f"{line}\n{output}"
    if not in_clone:
        collected = run("pytest --co -q && pytest -q", folder, commands, source)
        assert re.match(r"tests/test_own\.py::test_own\n\n1 test collected.*\n1 passed", collected.stdout, re.DOTALL)


def unrun(page: str) -> Iterator[str]:
    """The commands of a page that are only parsed, without the making of the environment in front of them."""
    for step in steps(page):
        if step.language == "bash" and step.what not in ("run", "environment"):
            for line in step.text.splitlines():
                yield line.rpartition("&& ")[2].partition(" #")[0].strip()


COMMAND_LINES = [(page, line) for page in PAGES for line in unrun(page)]


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES, ids=[line for _, line in COMMAND_LINES])
def test_a_command_that_is_not_run_is_one_that_the_program_takes(page: str, line: str) -> None:
    words = [word for word in shlex.split(line) if not re.match(r"^[A-Z_]+=", word)]
    program, *arguments = [words[0].rpartition("/")[2], *words[1:]]
    if program in ("srun", "mpirun"):
        program, *arguments = arguments
    if program == "sftref":
        _parsed(arguments)
    elif program == "python":
        module = arguments[1]
        assert arguments[0] == "-m"
        spec = importlib.util.find_spec(module)
        assert spec is not None, line
        if spec.submodule_search_locations:
            assert importlib.util.find_spec(f"{module}.__main__"), line
        options = {word for word in arguments if word.startswith("--")}
        text = "".join(path.read_text() for path in Path(spec.origin or "").parent.glob("*.py"))
        assert {option for option in options if f'"{option}"' not in text} == set(), line
    elif program == "tox":
        named = arguments[arguments.index("-e") + 1] if "-e" in arguments else "lint"
        assert named in environments(), line
    elif program == "kubectl":
        assert (ROOT / "sftref" / "cluster" / arguments[-1]).is_file(), line
    else:
        assert program in ("pip", "pytest"), line


def _parsed(arguments: list[str]) -> None:
    if arguments[-1] == "--help":
        with pytest.raises(SystemExit) as end:
            cli.parser().parse_args(arguments)
        assert end.value.code == 0
        return
    options = vars(cli.parser().parse_args(arguments))
    if options["command"] not in COMMANDS:
        presets.make_config(options)


def environments() -> set[str]:
    """The names of tox's environments."""
    text = (ROOT / "tox.ini").read_text()
    names = set(re.findall(r"^\[testenv:([\w-]+)\]", text, re.M)) | {"py", "py311", "py312", "py313"}
    for prefix, group in re.findall(r"^\[testenv:(\w*)\{([^}]+)\}\]", text, re.M):
        names |= {prefix + name for name in group.split(",")}
    return names


def test_a_hang_reads_as_the_page_says() -> None:
    """In the words that `test_env.py` sees of stub plugins which do hang."""
    phase = "first device"
    hung = Started(HANG, phase, f"no answer within {PHASES[phase]:g} s; it was in initialize (...)")
    assert f"\nUNRESPONSIVE: {hung.line}\n" in (DOCS / "install.md").read_text(encoding="utf-8")


def test_every_finding_is_on_the_page_as_it_is_printed() -> None:
    shown = dict(FINDINGS.findall((DOCS / "install.md").read_text(encoding="utf-8")))
    assert shown.keys() == tomllib.loads((ROOT / "conformance/machine/findings.toml").read_text()).keys()
    for name, block in shown.items():
        assert block == finding(name), f"python tests/support/pages.py {name}"
