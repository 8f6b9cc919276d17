"""Tests of the study of mutants: a wrong one is killed, an equal one survives, an endless one is stopped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mutants import proofs, report
from mutants.__main__ import Study, snapshot
from mutants.draw import ADAPTERS, Mutant, reachable, shares
from mutants.warm import Request, Warm

pytestmark = pytest.mark.once
LOSS = "train/loss.py"
SUMS = "return LossSums(jnp.sum(w * losses), jnp.sum(w))"
# The law with the fewest programs to compile, and one that compiles nothing.
LAWS = ("step.logits", "training.data_order")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snapshot(tmp_path_factory.mktemp("study"))[0]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with Warm(tmp_path_factory.mktemp("warm")) as process:
        yield process


def changed(package: Path, file: str, before: str, after: str) -> Mutant:
    text = (package / file).read_text()
    assert text.count(before) == 1
    line = text[: text.index(before)].count("\n") + 1
    return Mutant(file, "By_Hand", line, before, after, text.replace(before, after))


def statuses(warm: Warm, package: Path, mutant: Mutant, *laws: str, **fields: object) -> dict[str, str]:
    request = Request(str(package), mutant.judges[0], "quick", mutant.file, mutant.text, only=laws, **fields)  # type: ignore[arg-type]
    return {event["law"]: event["status"] for event in warm.run(request)}


def test_a_wrong_mutant_is_killed_and_the_laws_after_the_first_failure_do_not_run(warm: Warm, package: Path) -> None:
    mutant = changed(package, "model/bert.py", "jnp.tanh(", "jnp.sin(")
    assert statuses(warm, package, mutant, *LAWS) == {"import": "pass", "step.logits": "fail"}
    order = ("training.data_order", "step.logits")
    assert list(statuses(warm, package, mutant, *LAWS, order=order)) == ["import", *order]


def test_an_equal_mutant_survives(warm: Warm, package: Path) -> None:
    mutant = changed(package, LOSS, SUMS, SUMS.replace("w * losses", "losses * w"))
    assert statuses(warm, package, mutant, *LAWS) == {"import": "pass"} | dict.fromkeys(LAWS, "pass")


@pytest.mark.parametrize(
    ("text", "law", "status"),
    [
        ("import nothing_of_this_name", "import", "import"),
        ("import os; os._exit(3)", "import", "crash"),
        ("def epoch_order(*_):\n    while True: pass", "training.data_order", "hang"),
        ("def epoch_order(*_):\n    return bytearray(2**36)", "training.data_order", "error"),
        ("def epoch_order(*_):\n    import os; os.abort()", "training.data_order", "crash"),
    ],
)
def test_a_mutant_that_ends_or_never_ends(warm: Warm, package: Path, text: str, law: str, status: str) -> None:
    source = (package / "data" / "batches.py").read_text()
    mutant = Mutant("data/batches.py", "By_Hand", 1, "", "", f"{source}\n{text}\n")
    # Ten times as long, and a minute: ten seconds for the mutant that never ends.
    seconds = {"training.data_order": -5.0} if status == "hang" else {}
    assert statuses(warm, package, mutant, "training.data_order", seconds=seconds)[law] == status


def test_results_are_stored_and_the_last_killer_runs_first(warm: Warm, package: Path, tmp_path: Path) -> None:
    mutant = changed(package, "model/bert.py", "jnp.tanh(", "jnp.sin(")
    study = Study(tmp_path, package, "one", warm)
    study.seconds = {mutant.judges[0]: {"training.data_order": 0.1, "step.logits": 99.0}}
    assert study.run([mutant], "quick") == []
    assert study.results[str(mutant), "quick"]["law"] == "step.logits"
    again = Study(tmp_path, package, "one", warm)
    assert again.run([mutant], "quick") == []
    assert again.stored.read_text().count("\n") == 1
    newer = Study(tmp_path, package, "two", warm)
    assert not newer.results
    assert newer.hints == {str(mutant): (mutant.judges[0], "step.logits")}
    outcome = report.Outcome([mutant], study.results, [], ["quick"])
    assert outcome.enough()
    assert "1 mutants: 1 at `quick`; 0 survive" in outcome.summary()
    assert "| model/bert.py | 1 | 1 | 0 | 0 | 0 |" in outcome.markdown()
    proved = report.Outcome(
        [mutant], study.results, [proofs.Proof(mutant.file, "jnp.tanh(", "jnp.sin(", "")], ["quick"]
    )
    assert proved.wrong_proofs()[0].startswith("the proof is wrong, step.logits kills it")


def test_too_few_kills_at_standard_are_not_enough(package: Path) -> None:
    lines = (package / LOSS).read_text().splitlines()
    some = [Mutant(LOSS, "By_Hand", n, line, f"{line} ", "") for n, line in enumerate(lines[:20], 1)]
    results = {(str(mutant), "quick"): {"status": "fail", "level": "quick", "law": "step.update"} for mutant in some}
    results[str(some[0]), "quick"] = {"status": "pass", "level": "quick", "law": None}
    assert report.Outcome(some, results, [], ["quick"]).enough()
    results[str(some[1]), "quick"] = {"status": "pass", "level": "quick", "law": None}
    outcome = report.Outcome(some, results, [], ["quick"])
    assert not outcome.enough()
    assert f"{LOSS}:2` By_Hand" in outcome.markdown()


def test_the_proofs_of_equivalence_are_about_lines_that_exist(package: Path) -> None:
    assert proofs.stale(proofs.read(), package) == []


def test_a_stale_proof_is_an_error(package: Path) -> None:
    for file, line, count in ((LOSS, SUMS, 0), (LOSS, "return something_else", 0), ("no/such.py", SUMS, 0)):
        wrong = proofs.stale([proofs.Proof(file, line, "", "")], package)
        expected = [] if (file, line) == (LOSS, SUMS) else [f"{file} has {line!r} {count} times, must be 1"]
        assert wrong == expected


def test_only_what_the_laws_reach_is_mutated() -> None:
    source = """
