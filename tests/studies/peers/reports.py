"""The kit's reports on trainers by others: the article's loops, PyTorch with and without DDP, and three scripts.

    tox run -e peers -- reports.py [--kept FOLDER]

Runs `verify --level quick` on each trainer, with its known deviations, and writes `REPORTS.md` beside this file;
`--kept` uses reports of an earlier run. Nothing in the page is written by hand: each law that a trainer breaks is a
deviation, with its reason, in the adapter's own file, or its cause is the report's diagnosis. Exits with 1 if a verdict
is not the expected one.

The scripts are in no package and need other releases of the libraries. The adapter's docstring says what to install;
the command of its section, with `--out FOLDER/NAME`, makes the report that `--kept FOLDER` reads: NAME is the adapter's
MODULE-FACTORY, such as `nnx_bert-NnxBert`.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ADAPTERS = HERE.parents[2] / "conformance" / "adapters" / "examples"
Report = Mapping[str, Any]


class Peer(NamedTuple):
    """A trainer: its title, its adapter, the file of its known deviations, options, and a file in no package."""

    name: str
    factory: str
    deviations: str = ""
    options: tuple[str, ...] = ()
    verdict: str = "CONFORMANT"
    script: str = ""

    @property
    def words(self) -> list[str]:
        """The words that a person types after `sftref`."""
        adapter = f"sftref.conformance.adapters.examples.{self.factory}"
        known = ["--deviations", f"conformance/adapters/examples/{self.deviations}"] if self.deviations else []
        return ["verify", "--level", "quick", "--adapter", adapter, *self.options, *known]

    def out(self, folder: Path) -> Path:
        """The folder of its report."""
        return folder / self.factory.replace(":", "-")

    def lacks(self, folder: Path) -> bool:
        """Whether it has no report yet and its script is not on Python's path."""
        has = (self.out(folder) / "report.json").exists() or not self.script
        return not has and not any((Path(path) / self.script).exists() for path in sys.path)

    def run(self, folder: Path) -> Report:
        """Verify the trainer, unless `folder` has its report already; returns the report."""
        out = self.out(folder)
        if not (out / "report.json").exists():
            words = [*self.words, "--no-remedies", "--out", str(out)]
            subprocess.run(
                [sys.executable, "-P", "-m", "sftref.conformance", *words], cwd=ADAPTERS.parents[2], check=False
            )
        found: Report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        return found


ONE = ("--only", "step.update", "--no-self-test")
# The rungs of a trainer.
OWN = ("--only", "6", "--only", "7", "--only", "8", "--no-self-test")
PEERS = (
    Peer("The article's `pmap` loop, on FlaxBert", "article:pmap", "article.toml"),
    Peer("The article's `jit` loop over a mesh, on FlaxBert", "article:mesh", "article.toml"),
    Peer("PyTorch, one process", "torch:single"),
    # One law of the machine needs more than two devices, and these two processes have one each.
    Peer("PyTorch, DistributedDataParallel over gloo, two processes", "torch:ddp", "ddp.toml", ("--devices", "2"),
         "INCOMPLETE"),
    Peer("Hugging Face's `run_flax_glue.py`", "flax_glue:FlaxGlue", "flax_glue.toml", OWN, script="run_flax_glue.py"),
    Peer("Equinox's `bert.ipynb`", "equinox_bert:EquinoxBert", "", OWN, "NONCONFORMANT", "bert.ipynb"),
    Peer("The BERT of `walln/scratch` in Flax NNX", "nnx_bert:NnxBert", "", OWN, "NONCONFORMANT", "scratch"),
    Peer("The article's `pmap` loop with its own dropout", "article:pmap_dropout", "", ONE, "NONCONFORMANT"),
    Peer("The article's loop over a mesh with its own dropout", "article:mesh_dropout", "", ONE, "NONCONFORMANT"),
    Peer("PyTorch, whose token 0 is padding", "torch:with_padding_token", "", ONE, "NONCONFORMANT"),
)  # fmt: skip


