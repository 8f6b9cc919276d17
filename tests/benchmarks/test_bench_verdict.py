"""What a run of the benchmarks makes of its times, its counts and what is stored."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import pytest
from sftref.conformance.benchmarks.judging import stored_runs, verdict
from sftref.conformance.benchmarks.judging.intervals import AMBIGUOUS, FAIL, PASS
from sftref.conformance.benchmarks.judging.stored_runs import Stored
from sftref.conformance.benchmarks.judging.verdict import RECORDED, WRONG, Judge, Judged, differences
from sftref.conformance.benchmarks.measuring.bench import SIZES, Bench
from sftref.conformance.benchmarks.measuring.rounds import Measured
from sftref.conformance.benchmarks.measuring.timing import (
    Round,
    WrongResultError,
    check_linear,
    check_waited,
    repeats,
    rounded,
)
from sftref.conformance.benchmarks.measuring.trainers import operations
from sftref.conformance.benchmarks.page import document, duration, page, table

pytestmark = pytest.mark.once

VERSIONS = {"jax": "0.10.2", "jaxlib": "0.10.2"}
EXACT = {"operations": 100, "aliased": 4096, "compilations later": 0, "arrays left": 0}


def measured(wall: float, *, id: str = "step[mesh]", **exact: float) -> Measured:
    return Measured(id, {"wall": 0.01}, {"wall": wall, "cpu": wall}, {"examples": 64.0}, EXACT | exact, 20)


def stored(wall: float, *, versions: dict[str, str] = VERSIONS, **exact: float) -> Stored:
    both = {m.id: m for m in (measured(wall, **exact), measured(wall * 2, id="evaluation[mesh]"))}
    return Stored(versions, both)


THREE = [stored(1.0), stored(1.005), stored(0.995)]


def judge(runs: list[Stored], versions: dict[str, str] = VERSIONS) -> Judge:
    return Judge(runs, versions, 0.05, count=2)


@pytest.mark.parametrize(("wall", "word"), [(1.0, PASS), (0.8, PASS), (1.2, FAIL), (1.035, AMBIGUOUS)])
def test_a_time_is_compared_with_the_scatter_of_stored_runs(wall: float, word: str) -> None:
    judged = judge(THREE).judge(measured(wall))
    assert judged.word == word
    assert judged.ratios["wall"].value == pytest.approx(wall, rel=1e-3)
    if word == FAIL:
        assert "wall time 1.20 times" in judged.message


def test_a_slower_benchmark_needs_confirmation() -> None:
    slow = judge(THREE).judge(measured(1.2))
    assert slow.by_clock
    assert slow.confirmed([slow, slow]) == slow
    for word in (PASS, AMBIGUOUS):
        judged = slow.confirmed([slow, Judged(slow.id, word)])
        assert (judged.word, judged.by_clock) == (AMBIGUOUS, False)
        assert f"in one process, but {word} in another" in judged.message
    assert Judged.from_json(json.loads(json.dumps(asdict(slow)))) == slow
    assert not judge(THREE).judge(measured(1.2, operations=101)).by_clock, "a changed program is one in any process"


def test_one_stored_run_decides_nothing() -> None:
    judged = judge([stored(1.0)]).judge(measured(1.5))
    assert (judged.word, judged.message) == (AMBIGUOUS, "1 of 3 stored runs: the scatter between runs is not known yet")
    assert verdict.in_words("wall", judged.ratios["wall"]) == "wall time 1.50 times (scatter not known yet)"


def test_nothing_stored_is_no_pass() -> None:
    judged = judge([]).judge(measured(1.0))
    assert judged.word == verdict.overall([judged]) == RECORDED


@pytest.mark.parametrize(
    ("exact", "text"),
    [
        ({"operations": 101}, "the compiled program changed: operations 101, was 100"),
        ({"aliased": 0}, "aliased 0, was 4,096"),
        ({"compilations later": 3}, "compilations later 3, must be 0"),
        ({"arrays left": 6}, "arrays left 6, must be 0"),
    ],
)
def test_counts_have_no_tolerance(exact: dict[str, float], text: str) -> None:
    judged = judge(THREE).judge(measured(1.0, **exact))
    assert judged.word == FAIL
    assert text in judged.message


def test_counts_of_another_jax_are_not_compared() -> None:
    judged = judge(THREE, VERSIONS | {"jax": "0.12.0"}).judge(measured(1.0, operations=90))
    assert judged.word == PASS


def test_what_must_be_nothing_needs_no_baseline() -> None:
    assert judge([]).judge(measured(1.0, **{"compilations later": 1})).word == FAIL


@pytest.mark.parametrize(
    ("words", "over_all"),
    [
        ([PASS, PASS], PASS),
        ([PASS, RECORDED], PASS),
        ([RECORDED], RECORDED),
        ([PASS, AMBIGUOUS, FAIL], FAIL),
        ([PASS, AMBIGUOUS], AMBIGUOUS),
        ([FAIL, WRONG], WRONG),
        ([], WRONG),
    ],
)
def test_the_worst_word_is_that_of_the_run(words: list[str], over_all: str) -> None:
    results = [Judged(f"b{i}", word, message="why") for i, word in enumerate(words)]
    assert verdict.overall(results) == over_all
    assert verdict.line(results, "8 x cpu").startswith(f"{over_all}: ")


def file_of(folder: Path, name: str, devices: str, entries: list[Measured]) -> Path:
    content = {
        "machine_info": {stored_runs.KEY: {"where": devices, "versions": VERSIONS}},
        "benchmarks": [{"name": m.id, "extra_info": {stored_runs.KEY: asdict(m)}} for m in entries],
    }
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_stored_runs_are_read_oldest_first_and_others_left_alone(tmp_path: Path) -> None:
    file_of(tmp_path, "Linux/0002_b.json", "8 x cpu, small", [measured(2.0)])
    file_of(tmp_path, "Linux/0001_a.json", "8 x cpu, small", [measured(1.0)])
    (tmp_path / "Linux" / "0003_other.json").write_text(json.dumps({"machine_info": {}, "benchmarks": []}))
    assert [run.measured["step[mesh]"].relative["wall"] for run in stored_runs.load(tmp_path)] == [1.0, 2.0]


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    path = file_of(tmp_path, "0001_a.json", "8 x cpu, small", [measured(1.0)])
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"0001_a\.json: not a stored run .* remove it"):
        stored_runs.load(tmp_path)


def test_a_run_of_other_devices_is_refused_by_name() -> None:
    info = {stored_runs.KEY: {"where": "2 x NVIDIA H100, base"}}
    with pytest.raises(ValueError, match="measured on 2 x NVIDIA H100, base, must be 8 x cpu, small as in this run"):
        stored_runs.check_device(info, "8 x cpu, small", "0001")


def test_stored_runs_of_another_processor_are_not_compared(tmp_path: Path) -> None:
    info = {"cpu": {"brand_raw": "EPYC  9654"}, stored_runs.KEY: {"where": "8 x cpu, small", "machine": {"cores": 64}}}
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: EPYC 9654\n")
    other, here = stored_runs.stored_processor(info), stored_runs.processor(2, tmp_path / "cpuinfo")
    assert (other, here) == ("EPYC 9654, 64 cores", "EPYC 9654, 2 cores")
    assert stored_runs.processor(64, tmp_path / "cpuinfo") == other
    runs = [Stored({}, {}, name) for name in (other, here, "")]
    same, text = stored_runs.comparable(runs, here)
    assert same == runs[1:]
    assert text == f"1 stored run of another processor ({other}; here {here}) not compared"
    assert stored_runs.comparable(runs, "") == (runs, "")
    with pytest.raises(ValueError, match="measured on EPYC 9654, 64 cores, must be EPYC 9654, 2 cores"):
        stored_runs.check_device(info, "8 x cpu, small", "0001", here)
    stored_runs.check_device(info, "8 x cpu, small", "0001", other)


def test_each_kind_of_device_has_a_folder() -> None:
    names = {stored_runs.storage(where).name for where in ("8 x cpu, small", "4 x cpu, small", "8 x NVIDIA H100, base")}
    assert names == {"8-x-cpu-small", "4-x-cpu-small", "8-x-NVIDIA-H100-base"}


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_has_the_tokens_of_its_size(size: str) -> None:
    """The kit's cases have 16 columns, and so had every batch that was timed."""
    _, rows, tokens = SIZES[size]
    bench = Bench(jax.devices(), {"t": "sftref.conformance.adapters.template:Template"}, size, seed=0)
    batch = bench.batch(bench.case("t"), rows)
    assert batch.input_ids.shape == (rows, tokens)
    assert tokens / 3 < batch.attention_mask.sum() / rows < 2 * tokens / 3


