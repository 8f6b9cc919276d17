"""Processes that the kit joins: the expected results of collectives, how a failing process is named, and faults."""

import os
import signal
import time

import numpy as np
import pytest
from sftref.conformance.core.fault import faults
from sftref.conformance.core.law import expected as expected_checks
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trainers.processes import FAULTS
from sftref.conformance.faults.trainers.sharing import Sharing
from sftref.conformance.faults.trial import run_law, trials
from sftref.conformance.judge.mutation_score import level_of
from sftref.conformance.laws.support import process_group
from sftref.conformance.laws.support.messages import AXES, expected, groups
from sftref.conformance.laws.support.process_group import Layout, Ranks, RanksBroken, close_all, layouts, unlike
from sftref.conformance.laws.trainer.test_9_processes import instructions
from sftref.conformance.workers.channel import NoAnswer

from sftref.cli import main

pytestmark = pytest.mark.once

LAWS = [law.id for law in laws().values() if law.rung == 9]
RIGHT = {"subject": Sharing(), "adapter": "sftref.conformance.faults.trainers.sharing:Sharing"}
# Two laws, and one fault of each kind, are tested in every run; the others take minutes.
QUICK = ("processes.devices", "processes.data")
FEW = ("every-rank-alone", "one-share-for-all", "a-rank-that-dies")


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left() -> object:
    yield
    close_all()


@pytest.mark.parametrize(
    ("most", "expected_layouts"),
    [(2, ["2 x 2"]), (3, ["3 x 1"]), (4, ["2 x 2", "4 x 1"]), (6, ["2 x 3", "3 x 2", "6 x 1"])],
)
def test_layouts_of_at_most_so_many_processes(most: int, expected_layouts: list[str]) -> None:
    assert [str(layout) for layout in layouts(most)] == expected_layouts


def test_what_each_device_has_after_a_collective() -> None:
    """By hand, for two processes with two devices: groups are rows, columns, or all devices."""
    assert groups((2, 2), AXES) == [[0, 1, 2, 3]]
    assert groups((2, 2), AXES[1:]) == [[0, 1], [2, 3]]
    assert groups((2, 2), AXES[:1]) == [[0, 2], [1, 3]]
    data = np.array([[1, 2], [10, 20], [100, 200], [1000, 2000]], np.int32)
    across, within = groups((2, 2), AXES[:1]), groups((2, 2), AXES[1:])
    assert expected("psum", data, within).tolist() == [[11, 22], [11, 22], [1100, 2200], [1100, 2200]]
    assert expected("psum", data, across).tolist() == [
        [101, 202],
        [1010, 2020],
        [101, 202],
        [1010, 2020],
    ]
    assert expected("reduce_scatter", data, within).tolist() == [[11], [22], [1100], [2200]]
    assert expected("all_gather", data, across)[3].tolist() == [10, 20, 1000, 2000]
    assert expected("all_to_all", data, within).tolist() == [[1, 10], [2, 20], [100, 1000], [200, 2000]]
    assert expected("ppermute", data, groups((2, 2), AXES)).tolist() == [[1000, 2000], [1, 2], [10, 20], [100, 200]]


def test_a_program_is_its_instructions_without_names_of_files() -> None:
    header = 'HloModule jit_step, is_scheduled=true\n\nFileNames\n1 "/home/a/step.py"\n\nENTRY %main () {\n'
    body = '  %a = f32[] constant(1), metadata={op_name="a" source_line=12}, origin=x\n  ROOT %b = f32[] add(%a, %a)\n}'
    plain = ["  %a = f32[] constant(1), origin=x", "  ROOT %b = f32[] add(%a, %a)"]
    assert instructions(header + body) == plain
    assert instructions(header.replace("home/a", "b") + body.replace("12", "40")) == plain
    assert instructions(header + body.replace("add", "multiply")) != plain


