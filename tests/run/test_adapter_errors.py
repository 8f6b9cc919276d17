"""An exception of an adapter, or memory that runs out, is no wrong result: SETUP, or INCOMPLETE if other checks ran."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from ladders import KIT, Copy

Make = Callable[..., Copy]
RAISES = """
class Trainer:
    name, capabilities, fixed = "a stand-in", frozenset({"padding rows"}), {"eps": 1e-6, "clip_norm": None}
    def start(self, case, params, n_devices):
        assert (case.eps, case.clip_norm) == (1e-6, None)
    def step(self, batch):
        return self.update(batch)
    def update(self, batch):
        raise ValueError("embeddings\\n of another model")
    evaluate = params = None.__init__
"""


@pytest.fixture
def copy(tmp_path: Path) -> Make:
    def make(ladder: list[tuple[int, str]], adapter: str = RAISES) -> Copy:
        made = Copy(tmp_path / "copy", ladder)
        (made.folder / "stand_in.py").write_text(adapter)
        for path in (made.kit / "laws" / "machine").glob("test_[6789]_fates.py"):
            made.edit(f"laws/machine/{path.name}", "import MAIN", "import main_case")
            made.edit(
                f"laws/machine/{path.name}",
                "A = np",
                "MAIN = main_case(frozenset(), fixed={'eps': 1e-6, 'clip_norm': None})\nA = np",
            )
        return made

    return make


def test_an_exception_before_any_check_of_a_trainer_is_a_setup(copy: Make) -> None:
    made = copy([(0, "passes"), (6, "steps"), (7, "passes")])
    ended = made.verify("--no-self-test")
    assert ended.code == 2
    assert ended.verdict.startswith("SETUP: --adapter stand_in:Trainer: step() raised ValueError in update (")
    assert "stand_in.py:9): embeddings of another model; fix the adapter at the line" in ended.verdict
    check = ended.check("r6.steps[Trainer]")
    assert check["status"] == "error"
    assert check["cause"].startswith("The adapter raised an exception")
    assert [frame.split()[0] for frame in check["facts"]["adapter_frames"]] == ["step", "update"]
    assert ended.report["diagnosis"]["layer"] == "adapter"
    assert "The cause." not in ended.out, "no operator is named"
    assert "last frames of the adapter" in (made.folder / "sftref-report" / "report.html").read_text()
    jsonschema.validate(ended.report, json.loads((KIT / "report" / "report.schema.json").read_text()))


def test_an_exception_beside_other_checks_is_incomplete(copy: Make) -> None:
    ended = copy([(0, "passes"), (6, "starts"), (7, "steps"), (8, "passes")]).verify("--no-self-test")
    assert ended.code == 4, ended.out
    message = "INCOMPLETE: 2 of 4 checks passed, 1 ended by an exception of the adapter (rung 7, equivalence: r7.steps"
    assert ended.verdict.startswith(message)
    assert "diagnosis: adapter: The adapter raised an exception" in ended.out
    assert ended.statuses["r8.passes[Trainer]"] == "blocked"


def test_a_wrong_result_outranks_an_exception(copy: Make) -> None:
    ended = copy([(0, "passes"), (6, "steps"), (6, "differs")]).verify("--no-self-test")
    assert ended.code == 1
    assert "1 wrong (rung 6, step: r6.differs[Trainer]), 1 ended by an exception of the adapter" in ended.verdict
    assert ended.report["diagnosis"]["evidence"][0].startswith("r6.differs[Trainer]: fail")


def test_fixed_constants_are_in_the_report(copy: Make) -> None:
    made = copy([(0, "passes"), (6, "starts")])
    ended = made.verify("--no-self-test")
    assert ended.code == 0, ended.out
    assert "Trainer fixes eps = 1e-06, clip_norm = None; " in ended.verdict
    assert ended.report["subject"][0]["fixed"] == {"eps": 1e-6, "clip_norm": None}
    jsonschema.validate(ended.report, json.loads((KIT / "report" / "report.schema.json").read_text()))
    assert "fixed eps 1e-06" in (made.folder / "sftref-report" / "report.html").read_text()


def test_a_constant_with_a_wrong_name_is_one_line(copy: Make) -> None:
    ended = copy([(0, "passes")], RAISES.replace('"eps"', '"epsilon"')).verify()
    assert ended.code == 2
    assert ended.verdict.startswith("SETUP: --adapter stand_in:Trainer: fixed['epsilon'] = 1e-06, must be one of ")
    assert "Traceback" not in ended.out + ended.err


@pytest.mark.parametrize("fate", ["starves", "exhausts"])
@pytest.mark.parametrize(("ladder", "code", "start"), [
    ([(0, "{}")], 2, "SETUP: "),
    ([(0, "passes"), (3, "{}")], 4, "INCOMPLETE: 1 of 2 checks passed, 1 out of memory (rung 3"),
])  # fmt: skip
def test_no_result_is_wrong_where_memory_ran_out(
    copy: Make, fate: str, ladder: list[tuple[int, str]], code: int, start: str
) -> None:
    ended = copy([(rung, name.format(fate)) for rung, name in ladder]).verify("--no-self-test")
    assert (ended.code, ended.verdict[: len(start)]) == (code, start)
    assert ended.report["diagnosis"]["layer"] == "memory"
    assert "Memory ran out" in ended.report["diagnosis"]["cause"]
    needed = "allocate 9 GiB" if fate == "exhausts" else "bad_alloc"
    assert needed in ended.report["diagnosis"]["cause"]
