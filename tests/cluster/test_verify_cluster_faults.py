"""Seeded faults of clusters: which process has one, what it changes, and what the self-test demands of a report."""

import fractions
import inspect
import pickle
from typing import Any

import numpy as np
import pytest
from sftref.conformance.adapter import StepResult
from sftref.conformance.cluster import selftest
from sftref.conformance.cluster.children.laws import Answer, digests
from sftref.conformance.cluster.children.member import Member
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults import cluster as faults
from sftref.conformance.laws.support.messages import expected
from sftref.conformance.workers.serve import packed


def test_a_fault_is_one_of_its_process_or_of_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "hang-in-the-tournament@2,messages-corrupted-above-1-MiB@0>3")
    assert [list(faults.seeded(process)) for process in range(4)] == [
        [], [], ["hang-in-the-tournament"], ["messages-corrupted-above-1-MiB"],
    ]  # fmt: skip
    monkeypatch.delenv(faults.VARIABLE)
    assert faults.seeded(2) == {}


@pytest.mark.parametrize("operation", ["psum", "all_gather", "reduce_scatter", "all_to_all", "ppermute"])
def test_corrupted_messages_are_seen_with_their_sender_above_1_mib_only(
    monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    monkeypatch.setenv(faults.VARIABLE, "messages-corrupted-above-1-MiB@4>7")
    data = np.arange(16, dtype=np.float32).reshape(2, 8)
    want = expected(operation, data, [[0, 1]])
    for number, size, wrong in ((1, 4 * faults.MIB, [4]), (1, faults.MIB, []), (0, 4 * faults.MIB, [])):
        member = Member([4, 7], number, Settings())
        got = faults.received({number: want[number].copy()}, member, operation, size)[number]
        found = member._wrong(operation, number, got, want[number], [0, 1], 1)
        assert [sender for sender, _ in found] == wrong


def test_a_wrong_sum_of_many_has_no_known_sender() -> None:
    member = Member([0, 1, 2], 0, Settings())
    want = np.ones(6, np.float32)
    assert member._wrong("psum", 0, want + 1, want, [0, 1, 2], 1) == [(-1, 1.0)]
    assert member._wrong("psum", 0, want, want, [0, 1, 2], 1) == []
    assert member._wrong("psum", 0, want[:3], want, [0, 1, 2], 1) == [(-1, 1.0)]
    assert member._wrong("ppermute", 0, want + 1, want, [0, 1, 2], 1) == [(2, 1.0)]


def test_digests_differ_where_a_bit_a_dtype_or_a_shape_does() -> None:
    leaf = np.zeros((2, 3), np.float32)
    others = [leaf + np.float32(1e-45), leaf.astype(np.float64), leaf.reshape(3, 2), -leaf]
    texts = [digests({"w": one})["w"].tobytes() for one in (leaf, *others)]
    assert len(set(texts)) == len(texts)
    assert digests({"w": leaf.copy()})["w"].tobytes() == texts[0]


def report_of(fault: Any) -> dict[str, Any]:
    """A report that names the fault as it must."""
    links = fault.get("bad_links", [])
    ends = {process for link in links for process in link} | set(fault.get("hosts", []))
    pairs = [[*link, "fail", 1.0, ""] for link in links]
    if fault["id"] == "partition-that-heals":
        ends, pairs = {0, 2}, [[0, 2, "hang", 1.0, "hang in all_gather 1 KiB; passed when repeated"]]
    hosts = [{"process": k, "phase": fault.get("phase") if k in ends else None} for k in range(4)]
    differences = [{"name": fault["difference"]}] if "difference" in fault else []
    named = {"hosts": hosts, "pairs": pairs, "bad_hosts": fault.get("hosts", []), "bad_links": links}
    return {"cluster": named | {"differences": differences}}


@pytest.mark.parametrize("fault", selftest.faults(), ids=lambda fault: fault["id"])
def test_the_self_test_demands_the_right_host_phase_and_exit_code(fault: Any) -> None:
    right = report_of(fault)
    assert selftest.missed(fault, fault["exit_code"], right) == []
    assert selftest.missed(fault, 4, right) != []
    for name, value in (("bad_hosts", [3, 0]), ("bad_links", [[1, 3]]), ("differences", [{"name": "versions.numpy"}])):
        assert selftest.missed(fault, fault["exit_code"], {"cluster": right["cluster"] | {name: value}}) != []
    hosts = [one | {"phase": "together"} for one in right["cluster"]["hosts"]]
    assert selftest.missed(fault, fault["exit_code"], {"cluster": right["cluster"] | {"hosts": hosts}}) != []


def test_each_fault_of_the_catalogue_is_seeded_by_its_name() -> None:
    text = inspect.getsource(faults)
    ids = [fault["id"] for fault in selftest.faults()]
    assert len(set(ids)) == len(ids) == 8
    assert [fault for fault in ids if f'"{fault}"' not in text] == []


def test_an_answer_of_another_process_has_data_only() -> None:
    arrays = {0: np.arange(6, dtype=np.float32)[::2], 1: np.zeros((2, 0), np.int32), 2: np.arange(6.0).reshape(2, 3).T}
    sent = [arrays, StepResult(np.float32(0.5), 0.25), ("text", None, [1, True])]
    got = Answer.of(packed(sent))
    assert all(np.array_equal(got[0][k], leaf) and got[0][k].dtype == leaf.dtype for k, leaf in arrays.items())
    assert got[1:] == sent[1:]
    with pytest.raises(pickle.UnpicklingError, match=r"has fractions\.Fraction, must have data only"):
        Answer.of(packed(fractions.Fraction(1, 2)))
