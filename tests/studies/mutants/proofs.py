"""equivalent.toml -> mutants with a proof that no trainer's result can show the change.

A proof is keyed to the file, the text of the line and the text of the changed line. If the source changes, or the tool
no longer makes that mutant, the proof is stale, which is an error: someone must write it again, or delete it.
"""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .draw import Mutant, every

FILE = Path(__file__).parent / "equivalent.toml"


@dataclass(frozen=True)
class Proof:
    """One entry: `file`, `before` and `after` as in `Mutant`, why the change has no effect, and in how many lines."""

    file: str
    before: str
    after: str
    why: str
    times: int = 1


def read(path: Path = FILE) -> list[Proof]:
    """The entries of the file, one table for each source and reason; a TypeError names a wrong field."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))["equivalent"]
    entries = [(dict(table), table["mutants"]) for table in tables]
    for table, _ in entries:
        del table["mutants"]
    return [Proof(before=before, after=after, **table) for table, changes in entries for before, after in changes]


def stale(proofs: Sequence[Proof], package: Path) -> list[str]:
    """What is wrong with each proof whose line is not in its file, or not as often as the proof states; needs no tool.

    Args:
        proofs: the entries.
        package: the folder of the package `sftref`, with the kit in it.
    """
    wrong = []
    for proof in proofs:
        path, wanted = package / proof.file, [line.strip() for line in proof.before.splitlines()]
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
        count = sum(lines[start : start + len(wanted)] == wanted for start in range(len(lines)))
        if count != proof.times:
            wrong.append(f"{proof.file} has {proof.before!r} {count} times, must be {proof.times}")
    return wrong


def not_made(proofs: Sequence[Proof], package: Path) -> list[str]:
    """What is wrong with each proof whose change is none that cosmic-ray makes; Args: see `stale`."""
    wrong = []
    for name in dict.fromkeys(proof.file for proof in proofs):
        own = [proof for proof in proofs if proof.file == name]
        source = (package / name).read_text(encoding="utf-8")
        firsts = {proof.before.splitlines()[0].strip() for proof in own}
        made = {(mutant.before, mutant.after) for mutant in every(name, source, firsts)}
        wrong += [
            f"{name}: no operator changes {proof.before!r} to {proof.after!r}"
            for proof in own
            if (proof.before, proof.after) not in made
        ]
    return wrong


def why(mutant: Mutant, proofs: Iterable[Proof]) -> str | None:
    """The proof of a mutant; None if there is none."""
    key = mutant.file, mutant.before, mutant.after
    return next((proof.why for proof in proofs if (proof.file, proof.before, proof.after) == key), None)
