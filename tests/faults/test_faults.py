"""The catalogue of seeded faults is complete, and each wrong trainer is an adapter that `verify` can run."""

import dataclasses
import importlib
from pathlib import Path

import pytest
from sftref.conformance.adapter import AdapterError, load_adapter
from sftref.conformance.core import fault
from sftref.conformance.core.fault import LAYERS, faults, seen_by
from sftref.conformance.core.kit import KIT
from sftref.conformance.core.law import laws
from sftref.conformance.faults.trainers import FAULTS
from sftref.conformance.report import explain

pytestmark = pytest.mark.jax


@pytest.mark.parametrize("name", sorted(faults()))
def test_an_entry_is_complete(name: str) -> None:
    entry = faults()[name]
    assert entry.layer in LAYERS
    assert entry.seen_by
    assert set(entry.seen_by) <= laws().keys()
    assert all(link.startswith("https://") for link in entry.links)
    assert entry.id in importlib.import_module(f"sftref.conformance.faults.{entry.module}").FAULTS


def test_an_id_that_occurs_twice_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faults").mkdir()
    twice = (KIT / "faults" / "catalogue.toml").read_text() * 2
    (tmp_path / "faults" / "catalogue.toml").write_text(twice)
    monkeypatch.setattr(fault, "KIT", tmp_path)
    with pytest.raises(ValueError, match="the id missing-all-reduce occurs twice"):
        faults.__wrapped__()


def test_a_fault_is_an_adapter() -> None:
    assert load_adapter("sftref.conformance.faults.trainers:mean_of_means").name == "numpy (mean-of-means)"
    assert load_adapter("sftref.conformance.faults.trainers:NumpyTrainer").name == "numpy (right)"
    with pytest.raises(AdapterError):
        load_adapter("sftref.conformance.faults.trainers:mean_of_modes")


def test_the_catalogue_has_every_wrong_trainer() -> None:
    assert sorted(FAULTS) == sorted(entry.id for entry in faults().values() if entry.module == "trainers")


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_trainer_is_one_of_the_protocol(name: str) -> None:
    assert load_adapter(f"sftref.conformance.faults.trainers:{name.replace('-', '_')}").name == f"numpy ({name})"


def test_explain_names_the_seeded_faults_of_a_law() -> None:
    text = "\n".join(explain.explained(laws()["training.decay"], None))
    assert "It must see these seeded faults:" in text
    assert all(f"- {entry.id}: {entry.does}" in text for entry in seen_by("training.decay"))
    assert "must see this seeded fault:" in "\n".join(explain.explained(laws()["training.evaluation"], None))
    unseeded = dataclasses.replace(laws()["training.decay"], id="training.unseeded")
    assert "seeded" not in "\n".join(explain.explained(unseeded, None)).replace("unseeded", "")
