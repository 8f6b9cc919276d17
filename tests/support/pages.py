"""Updates the outputs in the pages: seeded faults, findings on invented machines, a passing run, the kit's files.

    python tests/support/pages.py [FAULT or FINDING ...]

Each output is a block after a mark: `<!-- read FAULT -->` in `failures.md`, `<!-- finding ID -->` and `<!-- workaround
-->` in `install.md`. `test_pages.py`, `test_docs.py` and `test_workarounds.py` compare each block with today's output.
`--readme DIR` updates the README's passing run and, with Chromium on the PATH, the picture of the run's HTML page,
which stays in DIR. `--map` updates the list of files in the kit's README, and its figures on faults and mutants.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from invented import CASES, findings_on
from ladders import Copy
from machines import machine
from sftref.conformance.core.fault import faults

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "conformance" / "docs"
PAGE, INSTALL, README = DOCS / "failures.md", DOCS / "install.md", ROOT / "README.md"
KIT_README = ROOT / "conformance" / "README.md"
VERDICT = re.compile(r"<!-- verdict -->\n```text\n.*?```\n", re.DOTALL)
MARK = re.compile(r"<!-- read ([\w-]+) -->\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
FINDINGS = re.compile(r"<!-- finding ([\w-]+) -->\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
WORKAROUND = re.compile(r"<!-- workaround -->\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
MUTANTS = re.compile(r"(<!-- sensitivity -->\n).*?(?=\n## )", re.DOTALL)
SUMMARY = ROOT / "tests" / "studies" / "mutants" / "summary.json"
WIDTH = 158
PICTURE = "1280,1375"


def blocks() -> dict[str, str]:
    """Name of a fault -> the block after its mark in `failures.md`."""
    return dict(MARK.findall(PAGE.read_text(encoding="utf-8")))


def narrow(line: str) -> str:
    """The line, shortened to fit a page."""
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 4].rstrip()} ..."


def cut(lines: list[str]) -> Iterator[str]:
    """The lines of a run on its lowest failed rung, first failure, blocked rungs, diagnosis and verdict."""
    failures = 0
    for line in lines:
        if re.match(r"\S+ +\d+ ", line):
            failures = 0
            if line.startswith("✓"):
                continue
        if " failed: " in line:
            failures += 1
        if line.startswith("diagnosis"):
            failures = 0
        if failures <= 1 and not line.strip().startswith("and "):
            yield narrow(line)


def printed(fault: str) -> str:
    """The output of a run with a seeded fault, shortened by `cut`."""
    # Rung 9 needs the level `standard`, rung 10 `full`; the faults for these rungs break no other rung.
    level = {"trainers.performance": "full", "trainers.processes": "standard"}.get(faults()[fault].module, "quick")
    words = [sys.executable, "-P", "-m", "sftref.conformance.faults", "--level", level, "--read", fault]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode not in (1, 3):
        raise RuntimeError(f"{fault}: exit code {ended.returncode}: {ended.stderr[-500:]}")
    return "\n".join(cut(ended.stdout.replace(sys.prefix, ".venv").splitlines())) + "\n"


def passing(out: Path) -> str:
    """The output of `verify --level quick`, whose report is written to `out`."""
    words = [sys.executable, "-P", "-m", "sftref.conformance", "verify", "--level", "quick", "--out", str(out)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    return "".join(f"{narrow(line)}\n" for line in ended.stdout.splitlines())


def picture(out: Path) -> None:
    """Save the top of a report's HTML page, with the checks of rung 3, as `docs/report.png`."""
    from PIL import Image

    chosen = '<script>rung.value = "3"; rung.dispatchEvent(new Event("input", {bubbles: true}))</script>'
    shown, png = out / "picture.html", DOCS / "report.png"
    shown.write_text((out / "report.html").read_text(encoding="utf-8") + chosen, encoding="utf-8")
    words = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    words += [f"--window-size={PICTURE}", f"--screenshot={png}", shown.resolve().as_uri()]
    subprocess.run(words, check=True, capture_output=True)
    Image.open(png).convert("RGB").quantize(128).save(png, optimize=True)