USED = 3
UNUSED = 4


def reached(x: int = 1) -> int:
    if x > USED:
        return x + 5
    return x - 6


def other() -> int:
    return UNUSED * 7
"""
    # A law has called `reached(1)`; an import executes the constants and the heads of both functions.
    assert reachable(source, {2, 3, 6, 7, 9, 12}, {"reached", "x", "USED"}) == {2, 6, 7, 9}


def test_a_file_has_a_share_in_proportion_to_its_places() -> None:
    assert shares({"a": 10, "b": 30, "c": 60}, 10) == {"a": 1, "b": 3, "c": 6}
    assert shares({"a": 1, "b": 1, "c": 1}, 10) == {"a": 4, "b": 3, "c": 3}


class FakeWarm:
    """Answers each request with the same events, and counts the requests."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self.events, self.requests, self.cpu = events, list[Request](), 0.0

    def run(self, request: Request) -> Iterator[dict[str, Any]]:
        self.requests.append(request)
        yield from self.events


def event(law: str, status: str = "pass", **fields: Any) -> dict[str, Any]:
    return {"law": law, "status": status, "message": "", "seconds": 1.0, **fields}


def test_the_right_trainers_run_first_and_once(tmp_path: Path) -> None:
    fake: Any = FakeWarm(event("import"), event("step.logits"), event("executed", executed={LOSS: [50, 51]}))
    study = Study(tmp_path, tmp_path, "one", fake)
    assert study.baseline() == {adapter: {LOSS: [50, 51]} for adapter in ADAPTERS}
    assert study.seconds["sftref:mesh"] == {"import": 1.0, "step.logits": 1.0}
    assert [request.adapter for request in fake.requests] == list(ADAPTERS)
    assert Study(tmp_path, tmp_path, "one", fake).baseline() == study.baseline()
    assert len(fake.requests) == len(ADAPTERS)
    wrong: Any = FakeWarm(event("import"), event("step.logits", "fail", message="off"))
    with pytest.raises(RuntimeError, match="sftref:mesh fails without a mutant: step"):
        Study(tmp_path, tmp_path, "two", wrong).baseline()


def test_from_standard_on_all_judges_run_and_the_first_kill_ends_it(tmp_path: Path) -> None:
    fake: Any = FakeWarm(event("import"), event("step.logits"))
    study = Study(tmp_path, tmp_path, "one", fake)
    study.seconds = {adapter: {"step.logits": 1.0} for adapter in ADAPTERS}
    mutant = Mutant(LOSS, "By_Hand", 1, "a", "b", "")
    assert study.run([mutant], "quick") == study.run([mutant], "standard") == [mutant]
    judged = [(request.adapter, request.level) for request in fake.requests]
    assert judged == [("sftref:mesh", "quick"), ("sftref:pmap", "standard"), ("sftref:mesh", "standard")]
    fake.events = (event("step.logits", "fail"),)
    assert study.run([mutant], "full") == []
    assert len(fake.requests) == 4