def test_operations_of_a_program_are_counted() -> None:
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    rows, every = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in (("data",), ()))
    x = jax.device_put(jax.numpy.ones((8, 16)), rows)
    text = jax.jit(lambda x: x.sum(0), out_shardings=every).lower(x).compile().as_text()
    assert operations(text)["all-reduce"] == 1
    assert operations(text)["dot"] == 0
    square = jax.jit(lambda x: x @ x.T).lower(jax.numpy.ones((4, 4))).compile().as_text()
    assert operations(square)["all-reduce"] == 0
    assert operations(square)["operations"] >= operations(square)["dot"] == 1


def test_differences_name_what_is_missing() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3}) == ["b 3, was 2"]
    assert differences({"a": 1}, {}) == ["a unknown, was 1"]


@pytest.mark.parametrize(
    ("total", "fine"),
    [(lambda n: n * 1e-3, True), (lambda n: 1e-2, False), (lambda n: 1e-2 + n * 1e-4, False), (lambda n: n**2, False)],
    ids=["each time", "once", "mostly once", "ever more"],
)
def test_work_must_grow_with_its_number(total: Any, fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = "sftref.conformance.benchmarks.measuring.timing.rounded"
    monkeypatch.setattr(timed, lambda _, repeat: Round(total(repeat) / repeat, 0.0))
    if fine:
        check_linear(lambda: None, 8)
    else:
        with pytest.raises(WrongResultError, match="should be 2"):
            check_linear(lambda: None, 8)


def test_one_lucky_try_is_no_work_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen here: 8 products took 2.79 times as long as 4, whose best try had both cores to itself."""
    calls = 0

    def timed(_: Any, repeat: int) -> Round:
        nonlocal calls
        calls += 1
        return Round(1e-3 * (0.6 if calls == 1 else 1.0), 0.0)

    monkeypatch.setattr("sftref.conformance.benchmarks.measuring.timing.rounded", timed)
    check_linear(lambda: None, 4)


def test_a_machine_that_stalls_once_makes_no_round_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen in CI: a round of one execution of 10 us, of which looking whether it is over is a fifth."""
    check_waited(lambda: None, 1, lambda: None)  # the look takes longer than what was timed
    stalls = iter([0.01])

    def timed(_: Any, repeat: int) -> Round:
        return Round(1e-5 + next(stalls, 0.0) / repeat, 0.0)

    monkeypatch.setattr("sftref.conformance.benchmarks.measuring.timing.rounded", timed)
    assert repeats(lambda: None) > 8


def test_work_must_be_over_when_it_returns() -> None:
    left: list[float] = []

    def pending() -> None:
        while left:
            rounded(lambda: None, int(left.pop()))

    check_waited(lambda: None, 8, pending)
    with pytest.raises(WrongResultError, match="their work goes on for"):
        check_waited(lambda: left.append(20_000.0), 8, pending)


def test_a_table_and_a_page_show_the_same() -> None:
    results = [judge(THREE).judge(measured(1.2)), Judged("step[<b>]", WRONG, message="wrong by 1 < 2")]
    lines = "\n".join(table(results, 12))
    assert "✗ step[mesh]" in lines
    assert "FAIL  wall time 1.20 times" in lines
    shown = page(document(results, "8 x cpu, small", 0.05, {"environment": {"a": "</script>"}}))
    assert "<b>" not in shown.replace("<br>", "")
    assert "</script>" not in shown
    assert shown.count("<svg") == 1, "a picture where there is a ratio, and no other"
    assert "wall time 1.20 times" in shown


@pytest.mark.parametrize(("seconds", "text"), [(2.0, "2 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.5 us"), (3e-9, "3 ns")])
def test_durations_have_a_suitable_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
