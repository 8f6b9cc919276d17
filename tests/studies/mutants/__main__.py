"""Mutants of right trainers -> how many the laws of trainers kill at each level, and which survive.

    tox -e mutants

The command mutates the kit's template adapter and the code of sftref that computes and stores an update. All mutants
run at `quick`, those that survive and have no proof of equivalence at `standard`, then at `full`, each until the first
law fails; those with a proof are last. Only lines that the laws execute are mutated. Results are appended to
`results.jsonl` as they come, so an interrupted run continues; results of another version of the sources only choose
which trainer and law run first. Writes `mutants.md`, and `summary.json`, whose copy in this folder gives the figures of
the kit's README. Exits with 1 if less than 95 % of the mutants that are not equivalent are killed at `standard`.
"""

import argparse
import collections
import hashlib
import importlib.metadata
import importlib.util
import json
import random
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import proofs, report
from .draw import ADAPTERS, Mutant, mutants
from .warm import KILLED, Request, Warm

LEVELS = ("quick", "standard", "full")
# The level at which the right trainers run, for the lines that the laws execute and the seconds of each law.
BASE = "standard"
# The laws with the fewest programs to compile, which run first; the seconds of the others on the right trainer are
# without the programs that they share with earlier laws, and these are added.
FIRST = ("step.logits", "training.data_order", "training.metrics", "step.update")
SHARED = 10.0
Results = dict[tuple[str, str], dict[str, Any]]


def snapshot(folder: Path) -> tuple[Path, str]:
    """A copy of the installed package with the kit in it, which does not change during the run, and its digest."""
    spec = importlib.util.find_spec("sftref")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package, copy = Path(spec.submodule_search_locations[0]), folder / "package" / "sftref"
    kit = package / "conformance" if (package / "conformance").exists() else package.parent / "conformance"
    shutil.rmtree(copy, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, copy, ignore=ignore)
    shutil.copytree(kit, copy / "conformance", ignore=ignore, dirs_exist_ok=True)
    digest = hashlib.sha256()
    for path in sorted(p for p in copy.rglob("*") if p.suffix in (".py", ".toml")):
        digest.update(f"{path.relative_to(copy)}\n".encode() + path.read_bytes())
    return copy, digest.hexdigest()[:16]


