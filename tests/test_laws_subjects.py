"""The laws of rungs 4 and 6 to 8 hold of a right trainer and break for wrong ones: every law has a fault it catches."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from sftref.conformance.adapters.template import Template
from sftref.conformance.catalogue import laws
from sftref.conformance.check import Check, LawBroken, NotRun
from sftref.conformance.faults import faults, seen_by
from sftref.conformance.faults.subjects import NumpyTrainer

FILES = ("test_4_model", "test_6_step", "test_7_equivalence", "test_7_invariance", "test_8_training")
# These have tests of their own below, or ask nothing of a trainer in NumPy.
APART = {"equivalence.devices_used", "equivalence.collectives", "step.bfloat16", "copies.trainer_is_immune"}


def functions() -> dict[str, Callable[..., None]]:
    """Law -> the function that asks it."""
    found = {}
    for name in FILES:
        module = importlib.import_module(f"sftref.conformance.laws.{name}")
        for function in vars(module).values():
            for mark in getattr(function, "pytestmark", ()):
                found[mark.args[0]] = function
    return found


FUNCTIONS = functions()


def ask(law: str, subject: Any, folder: Path, devices: Any = tuple(range(8))) -> Check:
    """Ask one law as the plugin would, at the quick level."""
    check = Check(laws()[law], "quick", 0)
    given = {
        "check": check, "subject": subject, "against": NumpyTrainer(), "devices": list(devices), "tmp_path": folder,
        "rng": np.random.default_rng(0),
    }  # fmt: skip
    function = FUNCTIONS[law]
    function(**{name: given[name] for name in inspect.signature(function).parameters})
    check.finish()
    return check


def test_every_law_of_a_subject_has_a_function_and_a_fault() -> None:
    asked = {law.id for law in laws().values() if law.per == "subject"}
    assert set(FUNCTIONS) == asked - {"copies.trainer_is_immune"}
    assert {law for law in asked if not seen_by(law)} <= APART


@pytest.mark.parametrize("law", sorted(set(FUNCTIONS) - APART))
def test_a_right_trainer_passes(law: str, tmp_path: Path) -> None:
    check = ask(law, NumpyTrainer(), tmp_path)
    assert all(found.margin < 0.5 for found in check.comparisons)


@pytest.mark.parametrize("fault", ["dropout-by-row", "padding-counts", "weights-ignored"])
def test_a_gradient_of_another_loss_is_still_a_gradient(fault: str, tmp_path: Path) -> None:
    """Rung 4 leaves these to the rungs they belong to: the curve of the oracle's loss was held against theirs."""
    check = ask("autodiff.model", NumpyTrainer(fault), tmp_path)
    assert all(found.margin < 0.5 for found in check.comparisons)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("mean-of-means", "wrong with unequal shards, "),
        ("missing-all-reduce", "wrong with equal shards of equal weight, with unequal shards, "),
    ],
)
def test_the_layouts_that_are_wrong_tell_means_from_a_missing_sum(fault: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(
        LawBroken, match=r"of 6 layouts\): gradient, N = 8, .*leaves are out of bounds, also bert"
    ) as broken:
        ask("equivalence.layouts", NumpyTrainer(fault), tmp_path)
    assert str(broken.value).startswith(said)


@pytest.mark.parametrize(("fault", "law"), [(fault.id, law) for fault in faults().values() for law in fault.seen_by])
def test_a_fault_is_seen(fault: str, law: str, tmp_path: Path) -> None:
    with pytest.raises(LawBroken) as broken:
        ask(law, NumpyTrainer(fault), tmp_path)
    assert f"[{law}]" in str(broken.value)


def test_a_precision_that_is_ignored_is_seen(tmp_path: Path) -> None:
    exact = NumpyTrainer()
    exact.capabilities |= {"precision:bf16"}
    with pytest.raises(LawBroken, match=r"error of the bfloat16 gradient: .* should be at least"):
        ask("step.bfloat16", exact, tmp_path)


class OnDevices(NumpyTrainer):
    """Keeps a JAX array on some of the devices it is given."""

    def __init__(self, use: int) -> None:
        super().__init__()
        self.use = use
        self.held: Any = None
        self.capabilities |= {"jax", "program"}

    def start(self, case: Any, params: Any, n_devices: int) -> None:
        super().start(case, params, n_devices)
        mesh = jax.sharding.Mesh(np.array(jax.devices()[: self.use]), ("data",))
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self.held = jax.device_put(np.ones(8 * 32), place)

    def program(self, batch: Any) -> str:
        sizes = ",".join(f"f32[{leaf.size}]{{0}}" for leaf in self.now.values())
        return "\n".join(f"  %sum.{k} = ({sizes}, f32[]) all-reduce(%a), channel_id=1" for k in range(self.use // 4))


@pytest.mark.parametrize(("use", "law"), [(2, "equivalence.devices_used"), (2, "equivalence.collectives")])
def test_devices_left_out_are_seen(use: int, law: str, tmp_path: Path) -> None:
    ask(law, OnDevices(8 if law.endswith("used") else 4), tmp_path, jax.devices())
    with pytest.raises(LawBroken):
        ask(law, OnDevices(use), tmp_path, jax.devices())


class FreedFirst(OnDevices):
    """Frees what the last run held before it takes as much again: CPython gives the same address."""

    def start(self, case: Any, params: Any, n_devices: int) -> None:
        self.held = None
        self.held = types.SimpleNamespace(size=8 * 32, devices=lambda: set(jax.devices()[: self.use]))


def test_an_array_at_an_address_used_before_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A false alarm on JAX 0.12: ids were compared of arrays that were freed meanwhile."""
    subject = FreedFirst(8)
    monkeypatch.setattr(subject, "step", lambda batch: None)
    monkeypatch.setattr(jax, "live_arrays", lambda: [subject.held] if subject.held else [])
    for _ in range(3):
        ask("equivalence.devices_used", subject, tmp_path, jax.devices())


def test_a_gradient_reduced_twice_is_seen_in_the_program(tmp_path: Path) -> None:
    with pytest.raises(LawBroken, match="share of elements moved beyond the gradient"):
        ask("equivalence.collectives", OnDevices(8), tmp_path, jax.devices())


def test_what_is_not_claimed_is_not_run(tmp_path: Path) -> None:
    plain = NumpyTrainer()
    plain.capabilities = frozenset()
    for law in ("step.gradients", "training.resume", "equivalence.devices"):
        with pytest.raises(NotRun, match=r"capability .* is not claimed"):
            ask(law, plain, tmp_path)
    with pytest.raises(NotRun, match="needs 2 devices, found 1"):
        ask("equivalence.devices", NumpyTrainer(), tmp_path, [0])


@pytest.mark.parametrize("law", ["step.gradients", "step.regression", "step.update", "equivalence.devices"])
def test_the_template_holds(law: str, tmp_path: Path) -> None:
    """What newcomers copy; `equivalence.devices` on three, which do not divide the rows."""
    check = ask(law, Template(), tmp_path, jax.devices()[:3])
    assert all(found.margin < 0.5 for found in check.comparisons)