def of_status(report: Report, *statuses: str) -> list[Mapping[str, Any]]:
    """The checks of a trainer whose status is one of `statuses`."""
    return [check for check in report["checks"] if check["subject"] and check["status"] in statuses]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first of which is the head -> a Markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def broken(report: Report) -> Iterator[list[str]]:
    """A row for each law that a trainer breaks: the law, by how much, where, and why if that is known before."""
    reasons = {known["id"]: known["reason"] for known in report["deviations"]}
    for check in of_status(report, "deviation", "fail"):
        figure = ""
        if check["measured"] is not None and check["bound"]:
            figure = f"{check['measured']:.2g} ({check['bound']:.1g})"
        said = check["message"].rpartition("seen again as fail: ")[2]
        where = " ".join((check["worst"] if figure else said).split())[:160]
        yield [f"`{check['law']}`", figure, where, reasons.get(check["law"], "see the diagnosis")]


def section(peer: Peer, report: Report) -> str:
    """The section of one trainer."""
    kept = ", ".join(f"`{check['law']}`" for check in of_status(report, "pass")) or "none of those asked"
    unclaimed = sorted({check["message"] for check in of_status(report, "not_run")})
    versions = report["environment"]["versions"]
    line = re.sub(r" [(][^)]*[)]", "", report["line"]).partition(";")[0]
    parts = [
        f"## {peer.name}",
        f"`sftref {' '.join(peer.words)}`",
        f"{line}; {report['timing']['seconds']:.0f} s, with JAX {versions['jax']} and Flax {versions['flax']}.",
        f"Keeps: {kept}.",
    ]
    if unclaimed:
        parts.append(f"Not asked: {'; '.join(unclaimed)}.")
    if rows := list(broken(report)):
        parts.append(table([["breaks", "error (bound)", "where", "why"], *rows]))
    if of_status(report, "fail"):
        parts.append(textwrap.fill(f"Diagnosis: {report['diagnosis']['cause']}", 120))
    return "\n\n".join(parts)


def main() -> int:
    """Verify each trainer, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kept", type=Path, help="folder for the reports; reports that it has are used")
    parser.add_argument("--only", action="append", help="MODULE:FACTORY; the other sections of the page stay")
    given = parser.parse_args()
    peers = [peer for peer in PEERS if not given.only or peer.factory in given.only]
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.kept or Path(scratch)
        if missing := ", ".join(peer.script for peer in peers if peer.lacks(folder)):
            print(f"reports.py: {missing}: in no folder of PYTHONPATH, and no report in --kept", file=sys.stderr)
            return 2
        reports = [peer.run(folder) for peer in peers]
    pairs = list(zip(peers, reports, strict=True))
    amiss = [f"{peer.factory}: {report['line']}" for peer, report in pairs if report["verdict"] != peer.verdict]
    page = HERE / "REPORTS.md"
    old = page.read_text(encoding="utf-8").split("\n## ")[1:] if page.exists() else []
    sections = {part.splitlines()[0]: f"## {part.strip()}" for part in old}
    sections |= {peer.name: section(peer, report) for peer, report in pairs}
    parts = [
        "# What the kit says of trainers that others wrote",
        "`reports.py` beside this file made this page, with PyTorch 2.13.0 and transformers 4.57.6 (4.56.2 for "
        "`run_flax_glue.py`)\non a CPU. If a trainer is known to break a law, its file of deviations lists the law and "
        "the reason; all other laws\nmust pass. The trainers with the verdict NONCONFORMANT are known to fail, and "
        "show what the kit then reports.",
        *(sections[peer.name] for peer in PEERS if peer.name in sections),
    ]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n".join([*amiss, str(page)]))
    return int(bool(amiss))


if __name__ == "__main__":
    sys.exit(main())
