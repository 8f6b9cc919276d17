"""Which programs a run compiles without optimization: its verdict says so, and their processes get XLA's flags."""

import importlib.metadata
from pathlib import Path

import pytest
from ladders import Copy


@pytest.mark.parametrize(("level", "unoptimized"), [("quick", ["r6.passes"]), ("standard", [])])
def test_the_verdict_says_which_programs_were_compiled_without_optimization(
    level: str, unoptimized: list[str], tmp_path: Path
) -> None:
    ended = Copy(tmp_path / "copy", [(0, "passes"), (6, "passes")]).verify("--level", level)
    assert ended.report["settings"]["unoptimized"] == unoptimized
    assert ("(trainers compiled without optimization)" in ended.verdict) is bool(unoptimized)
    assert ended.check("r6.passes[Trainer]")["status"] == "pass"


@pytest.mark.parametrize(("level", "light"), [("quick", True), ("standard", False)])
def test_programs_that_are_not_optimized_get_the_flags_of_the_older_generator(
    level: str, light: bool, tmp_path: Path
) -> None:
    ended = Copy(tmp_path / "copy", [(0, "passes"), (6, "needs_light")]).verify("--level", level)
    known = importlib.metadata.version("jax").startswith("0.10.")
    assert ended.check("r6.needs_light[Trainer]")["status"] == ("pass" if light and known else "fail")
