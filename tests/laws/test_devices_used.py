"""`equivalence.devices_used` counts the run's own arrays, and only those that are there when a run has them."""

import types
from typing import Any

import jax
import pytest
from kit import run_law
from sftref.conformance.adapter import HostBatch, StepResult
from sftref.conformance.core.check import LawBroken
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.trainers.numpy_trainer import OnDevices

pytestmark = pytest.mark.jax


def run(subject: Any) -> None:
    run_law("equivalence.devices_used", Settings(level="quick", devices=8), subject=subject)


class FreedFirst(OnDevices):
    """Frees the last run's array before it makes one of the same size, which CPython puts at the same address."""

    def start(self, case: Any, params: Any, n_devices: int) -> None:
        self.held = None
        self.held = types.SimpleNamespace(size=8 * 32, devices=lambda: set(jax.devices()[:n_devices]))


def test_an_array_at_an_address_used_before_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """On JAX 0.12 a right trainer failed: the law compared ids of arrays that had been freed."""
    subject = FreedFirst()
    monkeypatch.setattr(subject, "step", lambda batch: None)
    monkeypatch.setattr(jax, "live_arrays", lambda: [subject.held] if hasattr(subject, "held") else [])
    for _ in range(3):
        run(subject)


class Placed(OnDevices):
    """Puts the run's array on its devices in the first update, on `held_by` at most."""

    held_by = 8

    def start(self, case: Any, params: Any, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.many, self.held = min(n_devices, self.held_by), None

    def step(self, batch: HostBatch) -> StepResult:
        self.held = types.SimpleNamespace(size=8 * 32, devices=lambda: set(jax.devices()[: self.many]))
        return StepResult(0.0, 0.0)


def test_arrays_may_be_placed_by_the_first_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """A false alarm on a trainer whose `start` keeps NumPy arrays."""
    subject = Placed()
    monkeypatch.setattr(jax, "live_arrays", lambda: [held] if (held := getattr(subject, "held", None)) else [])
    run(subject)
    subject.held_by = 2
    with pytest.raises(LawBroken, match=r"the run's arrays: \[0, 1\], should be \[0, 1, 2, 3, 4,"):
        run(subject)
