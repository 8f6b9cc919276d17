"""How cost grows: the line, the pictures, the machine that drifts meanwhile, and a run as a person makes it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from sftref.conformance.benchmarks import growth
from sftref.conformance.benchmarks.growth import Line, Point, Sample, drawn, gathered, main, page, table
from sftref.conformance.oracle.draws import batch_of

pytestmark = pytest.mark.once


def test_the_line_is_that_of_the_first_points_and_says_how_far_the_last_lies_from_it() -> None:
    line = Line.of([1, 2, 4, 8], [5.0, 7.0, 11.0, 38.0])
    assert line.constant == pytest.approx(3)
    assert line.slope == pytest.approx(2)
    assert line.beyond == pytest.approx((0, 0, 0, 1))


def test_what_is_shared_among_devices_is_a_line_over_their_inverse() -> None:
    line = Line.of([1, 2, 4, 8], [10.0, 6.0, 4.0, 3.3], power=-1)
    assert (line.constant, line.slope) == pytest.approx((2, 8))
    assert line.at(8) == pytest.approx(3)
    assert line.beyond == pytest.approx((0, 0, 0, 0.1))
    shared = [Point(n, 0.001, 2.0**20 * (2 + 8 / n)) for n in (1, 2, 4, 8)]
    assert "2.00 MiB + 8 MiB / devices; at 8: +0% from the line" in drawn("devices", shared)
    assert list(table("devices", shared))[-1].endswith("| 3.0 | +0% |")


@pytest.mark.parametrize("axis", list(growth.AXES))
def test_an_axis_varies_what_it_says(axis: str) -> None:
    sizes = []
    for value in growth.AXES[axis]:
        case, rows, n = growth.sized(axis, value)
        batch = batch_of(case, np.random.default_rng(0), rows=rows, longest=case.max_position_embeddings)
        sizes.append((*batch.input_ids.shape, case.hidden_size, case.num_hidden_layers, n))
    place = {"batch": 0, "length": 1, "width": 2, "layers": 3, "devices": 4}[axis]
    assert [size[place] for size in sizes] == list(growth.AXES[axis])
    others = {size[:place] + size[place + 1 :] for size in sizes}
    assert len(others) == 1


def test_a_machine_that_slows_down_meanwhile_bends_no_line() -> None:
    samples = [Sample("layers", n, relative=10 + n, kernel=0.001 * (1 + n), memory=None) for n in (1, 2, 3, 4, 8)]
    (points,) = gathered(samples).values()
    line = Line.of([p.value for p in points], [p.seconds for p in points])
    assert line.beyond == pytest.approx([0] * 5)
    assert points[0].seconds == pytest.approx(11 * 0.004)


POINTS = [Point(1, 0.001, 2.0**20), Point(2, 0.002, 2.0**21), Point(3, 0.003, 3 * 2.0**20), Point(6, 0.009, 2.0**23)]


def test_time_and_memory_have_a_picture_and_columns_each() -> None:
    assert drawn("layers", POINTS).count("<svg") == 2
    assert list(table("layers", POINTS)) == [
        "| layers | ms a step | from the line | MiB beside its arguments | from the line |",
        "| --- | --- | --- | --- | --- |",
        "| 1 | 1.00 | +0% | 1.0 | +0% |",
        "| 2 | 2.00 | +0% | 2.0 | +0% |",
        "| 3 | 3.00 | +0% | 3.0 | +0% |",
        "| 6 | 9.00 | +50% | 8.0 | +33% |",
    ]
    unknown = [Point(p.value, p.seconds, None) for p in POINTS]
    assert drawn("layers", unknown).count("<svg") == 1
    assert "MiB" not in "\n".join(table("layers", unknown))
    text = page({"layers": POINTS}, "a <title>")
    assert "a &lt;title&gt;" in text
    for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', text):
        assert 0 <= float(x) <= growth.WIDTH
        assert 0 <= float(y) <= growth.HEIGHT


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(growth, "AXES", {"layers": (1, 2, 3), "devices": (1, 2, 3)})
    monkeypatch.setattr(growth, "ROUNDS", 2)
    template = ["--adapter", "sftref.conformance.adapters.template:Template"]
    assert main([*template, "--axis", "layers", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("| layers | ms a step | from the line |")
    assert err.count(" ms\n") == 3
    found = json.loads((tmp_path / "growth.json").read_text())
    assert [point["value"] for point in found["layers"]] == [1, 2, 3]
    assert all(point["seconds"] > 0 for point in found["layers"])
    assert "<svg" in (tmp_path / "growth.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--adapter", "nothing"], "nothing: must be MODULE:FACTORY"),
        (["--adapter", "sftref.conformance.adapters.sftref:single", "--axis", "devices"], "a line needs 3"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
