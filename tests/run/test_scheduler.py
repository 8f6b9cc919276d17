"""The scheduler, with real processes: a check that fails, hangs or crashes costs no other check; no process is left."""

import signal
import time
import unittest.mock
from collections.abc import Callable
from pathlib import Path

import pytest
from ladders import FATES, Copy, Ended
from sftref.conformance.core.law import laws
from sftref.conformance.core.result import Result
from sftref.conformance.core.settings import Settings
from sftref.conformance.judge.outcome import Outcome
from sftref.conformance.run import scheduler
from sftref.conformance.workers.plan import Unit

Make = Callable[..., Copy]


@pytest.fixture
def copy(tmp_path: Path) -> Make:
    return lambda ladder, **more: Copy(tmp_path / "copy", ladder, **more)


def left_behind(folder: Path) -> list[str]:
    """Numbers of the processes that run for this folder."""
    numbers = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in (path / "cmdline").read_text() and (path / "stat").read_text().split()[2] != "Z":
                numbers.append(path.name)
        except OSError:
            continue
    return numbers


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Copy, Ended]:
    folder = tmp_path_factory.mktemp("scheduler")
    fates = [fate for fate in FATES if fate != "waits"]
    ladder = [(0, "passes"), (1, "passes"), (5, "passes"), *((3, fate) for fate in fates), (6, "passes"), (7, "passes")]
    copy = Copy(folder / "copy", ladder)
    (folder / "tmp").mkdir()
    return copy, copy.verify(TMPDIR=str(folder / "tmp"))


def test_each_fate_is_one_status(everything: tuple[Copy, Ended]) -> None:
    assert everything[1].statuses == {
        "r0.passes": "pass",
        "r1.passes": "pass",
        "r3.passes": "pass",
        "r3.measures": "pass",
        "r3.differs": "fail",
        "r3.raises": "error",
        "r3.compares_nothing": "error",
        "r3.needs_more": "not_run",
        "r3.is_not_claimed": "not_run",
        "r3.disagrees": "fail",
        "r3.sleeps": "hang",
        "r3.holds_the_gil": "hang",
        "r3.segfaults": "crash",
        "r3.exits": "crash",
        "r3.aborts": "crash",
        "r5.passes": "pass",
        "r6.passes[Trainer]": "blocked",
        "r7.passes[Trainer]": "blocked",
    }


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("r3.sleeps", "no answer within 2.5 s; it was in test_sleeps (machine/test_3_fates.py:"),
        ("r3.holds_the_gil", "test_holds_the_gil (machine/test_3_fates.py:"),
        ("r3.segfaults", "SIGSEGV; last output: Fatal Python error: Segmentation fault | in string_at"),
        ("r3.exits", "exit code 7 (in the middle of the check)"),
        ("r3.aborts", "SIGABRT; last output: F0000 rendezvous of 8 threads failed | Fatal Python error: Aborted"),
        ("r3.disagrees", "kernels that disagree: E0000 Results mismatch between two kernels"),
        ("r3.raises", "RuntimeError: boom ?[31m"),
        ("r3.compares_nothing", "compared nothing"),
        ("r6.passes[Trainer]", "blocked by rung 3 (operators)"),
    ],
)
def test_a_message_says_what_happened(everything: tuple[Copy, Ended], check: str, message: str) -> None:
    assert message in everything[1].check(check)["message"]


def test_wrong_results_come_before_hangs_and_the_line_names_both(everything: tuple[Copy, Ended]) -> None:
    ended = everything[1]
    assert ended.code == ended.report["exit_code"] == 1
    assert ended.verdict.startswith("NONCONFORMANT: 5 of 18 checks passed, 4 wrong (rung 3, operators: r3.differs and ")
    for message in (
        "2 hung (rung 3",
        "3 crashed (rung 3",
        "2 blocked",
        "1 not run: needs 2 devices",
        "gradients not cl",
    ):
        assert message in ended.verdict
    assert "no seeded fault was run" in ended.verdict
    assert "Traceback" not in ended.out + ended.err


def test_a_failure_is_printed_with_what_to_do(everything: tuple[Copy, Ended]) -> None:
    out = everything[1].out
    for message in (
        "r3.differs failed: It MUST be so.",
        "a: error 1, must be the same bit for bit; furthest off at [0]: 1.0, should be 0.0",
        "likely cause: The cause.",
        "next step: The next step.",
        "reproduce: python -m conformance verify --only r3.differs --level standard --seed 0",
    ):
        assert message in out
    assert "\x1b" not in out


