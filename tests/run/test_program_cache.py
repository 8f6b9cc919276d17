"""`sftref verify --cache`: kept programs are used, and no result of theirs is believed for itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from ladders import Copy
from sftref.conformance.machine.snapshot import keeps_programs, pmap_is

pytestmark = pytest.mark.once

ASKED = "0.001"
CHECK = "r1.compiles"


@pytest.fixture
def made(tmp_path: Path) -> Copy:
    made = Copy(tmp_path / "copy", [(1, "compiles"), (2, "measures"), (6, "is_not_claimed")])
    (made.folder / "asked").write_text(ASKED)
    return made


def verify(made: Copy) -> tuple[int, str]:
    ended = made.verify("--no-self-test", "--cache", "kept")
    return ended.code, ended.verdict


def compilations(made: Copy) -> int:
    return (made.folder / "compilations").read_text().count("anew")


def program(made: Copy) -> Path:
    (found,) = (made.folder / "kept").glob(f"jax-*/programs/program-{ASKED}")
    return found


def test_programs_are_kept_and_the_run_says_so(made: Copy) -> None:
    code, verdict = verify(made)
    assert (code, compilations(made)) == (0, 1)
    assert "kept" not in verdict
    ended = made.verify("--no-self-test", "--cache", "kept")
    assert (ended.code, compilations(made)) == (0, 1)
    assert ", seed 0, programs cached on 20" in ended.verdict
    assert ended.report["kept_programs"]["since"] in ended.verdict
    assert ended.report["kept_programs"]["doubted"] == []


@pytest.mark.parametrize("wrong", ["0.002", "0.5", "hangs", "no number"])
def test_a_kept_program_that_does_something_else_is_found_out(made: Copy, wrong: str) -> None:
    """0.002 is within the bound of the law."""
    verify(made)
    program(made).write_text(wrong)
    ended = made.verify("--no-self-test", "--cache", "kept")
    assert ended.code == 5
    said = f"UNTRUSTED: cached programs disagreed with a fresh compile; the cache was deleted ({CHECK}): 2 of 3"
    assert ended.verdict.startswith(said)
    assert ended.statuses[CHECK] == "pass", "the result of the programs that were compiled anew"
    assert ended.report["diagnosis"]["layer"] == "cache"
    code, verdict = verify(made)
    assert code == 0
    assert "kept" not in verdict


def test_what_is_asked_may_change_and_is_asked_twice_then(made: Copy) -> None:
    verify(made)
    (made.folder / "asked").write_text("0.003")
    for twice, total in ((True, 3), (False, 3)):
        code, verdict = verify(made)
        assert (code, compilations(made)) == (0, total), twice
        assert "programs cached on" in verdict


def test_what_fails_with_kept_programs_and_without_fails(made: Copy) -> None:
    verify(made)
    (made.folder / "asked").write_text("0.5")
    for _ in range(2):
        code, verdict = verify(made)
        assert code == 1
        assert f"1 wrong (rung 1, copies: {CHECK})" in verdict


def test_another_seed_has_programs_of_its_own(made: Copy) -> None:
    verify(made)
    made.verify("--no-self-test", "--cache", "kept", "--seed", "1")
    assert compilations(made) == 2


def test_what_changes_from_run_to_run_and_reaches_no_number_is_no_other_machine(made: Copy) -> None:
    """Tox draws a seed for hashes for each run."""
    for seed in ("1", "2"):
        made.verify("--no-self-test", "--cache", "kept", PYTHONHASHSEED=seed)
    assert compilations(made) == 1


def test_another_variable_of_jax_is_another_machine(made: Copy) -> None:
    made.verify("--no-self-test", "--cache", "kept")
    made.verify("--no-self-test", "--cache", "kept", XLA_FLAGS="--xla_cpu_enable_fast_math=false")
    assert compilations(made) == 2


def test_a_damaged_record_is_no_record(made: Copy) -> None:
    verify(made)
    program(made).parents[1].joinpath("cold.json").write_text("{")
    _, verdict = verify(made)
    assert "kept" not in verdict
    assert compilations(made) == 2


def test_a_folder_that_cannot_be_written_is_one_line(made: Copy) -> None:
    (made.folder / "kept").touch()
    ended = made.verify("--cache", "kept")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "--cache kept: must be a folder that can be written" in ended.err


def test_a_jax_whose_kept_programs_crash_is_given_no_cache(made: Copy) -> None:
    made.edit("machine/snapshot.py", r"KEEPS_PROGRAMS = \(0, 6\)", "KEEPS_PROGRAMS = (99, 0)")
    ended = made.verify("--cache", "kept")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "--cache kept: needs JAX 99.0 or later, but JAX " in ended.err
    ended = made.verify("--no-self-test")
    assert "JAX_COMPILATION_CACHE_DIR" in ended.check(CHECK)["message"], "nor one for the run alone"


@pytest.mark.parametrize(("version", "keeps"), [("0.5.3", False), ("0.6.0", True), ("0.12.0.1", True)])
def test_which_releases_keep_programs(version: str, keeps: bool) -> None:
    assert keeps_programs({"jax": version}) == keeps
    assert not keeps_programs({})


@pytest.mark.parametrize(
    ("version", "merged", "own"), [("0.7.2", False, True), ("0.8.3", True, False), ("0.8.3", False, True),
                                   ("0.7.2", None, True), ("0.12.0.1", None, False)],
)  # fmt: skip
def test_what_pmap_is_made_of(version: str, merged: bool | None, own: bool) -> None:
    assert pmap_is(version, merged).startswith("an implementation of its own") == own
