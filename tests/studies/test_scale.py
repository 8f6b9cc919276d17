"""Tests of `scale/model.py`, the model of an update's time: edge cases, numbers of parameters, published figures."""

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "scale"))
from model import BASE, Bert, Machine
from project import DEVICES, checked, fitted, largest_that_pays, machines

pytestmark = pytest.mark.once


def test_bert_base_has_the_parameters_that_it_is_known_for() -> None:
    """109,482,240 in the encoder with its pooler (Hugging Face's bert-base-uncased), and a classifier of 2 classes."""
    assert BASE.parameters == 109_482_240 + 2 * 768 + 2
    assert BASE.leaves == 199 + 2, "of that checkpoint, and a classifier"


def test_operations_are_those_of_the_products_written_out() -> None:
    tiny, tokens, length = Bert(1, 2, 3, 5), 8, 4
    products = 4 * (2 * 2) + 2 * (2 * 3) + 2 * (length * 2)
    assert tiny.flops(tokens, length) == 3 * 2 * products * tokens


@pytest.mark.parametrize("machine", machines(), ids=lambda m: m.name)
def test_an_all_reduce_costs_what_it_must(machine: Machine) -> None:
    assert machine.all_reduce(1e6, 1) == 0
    times = [machine.all_reduce(4e8, n) for n in DEVICES]
    assert times == sorted(times)
    free = dataclasses.replace(machine, inner_latency=0.0, outer_latency=0.0, start=0.0)
    assert free.all_reduce(8e8, 2) == pytest.approx(8e8 / free.inner), "two devices send half twice"
    far = free.all_reduce(8e8, free.group * 2**20)
    near = 2 * (free.group - 1) / free.group * 8e8 / free.inner
    assert far == pytest.approx(near + 2 * 8e8 / free.group / free.outer, rel=1e-5), (
        "a ring moves twice the part at most"
    )


@pytest.mark.parametrize("machine", machines(), ids=lambda m: m.name)
def test_the_batch_that_is_said_to_do_does(machine: Machine) -> None:
    for n in (8, 512):
        tokens = machine.tokens_for(0.8, BASE, 128, n)
        assert machine.efficiency(BASE, tokens, 128, n) >= 0.8
        if tokens > 128:
            assert machine.efficiency(BASE, tokens - 128, 128, n) < 0.8
    most = [largest_that_pays(machine, batch, overlap=False) for batch in (4096, 65536)]
    assert most == sorted(most)
    assert any(source.startswith("https://") for source in machine.sources)


def test_a_fit_finds_the_line_and_the_check_adds_it_up() -> None:
    a, b = fitted([(size, 1e-4 + 2e-9 * size) for size in (1 << 12, 1 << 16, 1 << 22)])
    assert (a, b) == (pytest.approx(1e-4), pytest.approx(2e-9))
    points = [[1 << 12, 1e-4], [1 << 22, 1e-4]]
    layouts = [
        {"processes": 1, "devices": 1, "update": 0.5, "reduce": points},
        {"processes": 2, "devices": 2, "update": 2.5, "reduce": points},
    ]
    alone, four = checked({"layouts": layouts})
    assert (alone["model"], alone["sent"]) == (0.5, 0.0)
    assert four["model"] == pytest.approx(2.0 + 73 * 1e-4, rel=1e-3), "a message for each leaf"