class Study:
    """A run: the process that judges, and the results so far.

    Args:
        out: the folder of the results.
        package: the copy of the package.
        version: the digest of the package.
        warm: judges.
    """

    def __init__(self, out: Path, package: Path, version: str, warm: Warm) -> None:
        self.out, self.package, self.version, self.warm = out, package, version, warm
        self.results: Results = {}
        # A mutant -> the trainer and the law that killed it in a run of another version.
        self.hints: dict[str, tuple[str | None, str]] = {}
        # (file, law) -> mutants that the law killed, and seconds that it took.
        self.kills: collections.Counter[tuple[str, str]] = collections.Counter()
        self.spent: collections.Counter[tuple[str, str]] = collections.Counter()
        self.stored = out / "results.jsonl"
        for line in self.stored.read_text(encoding="utf-8").splitlines() if self.stored.exists() else ():
            result = json.loads(line)
            if result["status"] in KILLED:
                self.hints[result["mutant"]] = result.get("adapter"), result["law"]
                killer = result["mutant"].partition(":")[0], result["law"]
                self.kills[killer] += 1
                self.spent[killer] += result["seconds"]
            if result["version"] == version:
                self.results[result["mutant"], result["level"]] = result

    def baseline(self) -> dict[str, dict[str, list[int]]]:
        """Run the right trainers at `BASE`; returns adapter -> file -> executed lines.

        Raises:
            RuntimeError: a law fails on a right trainer.
        """
        path = self.out / "baseline.json"
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if known.get("version") != self.version:
            known = {"version": self.version, "executed": {}, "seconds": {}}
        for adapter in ADAPTERS:
            if adapter in known["seconds"]:
                continue
            print(f"the laws at {BASE} on {adapter} without a mutant ...", file=sys.stderr, flush=True)
            seconds = {}
            for event in self.warm.run(Request(str(self.package), adapter, BASE, whole=True, coverage=True)):
                if event["status"] in KILLED:
                    raise RuntimeError(f"{adapter} fails without a mutant: {event['law']}: {event['message']}")
                if "executed" in event:
                    known["executed"][adapter] = event["executed"]
                else:
                    seconds[event["law"]] = round(event["seconds"], 2)
            known["seconds"][adapter] = seconds
            path.write_text(json.dumps(known), encoding="utf-8")
        self.seconds: dict[str, dict[str, float]] = known["seconds"]
        executed: dict[str, dict[str, list[int]]] = known["executed"]
        return executed

    def judge(self, mutant: Mutant, level: str) -> dict[str, Any]:
        """Run one mutant at one level, and store the result; at `quick` with the first of its judges only."""
        began, cpu = time.monotonic(), self.warm.cpu
        status, law, message = "pass", None, ""
        first, hint = self.hints.get(str(mutant), (None, ""))
        # Above `quick` the trainers come first that have not judged it yet.
        judges = mutant.judges[:1] if level == LEVELS[0] else mutant.judges[::-1]
        for adapter in sorted(judges, key=lambda adapter: adapter != first):
            known = self.seconds[adapter]
            order = list(dict.fromkeys([hint, *sorted(known, key=partial(self.price, mutant.file, known))]))
            request = Request(str(self.package), adapter, level, mutant.file, mutant.text, order, known)
            for event in self.warm.run(request):
                self.spent[mutant.file, event["law"]] += event["seconds"]
                if event["status"] in KILLED:
                    status, law, message = event["status"], event["law"], event["message"]
                    self.kills[mutant.file, law] += 1
            if law is not None:
                break
        result = {
            "mutant": str(mutant), "version": self.version, "level": level, "status": status, "law": law,
            "adapter": law and adapter, "message": message, "seconds": round(time.monotonic() - began, 1),
            "cpu": round(self.warm.cpu - cpu, 1),
        }  # fmt: skip
        with self.stored.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(result) + "\n")
        self.results[str(mutant), level] = result
        return result

    def price(self, file: str, usual: Mapping[str, float], law: str) -> float:
        """Seconds of a law for each mutant of a file that it killed; before any, ten times its usual seconds."""
        known = usual[law] + (0.1 if law in FIRST else SHARED)
        return (self.spent[file, law] + known) / (self.kills[file, law] + 0.1)

    def run(self, drawn: Sequence[Mutant], level: str) -> list[Mutant]:
        """Run mutants at a level; returns the survivors."""
        todo = [mutant for mutant in drawn if (str(mutant), level) not in self.results]
        # Files take turns, so that an interrupted run has a sample of each.
        random.Random(level).shuffle(todo)
        began = time.monotonic()
        for done, mutant in enumerate(todo, 1):
            result = self.judge(mutant, level)
            left = (time.monotonic() - began) / done * (len(todo) - done) / 60
            words = f"{result['status']} {result['law'] or ''}".strip()
            print(
                f"{level} {done} of {len(todo)}, {left:.0f} min left: {mutant.file}:{mutant.line} {mutant.operator}: "
                f"{words}, {result['seconds']:.0f} s", file=sys.stderr, flush=True,
            )  # fmt: skip
        return [mutant for mutant in drawn if self.results[str(mutant), level]["status"] == "pass"]


def selected(drawn: Iterable[Mutant], words: Sequence[str]) -> Iterator[Mutant]:
    """The mutants whose file and line begin with one of `words`; all if there are none."""
    for mutant in drawn:
        if not words or any(f"{mutant.file}:{mutant.line}:".startswith(word) for word in words):
            yield mutant


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, judge, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("mutants"), metavar="DIR")
    parser.add_argument("--count", type=int, default=420, help="mutants to draw (default 420)")
    parser.add_argument("--seed", type=int, default=0, help="selects the mutants (default 0)")
    parser.add_argument("--level", choices=LEVELS, default="full", help="the last level (default full)")
    parser.add_argument("--only", action="append", default=[], metavar="FILE[:LINE:]", help="some of the drawn mutants")
    parser.add_argument("--check-proofs", action="store_true", help="run mutants with a proof above `quick` too")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    package, version = snapshot(out)
    known = proofs.read()
    if wrong := proofs.stale(known, package) or proofs.not_made(known, package):
        print("equivalent.toml is stale:", *wrong, sep="\n  ", file=sys.stderr)
        return 2
    levels = LEVELS[: LEVELS.index(options.level) + 1]
    with Warm(out) as warm:
        study = Study(out, package, version, warm)
        try:
            executed = study.baseline()
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 2
        drawn = list(selected(mutants(package, executed, options.count, options.seed), options.only))
        proved = [mutant for mutant in drawn if proofs.why(mutant, known) is not None]
        open_ = [mutant for mutant in drawn if mutant not in proved]
        for group, last in ((open_, None), (proved, None if options.check_proofs else 1)):
            alive = group
            for level in levels[:last]:
                alive = study.run(alive, level)
    outcome = report.Outcome(drawn, study.results, known, levels)
    (out / "mutants.md").write_text(outcome.markdown(), encoding="utf-8")
    figures = outcome.figures() | {"date": time.strftime("%Y-%m-%d"), "jax": importlib.metadata.version("jax")}
    (out / "summary.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(outcome.summary(), *outcome.wrong_proofs(), f"{out / 'mutants.md'}", sep="\n")
    return 0 if outcome.enough() and not outcome.wrong_proofs() else 1


if __name__ == "__main__":
    sys.exit(main())
