"""What the READMEs show is true: their maps are the tree, their links lead somewhere, their Python runs."""

import re
import tomllib

import pytest
from pages import KIT_README, README, ROOT, VERDICT, kit_map
from sftref.conformance.adapter import CAPABILITIES
from sftref.conformance.core.law import RUNGS
from sftref.conformance.core.settings import Settings

TRAINING = ROOT / "sftref" / "README.md"
PAGES = [path.relative_to(ROOT).as_posix() for folder in ("", "sftref", "tests", "conformance", "conformance/docs")
         for path in sorted((ROOT / folder).glob("*.md"))]  # fmt: skip
MOST_LINES = 130


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("folder", ["sftref", "conformance"])
def test_the_map_has_every_package_in_the_order_of_its_imports(folder: str) -> None:
    text = README.read_text(encoding="utf-8")
    table = text.split(f"| `{folder}/` |")[1].split("\n\n")[0]
    first = "".join(re.findall(r"^\| (.*?) \|", table, re.M))
    named = [name.rstrip("/").removesuffix(".py") for name in re.findall(r"`([\w/.]+)`", first)]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    container = "sftref" if folder == "sftref" else "sftref.conformance"
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == [container])
    rank = {name: place for place, layer in enumerate(layers) for name in layer.split(" | ")}
    assert set(named) == rank.keys() - {"__main__"}
    assert [rank[name] for name in named] == sorted(rank[name] for name in named)


def test_sftrefs_map_has_every_file() -> None:
    table = TRAINING.read_text(encoding="utf-8").split("## Files")[1]
    named = sorted(re.findall(r"`([\w/]+\.py)`", table))
    tree = (path.relative_to(ROOT / "sftref") for path in (ROOT / "sftref").rglob("*.py"))
    assert named == sorted(path.as_posix() for path in tree if not path.name.startswith("__"))


def test_the_kits_map_has_every_file() -> None:
    text = KIT_README.read_text(encoding="utf-8")
    assert text == kit_map(text), "python tests/support/pages.py --map"
    folders = set(re.findall(r"^\| `([\w/]+)/` \|", text, re.M))
    tree = {path.parent.relative_to(ROOT / "conformance").as_posix() for path in (ROOT / "conformance").rglob("*.py")}
    assert folders == tree - {".", "laws"}


def test_the_readme_shows_a_run_that_passes_and_its_picture() -> None:
    text = README.read_text(encoding="utf-8")
    [block] = VERDICT.findall(text)
    lines = block.splitlines()[2:-1]
    settings = Settings(level="quick")
    checks = len(settings.checks())
    assert lines[0] == f"{checks} checks at level quick, trainers {', '.join(settings.subjects)}"
    assert lines[-1].startswith("CONFORMANT: ")
    assert {line.split("  ")[0][:1] for line in lines[1:-1]} == {"✓"}
    for number in range(9):
        assert re.search(rf"^✓ +{number} {RUNGS[number]}", block, re.M), "python tests/support/pages.py --readme DIR"
    assert (ROOT / "conformance/docs/report.png").is_file()
    assert "(conformance/docs/report.png)" in text


@pytest.mark.parametrize("text", re.findall(r"```python\n(.*?)```", TRAINING.read_text(encoding="utf-8"), re.DOTALL))
def test_a_python_block_runs(text: str) -> None:
    exec(compile(text, "README.md", "exec"), {})


def headings(text: str) -> set[str]:
    return {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text.replace("\n", "")):
        name, _, heading = target.partition("#")
        if target.startswith("https://"):
            continue
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        assert not heading or heading in headings(path.read_text(encoding="utf-8")), target


def test_every_page_of_the_kit_is_linked_from_its_readme() -> None:
    for page in (README, KIT_README):
        text = page.read_text(encoding="utf-8")
        for path in (ROOT / "conformance/docs").glob("*.md"):
            assert f"docs/{path.name})" in text, f"{page}: {path.name}"


def test_the_page_on_adapters_names_what_there_is() -> None:
    """Its capabilities are those of the protocol, its example has the methods that an adapter needs."""
    text = (ROOT / "conformance/docs/adapter.md").read_text(encoding="utf-8")
    section = text.split("## Capabilities")[1].split("\n## ")[0]
    claims = set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`[^|]*) \|", section, re.M))))
    assert claims == CAPABILITIES
    example = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    assert set(re.findall(r"def (\w+)\(self", example)) == {"start", "step", "evaluate", "params"}


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert re.search(r"<!-- test command -->\n```bash\n.*tox run -e py\n```", README.read_text(encoding="utf-8"))