def test_rungs_are_printed_as_they_end(everything: tuple[Copy, Ended]) -> None:
    lines = [line for line in everything[1].out.splitlines() if line[:1] in "✓✗·"]
    assert [line[:14].strip() for line in lines[:2]] == ["✓  0 environme", "✓  1 copies"]
    assert sorted(line[3] for line in lines) == list("013567")
    assert "2 passed, 2 failed, 2 in error, 2 hung, 3 crashed, 2 not run" in next(li for li in lines if li[3] == "3")


def test_facts_are_json(everything: tuple[Copy, Ended]) -> None:
    check = everything[1].check("r3.measures")
    assert check["facts"]["ratio"] == "nan"
    assert check["facts"]["floor"]["float32"]["all"] == pytest.approx(1e-2, rel=0.05)
    assert check["margin"] == pytest.approx(2.4e-2, rel=0.1)
    assert check["bound_from"] == "by hand"


def test_the_machine_and_the_trainer_are_described(everything: tuple[Copy, Ended]) -> None:
    report = everything[1].report
    assert len(report["environment"]["devices"]) == 8
    assert report["environment"]["platforms"] == ["cpu"]
    assert report["subject"] == [{"label": "Trainer", "adapter": "stand_in:Trainer"}], "none of its checks ran"


def test_nothing_is_left_behind(everything: tuple[Copy, Ended]) -> None:
    copy = everything[0]
    assert left_behind(copy.folder) == []
    assert list((copy.folder.parent / "tmp").iterdir()) == []
    assert sorted(path.name for path in copy.folder.iterdir() if path.name != "__pycache__") == [
        "conformance", "jax", "sftref-report", "stand_in.py"
    ]  # fmt: skip


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_report_of_what_ran(copy: Make, tmp_path: Path, signal_number: int, code: int) -> None:
    made = copy([(0, "passes"), (1, "waits"), (1, "passes"), (6, "passes")], deadline=60.0)
    flag = tmp_path / "flag"
    process = made.start(SFTREF_FLAG=str(flag))
    until = time.monotonic() + 60
    while not flag.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal_number)
    ended = made.ended(process)
    assert ended.code == ended.report["exit_code"] == code, ended.err
    assert ended.report["verdict"] == "INCOMPLETE"
    assert ended.verdict.startswith("INCOMPLETE: interrupted; 1 of 4 checks passed")
    assert ended.statuses == {
        "r0.passes": "pass", "r1.waits": "not_run", "r1.passes": "not_run", "r6.passes[Trainer]": "not_run"
    }  # fmt: skip
    assert ended.check("r1.waits")["message"] == "interrupted"
    assert left_behind(made.folder) == []


