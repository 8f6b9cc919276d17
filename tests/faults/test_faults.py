"""The catalogue of planted faults: whole, and each entry a trainer that `verify` can be given."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest
from sftref.conformance.adapter import AdapterError, load_adapter
from sftref.conformance.core.fault import LAYERS, faults, seen_by
from sftref.conformance.core.law import laws
from sftref.conformance.faults.trainers import planted, trainer
from sftref.conformance.report import explain

pytestmark = pytest.mark.jax


@pytest.mark.parametrize("name", sorted(faults()))
def test_an_entry_is_whole(name: str) -> None:
    fault = faults()[name]
    assert fault.layer in LAYERS
    assert fault.seen_by
    assert set(fault.seen_by) <= laws().keys()
    assert all(link.startswith("https://") for link in fault.links)
    assert fault.id in importlib.import_module(f"sftref.conformance.faults.{fault.planted}").planted()


def test_ids_do_not_stand_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(importlib.import_module("sftref.conformance.faults").__file__ or "")
    (tmp_path / "catalogue.toml").write_text(source.with_name("catalogue.toml").read_text() * 2)
    monkeypatch.setattr("sftref.conformance.faults.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ValueError, match="the id missing-all-reduce stands twice"):
        faults.__wrapped__()


def test_a_fault_is_an_adapter() -> None:
    assert load_adapter("sftref.conformance.faults.trainers:mean_of_means").name == "numpy (mean-of-means)"
    assert load_adapter("sftref.conformance.faults.trainers:NumpyTrainer").name == "numpy (right)"
    with pytest.raises(AdapterError):
        load_adapter("sftref.conformance.faults.trainers:mean_of_modes")
    with pytest.raises(ValueError, match=r"fault = mean-of-modes, must be one of .*, missing-all-reduce, "):
        trainer("mean-of-modes")


def test_the_catalogue_has_every_wrong_trainer() -> None:
    assert sorted(planted()) == sorted(fault.id for fault in faults().values() if fault.planted == "subjects")


@pytest.mark.parametrize("name", planted())
def test_a_wrong_trainer_is_one_of_the_protocol(name: str) -> None:
    assert load_adapter(f"sftref.conformance.faults.trainers:{name.replace('-', '_')}").name == f"numpy ({name})"


def test_explain_names_the_planted_faults_of_a_law() -> None:
    said = "\n".join(explain.explained(laws()["training.decay"], None))
    assert "It must see these planted faults:" in said
    assert all(f"- {fault.id}: {fault.does}" in said for fault in seen_by("training.decay"))
    assert "must see this planted fault:" in "\n".join(explain.explained(laws()["training.evaluation"], None))
    unplanted = dataclasses.replace(laws()["training.decay"], id="training.unplanted")
    assert "planted" not in "\n".join(explain.explained(unplanted, None)).replace("unplanted", "")
