"""Tests of `growth.py`: the line, the pictures, a machine whose speed changes during the run, and a whole run."""

import json
import re
from pathlib import Path

import growth
import numpy as np
import pytest
from growth import Line, Point, Sample, gathered, main, section
from sftref.conformance.oracle.draws import batch_of

pytestmark = pytest.mark.once


def test_the_line_is_fitted_to_the_first_points_and_gives_the_distance_of_the_last() -> None:
    line = Line.of([1, 2, 4, 8], [5.0, 7.0, 11.0, 38.0])
    assert line.constant == pytest.approx(3)
    assert line.slope == pytest.approx(2)
    assert line.beyond == pytest.approx((0, 0, 0, 1))


def test_memory_shared_among_devices_is_linear_in_their_inverse() -> None:
    line = Line.of([1, 2, 4, 8], [10.0, 6.0, 4.0, 3.3], power=-1)
    assert (line.constant, line.slope) == pytest.approx((2, 8))
    assert line.at(8) == pytest.approx(3)
    assert line.beyond == pytest.approx((0, 0, 0, 0.1))
    shared = [Point(n, 0.001, 2.0**20 * (2 + 8 / n)) for n in (1, 2, 4, 8)]
    assert "2.00 MiB + 8 MiB / devices; at 8: +0% from the line" in section("devices", shared).html()
    assert section("devices", shared).markdown().endswith("| 3.0 | +0% |")


@pytest.mark.parametrize("axis", list(growth.AXES))
def test_an_axis_varies_one_quantity(axis: str) -> None:
    sizes = []
    for value in growth.AXES[axis]:
        case, rows, n = growth.sized(axis, value)
        batch = batch_of(case, np.random.default_rng(0), rows=rows, longest=case.max_position_embeddings)
        sizes.append((*batch.input_ids.shape, case.hidden_size, case.num_hidden_layers, n))
    place = {"batch": 0, "length": 1, "width": 2, "layers": 3, "devices": 4}[axis]
    assert [size[place] for size in sizes] == list(growth.AXES[axis])
    others = {size[:place] + size[place + 1 :] for size in sizes}
    assert len(others) == 1


def test_a_machine_that_slows_down_during_the_run_bends_no_line() -> None:
    samples = [Sample("layers", n, relative=10 + n, kernel=0.001 * (1 + n), memory=None) for n in (1, 2, 3, 4, 8)]
    (points,) = gathered(samples).values()
    line = Line.of([p.value for p in points], [p.seconds for p in points])
    assert line.beyond == pytest.approx([0] * 5)
    assert points[0].seconds == pytest.approx(11 * 0.004)


POINTS = [Point(1, 0.001, 2.0**20), Point(2, 0.002, 2.0**21), Point(3, 0.003, 3 * 2.0**20), Point(6, 0.009, 2.0**23)]


def test_time_and_memory_have_a_picture_and_columns_each() -> None:
    shown = section("layers", POINTS)
    assert shown.html().count("<svg") == 2
    assert shown.markdown().splitlines() == [
        "## layers",
        "",
        "| layers | ms a step | from the line | MiB beside its arguments | from the line |",
        "| --- | --- | --- | --- | --- |",
        "| 1 | 1.00 | +0% | 1.0 | +0% |",
        "| 2 | 2.00 | +0% | 2.0 | +0% |",
        "| 3 | 3.00 | +0% | 3.0 | +0% |",
        "| 6 | 9.00 | +50% | 8.0 | +33% |",
    ]
    unknown = [Point(p.value, p.seconds, None) for p in POINTS]
    assert section("layers", unknown).html().count("<svg") == 1
    assert "MiB" not in section("layers", unknown).markdown()
    for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', shown.html()):
        assert 0 <= float(x) <= growth.WIDTH
        assert 0 <= float(y) <= growth.HEIGHT


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(growth, "AXES", {"layers": (1, 2, 3), "devices": (1, 2, 3)})
    monkeypatch.setattr(growth, "ROUNDS", 2)
    template = ["--adapter", "sftref.conformance.adapters.template:Template"]
    assert main([*template, "--axis", "layers", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("## layers\n\n| layers | ms a step | from the line |")
    assert err.count(" ms\n") == 3
    points = json.loads((tmp_path / "growth.json").read_text())
    assert [point["value"] for point in points["layers"]] == [1, 2, 3]
    assert all(point["seconds"] > 0 for point in points["layers"])
    assert "<svg" in (tmp_path / "growth.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapter", "nothing"], "nothing: must be MODULE:FACTORY"),
        (["--adapter", "sftref.conformance.adapters.sftref:single", "--axis", "devices"], "a line needs 3"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
