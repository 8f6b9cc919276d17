"""The benchmarks of a run."""

from collections.abc import Sequence

from ...core.law import LEVELS
from . import machine, trainers
from .bench import Bench, Benchmark


def suite(bench: Bench, level: str, only: Sequence[str] = ()) -> list[Benchmark]:
    """The benchmarks of a level that `only` names, or all if it is empty: the machine's, then each trainer's."""
    entries = [*machine.benchmarks(bench), *(e for label in bench.subjects for e in trainers.benchmarks(bench, label))]
    run = [entry for entry in entries if LEVELS.index(entry.level) <= LEVELS.index(level)]
    return [entry for entry in run if not only or any(_named(entry, word) for word in only)]


def _named(entry: Benchmark, word: str) -> bool:
    """Whether a word of `--only` is a benchmark's id, its group, its id without brackets, or the beginning of that."""
    stem = entry.id.partition("[")[0]
    return word in (entry.id, entry.group, stem) or stem.startswith(f"{word}.")