def test_a_result_interrupted_by_a_signal_is_stored_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It was lost: the check had left `left`, and was not yet among the results."""
    outcome = Outcome(settings=Settings(), expected=["environment.versions"])
    made = scheduler.Scheduler(outcome, unittest.mock.Mock(), tmp_path, None, {})
    running = scheduler._Running(Unit("rung 0", [], frozenset()), None, ["environment.versions"])  # type: ignore[arg-type]
    record = Result.ended(laws()["environment.versions"], None, "pass", "", 0.1)

    def interrupted(*_: object) -> Result:
        raise KeyboardInterrupt

    with monkeypatch.context() as half:
        half.setattr(scheduler, "accepted", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made._keep(running, record)
    made._keep(running, record)
    assert outcome.records["environment.versions"].status == "pass"
    assert running.left == []


def test_children_end_with_a_parent_that_is_killed(copy: Make, tmp_path: Path) -> None:
    made = copy([(0, "waits")], deadline=60.0)
    flag = tmp_path / "flag"
    process = made.start(SFTREF_FLAG=str(flag), TMPDIR=str(tmp_path))  # where its scratch folder is left
    until = time.monotonic() + 60
    while not flag.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    until = time.monotonic() + 20
    while left_behind(made.folder) and time.monotonic() < until:
        time.sleep(0.05)
    assert left_behind(made.folder) == []


def test_a_rung_whose_checks_hang_is_blocked_after_three(copy: Make) -> None:
    made = copy([(0, "passes"), *((1, f"sleeps-{n}") for n in range(5)), (4, "passes")], deadline=0.5)
    ended = made.verify()
    assert ended.code == 3
    assert ended.verdict.startswith("UNRESPONSIVE: 1 of 7 checks passed, 3 hung (rung 1, copies: r1.sleeps-0 and 2 ")
    assert list(ended.statuses.values()) == ["pass", *["hang"] * 3, *["blocked"] * 3]
    assert ended.check("r1.sleeps-4")["message"] == "blocked by rung 1 (copies) itself: 3 of its checks hung"
    assert ended.report["diagnosis"]["layer"] == "copies"


def test_a_process_that_does_not_start_is_restarted_once(copy: Make) -> None:
    made = copy([(3, "passes"), (3, "differs")])
    made.edit("laws/machine/test_3_fates.py", "^", "import time; time.sleep(60)\n")
    made.edit("workers/process.py", r"START, BETWEEN, EXIT = .*", "START, BETWEEN, EXIT = 3.0, 3.0, 3.0")
    ended = made.verify()
    assert ended.code == 3
    assert list(ended.statuses.values()) == ["hang", "hang"]
    assert (
        "no check began within 3 s; it was in <module> (machine/test_3_fates.py:" in ended.check("r3.passes")["message"]
    )


def test_a_process_that_dies_before_its_first_check(copy: Make) -> None:
    made = copy([(3, "passes"), (3, "differs")])
    made.edit("laws/machine/test_3_fates.py", "^", "import os; os.write(2, b'bad driver\\\\n'); os.abort()\n")
    ended = made.verify()
    assert ended.code == 3
    assert list(ended.statuses.values()) == ["crash", "crash"]
    assert (
        "ended early, before the check began: SIGABRT; last output: bad driver" in ended.check("r3.passes")["message"]
    )


def test_a_file_that_cannot_be_imported_costs_its_own_checks(copy: Make) -> None:
    made = copy([(0, "passes"), (3, "passes"), (4, "passes")])
    made.edit("laws/machine/test_3_fates.py", "^", "import nowhere\n")
    ended = made.verify()
    assert ended.code == 1
    assert list(ended.statuses.values()) == ["pass", "error", "pass"]
    assert "ModuleNotFoundError: No module named 'nowhere'" in ended.check("r3.passes")["message"]


def test_a_crash_at_exit_is_reported(copy: Make) -> None:
    made = copy([(0, "passes")])
    made.edit("laws/machine/test_0_fates.py", "^", "import atexit, os; atexit.register(os.abort)\n")
    ended = made.verify()
    assert ended.code == 3
    assert ended.verdict.startswith(
        "UNRESPONSIVE: 1 of 1 checks passed, the process of rungs 0, 1, 2 and 5 crashed on its way out"
    )


def test_a_process_that_does_not_exit_is_ended(copy: Make) -> None:
    made = copy([(0, "passes")])
    made.edit("laws/machine/test_0_fates.py", "^", "import atexit, time; atexit.register(time.sleep, 60)\n")
    made.edit("workers/process.py", r"START, BETWEEN, EXIT = .*", "START, BETWEEN, EXIT = 60.0, 60.0, 1.0")
    ended = made.verify()
    assert ended.code == 3
    assert "the process of rungs 0, 1, 2 and 5 did not end by itself" in ended.verdict
    assert left_behind(made.folder) == []


def test_a_law_without_a_check_did_not_run(copy: Make) -> None:
    made = copy([(0, "passes"), (1, "passes"), (1, "differs")])
    made.edit("laws/machine/test_1_fates.py", r"(?s)\n@pytest.mark.law\(\"r1.differs.*", "")
    ended = made.verify()
    assert ended.code == 4
    assert ended.check("r1.differs")["message"] == "there is no check of this id in laws/"


def test_each_check_has_one_result(everything: tuple[Copy, Ended]) -> None:
    ids = [check["id"] for check in everything[1].report["checks"]]
    assert len(ids) == len(set(ids)) == 18


def test_options_of_the_users_pytest_and_jax_have_no_effect(copy: Make) -> None:
    made = copy([(0, "passes")])
    has_them = "os.environ.get('JAX_COMPILATION_CACHE_DIR') == '/nowhere' or 'PYTEST_ADDOPTS' in os.environ"
    probe = f"assert not ({has_them})\n    "
    made.edit("laws/machine/test_0_fates.py", "check.equal", f"{probe}check.equal")
    ended = made.verify(JAX_COMPILATION_CACHE_DIR="/nowhere", MY_TOKEN="secret", JAX_API_TOKEN="secret")
    assert ended.code == 0, ended.out
    variables = ended.report["environment"]["variables"]
    assert variables["JAX_COMPILATION_CACHE_DIR"] == "/nowhere", "the report shows the user's variable"
    assert variables["JAX_API_TOKEN"] == "(hidden)"
    assert "MY_TOKEN" not in variables
