"""The benchmarks of a run: what is timed, beside which kernel, from which level on."""

from __future__ import annotations

from collections.abc import Iterable

from ...core.law import LEVELS
from . import machine, trainers
from .bench import Bench, Benchmark


def suite(bench: Bench, level: str, only: Iterable[str] = ()) -> list[Benchmark]:
    """The benchmarks of a level, machine first, then trainer by trainer.

    Args:
        bench: shared by them.
        level: quick, standard or full.
        only: ids, groups, or beginnings of ids; empty means all.
    """
    found = [*machine.benchmarks(bench)]
    for label in bench.subjects:
        found += trainers.benchmarks(bench, label)
    asked = list(only)
    return [
        entry
        for entry in found
        if LEVELS.index(entry.level) <= LEVELS.index(level) and (not asked or any(named(entry, w) for w in asked))
    ]


def named(entry: Benchmark, word: str) -> bool:
    """Whether a word of `--only` means this benchmark: its id, its group, its id less the brackets, or a part of it."""
    stem = entry.id.partition("[")[0]
    return word in (entry.id, entry.group, stem) or stem.startswith(f"{word}.")
