"""`sftref verify --cache`: cached programs are reused, and their results are compared with those of a fresh compile."""

from pathlib import Path

import pytest
from ladders import Copy
from sftref.conformance.machine.snapshot import keeps_programs, pmap_is

pytestmark = pytest.mark.once

EXPECTED = "0.001"
CHECK = "r1.compiles"


@pytest.fixture
def made(tmp_path: Path) -> Copy:
    made = Copy(tmp_path / "copy", [(1, "compiles"), (2, "measures"), (6, "is_not_claimed")])
    (made.folder / "expected").write_text(EXPECTED)
    return made


def verify(made: Copy) -> tuple[int, str]:
    ended = made.verify("--no-self-test", "--cache", "kept")
    return ended.code, ended.verdict


def compilations(made: Copy) -> int:
    return (made.folder / "compilations").read_text().count("compiled")


def program(made: Copy) -> Path:
    (path,) = (made.folder / "kept").glob(f"jax-*/programs/program-{EXPECTED}")
    return path


def test_programs_are_reused_and_the_verdict_says_so(made: Copy) -> None:
    code, verdict = verify(made)
    assert (code, compilations(made)) == (0, 1)
    assert "kept" not in verdict
    ended = made.verify("--no-self-test", "--cache", "kept")
    assert (ended.code, compilations(made)) == (0, 1)
    assert ", seed 0, programs cached on 20" in ended.verdict
    assert ended.report["kept_programs"]["since"] in ended.verdict
    assert ended.report["kept_programs"]["doubted"] == []


@pytest.mark.parametrize("wrong", ["0.002", "0.5", "hangs", "no number"])
def test_a_cached_program_with_another_result_is_untrusted(made: Copy, wrong: str) -> None:
    """0.002 is within the law's bound."""
    verify(made)
    program(made).write_text(wrong)
    ended = made.verify("--no-self-test", "--cache", "kept")
    assert ended.code == 5
    message = f"UNTRUSTED: cached programs disagreed with a fresh compile; the cache was deleted ({CHECK}): 2 of 3"
    assert ended.verdict.startswith(message)
    assert ended.statuses[CHECK] == "pass", "the result of the fresh compile"
    assert ended.report["diagnosis"]["layer"] == "cache"
    code, verdict = verify(made)
    assert code == 0
    assert "kept" not in verdict


def test_changed_code_under_test_is_rerun_once(made: Copy) -> None:
    verify(made)
    (made.folder / "expected").write_text("0.003")
    for twice, total in ((True, 3), (False, 3)):
        code, verdict = verify(made)
        assert (code, compilations(made)) == (0, total), twice
        assert "programs cached on" in verdict


def test_a_failure_with_cached_and_fresh_programs_is_a_failure(made: Copy) -> None:
    verify(made)
    (made.folder / "expected").write_text("0.5")
    for _ in range(2):
        code, verdict = verify(made)
        assert code == 1
        assert f"1 wrong (rung 1, copies: {CHECK})" in verdict


def test_another_seed_has_its_own_programs(made: Copy) -> None:
    verify(made)
    made.verify("--no-self-test", "--cache", "kept", "--seed", "1")
    assert compilations(made) == 2


def test_a_variable_that_changes_no_result_is_ignored(made: Copy) -> None:
    """A hash seed, which tox draws for each run."""
    for seed in ("1", "2"):
        made.verify("--no-self-test", "--cache", "kept", PYTHONHASHSEED=seed)
    assert compilations(made) == 1


def test_another_variable_of_jax_is_another_machine(made: Copy) -> None:
    made.verify("--no-self-test", "--cache", "kept")
    made.verify("--no-self-test", "--cache", "kept", XLA_FLAGS="--xla_cpu_enable_fast_math=false")
    assert compilations(made) == 2


def test_a_damaged_results_file_is_ignored(made: Copy) -> None:
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


def test_a_jax_that_crashes_on_kept_programs_gets_no_cache(made: Copy) -> None:
    made.edit("machine/snapshot.py", r"KEEPS_PROGRAMS = \(0, 6\)", "KEEPS_PROGRAMS = (99, 0)")
    ended = made.verify("--cache", "kept")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "--cache kept: needs JAX 99.0 or later, but JAX " in ended.err
    ended = made.verify("--no-self-test")
    assert "JAX_COMPILATION_CACHE_DIR" in ended.check(CHECK)["message"], "no cache for this run either"


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
