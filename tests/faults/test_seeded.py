"""Faults seeded in the machine are seen by every law that the catalogue names, and leave no change behind."""

import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from sftref.conformance.core.fault import changes, faults
from sftref.conformance.core.law import laws
from sftref.conformance.core.settings import Settings
from sftref.conformance.faults.backend.executables import results_changed
from sftref.conformance.faults.backend.lowering import CannotSeedError, replaced
from sftref.conformance.faults.trial import PROCESSES, TRAINERS, seeded, side, trials
from sftref.conformance.judge.mutation_score import level_of
from sftref.conformance.laws.support.call import functions

pytestmark = pytest.mark.jax

BACKEND = ("environment", "collectives", "programs", "primitives", "generators", "formulas")
# Faults of processes have tests in `tests/laws/test_ranks.py`.
MACHINE = [fault for fault in faults().values() if fault.module not in (*TRAINERS, PROCESSES)]
EXPLICIT = "collectives.explicit"
# This law takes seconds, in which it compiles 39 lengths; on 3.12 it runs without a fault.
SLOW = "operators.reductions"


@pytest.mark.parametrize(
    ("name", "law"),
    [
        pytest.param(fault.id, law, marks=pytest.mark.once if law == SLOW else ())
        for fault in MACHINE
        for law in fault.seen_by
    ],
)
def test_a_seeded_fault_is_seen(name: str, law: str) -> None:
    fault = faults()[name]
    [record] = trials(fault, [(law, Settings(level=level_of("full", fault, law)))])
    assert record.status == "fail", record.message
    assert (record.subject, record.law) == (name, law)


@pytest.mark.once
@pytest.mark.parametrize("name", [change.id for change in changes().values() if laws()[EXPLICIT] in side(change)])
def test_an_equivalent_change_works_on_explicit_axes(name: str) -> None:
    """There, what a change itself computes needs the right sharding; `tox -e selftest` has the other laws."""
    [record] = trials(changes()[name], [(EXPLICIT, Settings(level="quick"))])
    assert record.status == "pass", record.message


@pytest.mark.once
@pytest.mark.parametrize("n", [2, 5])
def test_on_fewer_devices_a_fault_is_seen_or_names_its_need(n: int) -> None:
    """A run on two accelerators must not be untrusted because the eighth is missing."""
    for fault in (
        fault for fault in MACHINE if fault.module == "backend.collectives" and (fault.sample or fault.devices > 1)
    ):
        for record in trials(
            fault, [(fault.seen_by[0], Settings(level=level_of("full", fault, fault.seen_by[0]), devices=n))]
        ):
            short = record.message.startswith("needs ") and record.message.endswith(f" devices, found {n}")
            enough = fault.devices <= n and n % fault.multiple_of == 0
            assert (record.status, short) == (("fail", False) if enough else ("not_run", True)), record


@pytest.mark.parametrize("module", [f"backend.{name}" for name in BACKEND])
def test_the_catalogue_has_what_a_module_seeds(module: str) -> None:
    seeded_there = importlib.import_module(f"sftref.conformance.faults.{module}").FAULTS
    assert sorted(seeded_there) == sorted(fault.id for fault in MACHINE if fault.module == module)


def test_nothing_is_left_of_a_fault() -> None:
    """The rules, functions and settings that faults replace are the same after it."""
    mlir = importlib.import_module("jax._src.interpreters.mlir")
    pxla = importlib.import_module("jax._src.interpreters.pxla")

    def state() -> list[object]:
        places = [jax, jnp, lax, jax.random, pxla.ExecuteReplicated]
        places += [
            importlib.import_module(f"sftref.conformance.{name}")
            for name in ("laws.support.operators", "laws.machine.test_3_matmul")
        ]
        places += [importlib.import_module("jax._src.compilation_cache")]
        values: list[object] = [value for place in places for _, value in sorted(vars(place).items())]
        values += list(mlir._lowerings.items())
        values += [pair for table in mlir._platform_specific_lowerings.values() for pair in table.items()]
        return [*values, *importlib.import_module("jax.interpreters.ad").primitive_jvps.items()]

    with seeded(next(fault for fault in MACHINE if fault.id == "erf-by-tanh")):
        pass  # JAX registers more rules at the first use
    before = state()
    for fault in MACHINE:
        with seeded(fault):
            pass
    after = state()
    assert len(before) == len(after)
    assert all(one is other or one == other for one, other in zip(before, after, strict=True))


def test_a_wrong_lowering_reaches_every_caller() -> None:
    x = np.linspace(-1, 1, 8, dtype=np.float32)
    with replaced(lax.tanh_p, lambda right, x, **_: right(x) * 2):
        jax.clear_caches()
        want = 2 * np.tanh(x)
        # The derivative rule is the right one, 1 - y^2, of the wrong value y.
        np.testing.assert_allclose(jax.grad(lambda x: jnp.tanh(x).sum())(x), 1 - want**2, rtol=1e-5)
        for tanh in (jnp.tanh, jax.jit(jnp.tanh), jax.vmap(jnp.tanh), lambda x: jax.pmap(jnp.tanh)(x[:, None])[:, 0]):
            np.testing.assert_allclose(tanh(x), want, rtol=1e-6)
    jax.clear_caches()
    np.testing.assert_allclose(jnp.tanh(x), np.tanh(x), rtol=1e-6)


def test_changed_results_on_every_call_of_a_program() -> None:
    doubled = jax.jit(lambda x: 2 * x)
    doubled(1.0)
    jax.clear_caches()
    with results_changed(lambda text, results: [leaf + 1 for leaf in results] if "multiply" in text else results):
        assert [float(doubled(1.0)) for _ in range(3)] == [3.0] * 3
    jax.clear_caches()
    assert float(doubled(1.0)) == 2.0


def test_a_fault_that_cannot_be_seeded_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotSeedError, match="has no lowering rule for"), replaced(object(), lambda *_: None):
        pass
    monkeypatch.delattr(importlib.import_module("jax._src.interpreters.mlir"), "_lowerings")
    [record] = trials(faults()["fast-exp"], [("operators.softmax", Settings(level="quick"))])
    assert (record.status, "does not keep its lowering rules in" in record.message) == ("not_run", True)


def test_a_law_passes_in_a_trial_without_a_fault() -> None:
    [record] = trials(None, [("operators.tanh", Settings(level="quick"))])
    assert (record.status, record.subject) == ("pass", None)


def test_every_law_has_one_function() -> None:
    assert functions().keys() == laws().keys()
    assert all(isinstance(function, types.FunctionType) for function in functions().values())
