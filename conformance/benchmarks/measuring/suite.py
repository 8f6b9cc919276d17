"""The benchmarks of a run."""

from collections.abc import Iterable

from ...core.law import LEVELS
from . import machine, trainers
from .bench import Bench, Benchmark


def suite(bench: Bench, level: str, only: Iterable[str] = ()) -> list[Benchmark]:
    """The benchmarks of a level: of the machine, then of each trainer.

    Args:
        bench: shared by all.
        level: quick, standard or full.
        only: words of `--only`; empty means all.
    """
    entries = [*machine.benchmarks(bench)]
    for label in bench.subjects:
        entries += trainers.benchmarks(bench, label)
    words = list(only)
    return [
        entry for entry in entries
        if LEVELS.index(entry.level) <= LEVELS.index(level) and (not words or any(named(entry, w) for w in words))
    ]  # fmt: skip


def named(entry: Benchmark, word: str) -> bool:
    """Whether a word of `--only` names this benchmark: by id, group, id without brackets, or the beginning of that."""
    stem = entry.id.partition("[")[0]
    return word in (entry.id, entry.group, stem) or stem.startswith(f"{word}.")
