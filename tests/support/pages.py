"""Refreshes the printed blocks of `conformance/docs/`: seeded faults, and findings on invented machines.

    python tests/pages.py [FAULT or FINDING ...]

A block follows its mark: `<!-- read FAULT -->` in `failures.md`, `<!-- finding ID -->` and `<!-- workaround -->` in
`install.md`. `test_pages.py`, `test_docs.py` and `test_trying.py` hold each against what is printed today.
`--readme DIR` refreshes the first block of the README, and leaves a report in DIR; the picture is the top of what
`tests/browser/check_page.py DIR/report.json DIR` takes of it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from invented import CASES, asked
from ladders import Copy
from machines import machine
from sftref.conformance.core.fault import faults

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "conformance" / "docs"
PAGE, INSTALL, README = DOCS / "failures.md", DOCS / "install.md", ROOT / "README.md"
VERDICT = re.compile(r"<!-- verdict -->\n```text\n.*?```\n", re.DOTALL)
SHOWN = ["--level", "quick", "--adapter", "sftref.conformance.faults.trainers:mean_of_means"]
MARK = re.compile(r"<!-- read ([\w-]+) -->\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
FINDINGS = re.compile(r"<!-- finding ([\w-]+) -->\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
WORKAROUND = re.compile(r"<!-- workaround -->\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
WIDTH = 158


def blocks() -> dict[str, str]:
    """Fault -> the block behind its mark."""
    return dict(MARK.findall(PAGE.read_text(encoding="utf-8")))


def cut(lines: list[str], *, stood: bool = False) -> Iterator[str]:
    """The lowest rung that fell, its first failure, what was blocked, diagnosis, verdict; `stood`: the others too."""
    told = 0
    for line in lines:
        if re.match(r"\S+ +\d+ ", line):
            told = 0
            if line.startswith("✓") and not stood:
                continue
        if " failed: " in line:
            told += 1
        if line.startswith("diagnosis"):
            told = 0
        if told <= 1 and not line.strip().startswith("and "):
            yield line if len(line) <= WIDTH else f"{line[: WIDTH - 4]} ..."


def printed(fault: str) -> str:
    """What is read of a fault, cut."""
    # Rungs 9 and 10 are asked from `standard` on and at `full`; their faults meet no other.
    level = {"trainers.performance": "full", "trainers.processes": "standard"}.get(faults()[fault].module, "quick")
    words = [sys.executable, "-P", "-m", "sftref.conformance.faults", "--level", level, "--read", fault]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode not in (1, 3):
        raise RuntimeError(f"{fault}: exit code {ended.returncode}: {ended.stderr[-500:]}")
    return "\n".join(cut(ended.stdout.splitlines())) + "\n"


def verdict(out: Path) -> str:
    """What `verify` prints of a trainer with a fault, cut, with its report in a folder."""
    words = [sys.executable, "-P", "-m", "sftref.conformance", "verify", *SHOWN, "--out", str(out)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    text = "\n".join(cut(ended.stdout.splitlines(), stood=True))
    return text.replace(f"report: {out}", "report: sftref-report") + "\n"


def workaround() -> str:
    """What is printed where a setting mends everything: on an invented machine with three stand-ins for laws, cut."""
    with tempfile.TemporaryDirectory() as folder:
        ladder = [(1, "passes"), (2, "needs_simple"), (6, "passes-2")]
        made = Copy(Path(folder) / "copy", ladder, tries=True).on("gpu", "rocm 60400")
        lines = made.verify("--no-self-test").out.splitlines()
    begins = next(at for at, line in enumerate(lines) if "asking again" in line)
    return "".join(f"{line if len(line) <= WIDTH else f'{line[: WIDTH - 4]} ...'}\n" for line in lines[begins:])


def finding(name: str) -> str:
    """What is printed of a finding, on the first invented machine that has it and nothing else."""
    _, made, versions, _ = next(case for case in CASES if case[0] == name)
    with tempfile.TemporaryDirectory() as folder:
        [found] = asked(machine(Path(folder), **made), versions)
    # Whose the invented files are depends on who made them.
    what = re.sub(r"group \w+\)", "group render)", found.what)
    text = f"{found.level}: {what}\n     why: {found.why}\n     next step: {found.next}\n"
    return re.sub(r"usermod -a -G \w+", "usermod -a -G render", text)


def main() -> int:
    """Print, put in place."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", help="of the blocks (default: all)")
    parser.add_argument("--readme", type=Path, metavar="DIR", help="the first block of the README only; minutes")
    given = parser.parse_args()
    if given.readme is not None:
        block = f"<!-- verdict -->\n```text\n{verdict(given.readme)}```\n"
        README.write_text(VERDICT.sub(lambda _: block, README.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    names = given.name
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