def test_answers_that_differ_in_a_bit_are_named() -> None:
    one = {"a": np.zeros(2, np.float32), "b": np.ones(2, np.float32)}
    assert unlike(one, {name: leaf.copy() for name, leaf in one.items()}) is None
    assert unlike(one, one | {"b": np.nextafter(one["b"], np.float32(2))}) == "b"
    assert unlike(one, one | {"a": -one["a"]}) == "a", "0 and -0 differ in a bit"
    assert unlike(one, one | {"c": one["a"]}) == "the set of leaves"
    assert unlike((1.0, 2.0), (1.0, 2.0 + 1e-15)) == "the result"


def test_a_process_that_fails_is_named_and_all_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ranks(Layout(2, 1)) as ranks:
        children = [worker.process for worker in ranks.running]
        ranks.every("devices")
        os.kill(children[1].pid, signal.SIGSTOP)
        began = time.monotonic()
        monkeypatch.setattr(process_group, "LIMIT", 2)
        with pytest.raises(RanksBroken, match=r"2 x 1 processes x devices, devices: rank 1: no answer within 2 s"):
            ranks.every("devices")
        monkeypatch.undo()
        assert time.monotonic() - began < 10
        assert all(child.poll() is not None for child in children)
        with pytest.raises(RanksBroken, match=r"2 x 1.*, start: processes were ended after devices: rank 1: no answer"):
            ranks.every("start")
    with (
        Ranks(Layout(2, 1)) as ranks,
        pytest.raises(RanksBroken, match=r"load no_such_module:X: rank 0: AdapterError: .*; rank 1: AdapterError"),
    ):
        ranks.every("load", "no_such_module:X")
    with Ranks(Layout(2, 1)) as ranks:
        ranks.every("devices")
        ranks.running[1].process.kill()
        ranks.send("devices")
        first, second = ranks.answers(20)
        assert isinstance(second, NoAnswer)
        assert second.how.startswith("SIGKILL")
        assert first["processes"] == 2


@pytest.mark.parametrize("law", [pytest.param(law, marks=() if law in QUICK else pytest.mark.slow) for law in LAWS])
def test_a_law_passes_for_a_correct_trainer(law: str) -> None:
    record = run_law(laws()[law], RIGHT, Settings(level="quick"))
    assert record.status == "pass", record.message
    assert record.comparisons > 0


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        pytest.param(name, law, marks=() if name in FEW else pytest.mark.slow)
        for name in FAULTS
        for law in faults()[name].seen_by
    ],
)
def test_a_fault_is_seen(fault: str, law: str) -> None:
    entry = faults()[fault]
    [record] = trials(entry, [(law, Settings(level=level_of("quick", entry, law)))])
    assert record.status == "fail", record.message
    assert f"[{law}]" in record.message or "processes x devices" in record.message


def test_processes_are_simulated_beside_an_accelerator_too() -> None:
    """An accelerator belongs to this process. Without simulated ones, each run there would be INCOMPLETE."""

    class Accelerator:
        platform = "gpu"

    record = run_law(laws()["processes.devices"], {"devices": [Accelerator()]}, Settings())
    assert (record.status, record.facts["platform"]) == ("pass", "cpu")


@pytest.mark.parametrize("count", [1, 9])
def test_an_impossible_number_of_processes_is_refused(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--processes", str(count)]) == 2
    assert f"--processes = {count}, must be 2 to 8 processes of this machine" in capsys.readouterr().err


def test_with_an_option_for_processes_their_laws_run_at_any_level() -> None:
    assert not {law for law in LAWS if any(law in check for check in expected_checks("quick", ["mesh"]))}
    for level, processes in (("quick", 2), ("standard", None)):
        checks = expected_checks(level, ["mesh"], processes=processes)
        assert {law for law in LAWS if any(law in check for check in checks)} == set(LAWS)
    repro = Settings(level="quick", processes=2).repro("processes.devices", None)
    assert repro == "sftref verify --only processes.devices --level quick --seed 0 --processes 2"