def kit_map(text: str) -> str:
    """The kit's README `text`, with the current files of each package, and the figures on faults and mutants."""

    def row(mark: re.Match[str]) -> str:
        names = sorted(path.stem for path in (ROOT / "conformance" / mark["folder"]).glob("*.py"))
        listed = ", ".join(f"`{name}`" for name in names if not name.startswith("__"))
        return f"| `{mark['folder']}/` | {mark['what']} | {listed} |"

    text = MUTANTS.sub(lambda mark: f"{mark[1]}{sensitivity()}\n", text)
    return re.sub(r"^\| `(?P<folder>[\w/]+)/` \| (?P<what>[^|]+?) \|.*\|$", row, text, flags=re.MULTILINE)


def sensitivity() -> str:
    """The table of the kit's README: how much of what is wrong on purpose the laws see."""
    run = json.loads(SUMMARY.read_text(encoding="utf-8"))
    kinds, shares = run["kinds"], {level: f"{100 * share:.1f} % at `{level}`" for level, share in run["shares"].items()}
    left = run["mutants"] - kinds["equivalent"] - kinds["not imported"]
    return (
        "| changed on purpose | seen | command |\n|---|---|---|\n"
        f"| {len(faults())} faults of the catalogue, written together with the laws | all | `tox run -e selftest` |\n"
        f"| {left} mutants of right trainers, drawn by a seed | {', '.join(shares.values())} "
        f"| `tox run -e mutants` ({run['date']}, JAX {run['jax']}) |\n\n"
        f"{run['mutants']} mutants were drawn. {kinds['equivalent']} of them have a proof of equivalence, and "
        f"{kinds['not imported']} cannot be imported."
    )


def workaround() -> str:
    """The shortened output of a run in which a setting fixes all failures, with three invented laws."""
    with tempfile.TemporaryDirectory() as folder:
        ladder = [(1, "passes"), (2, "needs_simple"), (6, "passes-2")]
        made = Copy(Path(folder) / "copy", ladder, tries=True).on("gpu", "rocm 60400")
        lines = made.verify("--no-self-test").out.splitlines()
    begins = next(at for at, line in enumerate(lines) if "rerunning" in line)
    return "".join(f"{narrow(line)}\n" for line in lines[begins:])


def finding(name: str) -> str:
    """The output for a finding, on the first invented machine that has this finding only."""
    _, made, versions, _ = next(case for case in CASES if case[0] == name)
    with tempfile.TemporaryDirectory() as folder:
        [found] = findings_on(machine(Path(folder), **made), versions)
    # The group of the invented files depends on the user who made them.
    what = re.sub(r"group \w+\)", "group render)", found.what)
    text = f"{found.level}: {what}\n     why: {found.why}\n     next step: {found.next}\n"
    return re.sub(r"usermod -a -G \w+", "usermod -a -G render", text)


def main() -> int:
    """Print the blocks, and update the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", help="blocks to update (default: all)")
    parser.add_argument("--readme", type=Path, metavar="DIR", help="update only the README's run (1 to 2 minutes)")
    parser.add_argument("--map", action="store_true", help="update only the list of files in the kit's README")
    arguments = parser.parse_args()
    if arguments.map:
        KIT_README.write_text(kit_map(KIT_README.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    if arguments.readme is not None:
        block = f"<!-- verdict -->\n```text\n{passing(arguments.readme)}```\n"
        README.write_text(VERDICT.sub(lambda _: block, README.read_text(encoding="utf-8")), encoding="utf-8")
        if shutil.which("chromium"):
            picture(arguments.readme)
        return 0
    names = arguments.name
    page = INSTALL.read_text(encoding="utf-8")
    found = FINDINGS.sub(lambda mark: f"<!-- finding {mark[1]} -->\n\n```text\n{finding(mark[1])}```\n", page)
    found = WORKAROUND.sub(lambda _: f"<!-- workaround -->\n\n```text\n{workaround()}```\n", found)
    INSTALL.write_text(found, encoding="utf-8")
    for fault in [name for name in names if name in blocks()] if names else blocks():
        text = printed(fault)
        page = PAGE.read_text(encoding="utf-8")
        found = MARK.sub(
            lambda m, fault=fault, text=text: (
                f"<!-- read {fault} -->\n\n```text\n{text}```\n" if m[1] == fault else m[0]
            ),
            page,
        )
        PAGE.write_text(found, encoding="utf-8")
        print(f"{fault}: {len(text.splitlines())} lines", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
