"""Rung 10, the costs of a trainer, and the seeded slow-downs: each is right, and costs what it claims."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from sftref.conformance.adapter import AdapterError, Arrays, Case, HostBatch, StepResult, load_adapter
from sftref.conformance.adapters import template
from sftref.conformance.adapters.costs import costs_of
from sftref.conformance.adapters.template import Template
from sftref.conformance.core.fault import Fault, faults
from sftref.conformance.core.law import LADDER, LEVELS, RUNGS, expected, laws, split_id
from sftref.conformance.core.result import Result
from sftref.conformance.core.settings import DEFAULT_ADAPTERS, SFTREF, Settings
from sftref.conformance.faults.trainers import performance
from sftref.conformance.faults.trial import PERFORMANCE, as_run, run_law, seeded, side, trials
from sftref.conformance.judge.diagnosis import diagnose
from sftref.conformance.judge.mutation_score import level_of
from sftref.conformance.laws.support import compilation
from sftref.conformance.laws.trainer.test_7_invariance import collective_elements
from sftref.conformance.laws.trainer.test_10_performance import small
from sftref.conformance.oracle.cases import start_params
from sftref.conformance.oracle.draws import batch_of
from sftref.conformance.report import explain

pytestmark = pytest.mark.once
LAWS = [law.id for law in laws().values() if law.rung_name == "performance"]
SEEDED = [fault for fault in faults().values() if fault.module == PERFORMANCE]
TEMPLATE = "sftref.conformance.adapters.template:Template"
KEYS = {"flops", "bytes", "arguments", "outputs", "aliased", "temporary"}


def result_of(law: str, subject: Any) -> Result:
    return run_law(laws()[law], {"subject": subject}, Settings(level="standard"))


def started(subject: Any, n: int = 8) -> tuple[Any, HostBatch]:
    rng = np.random.default_rng(0)
    case = small(subject, rng)
    subject.start(case, start_params(case, rng), n)
    return subject, batch_of(case, rng)


# The rung.
def test_a_run_has_the_rungs_of_its_level() -> None:
    assert (RUNGS[9:], len(LADDER)) == (("processes", "performance"), len(RUNGS))
    for level in LEVELS:
        rungs = {split_id(check)[0].rung for check in expected(level, ["mesh"])}
        assert rungs == {*range(9), *{"quick": [], "standard": [9], "full": [9, 10]}[level]}
    with pytest.raises(ValueError, match="explain 11: no such law, nor a rung from 0 to 10 with laws"):
        explain.find("11")


@pytest.mark.parametrize("name", [TEMPLATE, f"{SFTREF}:mesh"])
def test_a_right_trainer_passes(name: str) -> None:
    subject = load_adapter(name)
    for law in LAWS:
        record = result_of(law, subject)
        assert record.status == "pass", record.message


@pytest.mark.parametrize(("name", "law"), [(fault.id, law) for fault in SEEDED for law in fault.seen_by])
def test_a_fault_is_seen_and_attributed_to_its_layer(name: str, law: str) -> None:
    fault, messages = faults()[name], {
        "recompiles": "compiled by the second update and evaluation: ['jit(<lambda>)'], should be []",
        "leaks": "6 updates, 6 more uint32[16], 6 more float32[16], ",
        "losses-kept": "unequal weights, ragged batches, N = 8: ['1 float32[]'], should be []",
        "extra-all-gather": "share of elements moved beyond the gradient: ",
    }  # fmt: skip
    assert laws()[law] in side(fault)
    [record] = trials(fault, [(law, Settings(level=level_of("full", fault, law)))])
    assert record.status == "fail"
    assert messages[name] in record.message
    diagnosis = diagnose(as_run(fault, {law: record}, Settings()))
    assert diagnosis is not None
    assert diagnosis["layer"] == fault.layer == "performance"


class SeedInTheProgram(Template):
    """A program for each seed, as of a step that closes over the seed."""

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        self.run = template.compiled(case, n_devices)


class OtherAtTheStart(Template):
    """The first parameters are sharded where possible, those after an update are not.

    The template has been compiled for the second kind before, which must not hide the compilation.
    """

    def start(self, case: Case, params: Arrays, n_devices: int) -> None:
        super().start(case, params, n_devices)
        parts = NamedSharding(self.run.everywhere.mesh, PartitionSpec("data"))
        self.now = {k: jax.device_put(p, parts) if len(p) % n_devices == 0 else p for k, p in self.now.items()}


class LastBatchCut(Template):
    """Rows of weight 0 are dropped, as by a loader whose last batch has a shape of its own."""

    def _put(self, batch: HostBatch) -> HostBatch:
        return super()._put(HostBatch(*(leaf[batch.weights > 0] for leaf in batch)))


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")  # those of the first update
@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (SeedInTheProgram, "compiled by a run of another seed: ['jit(step)', "),
        (OtherAtTheStart, "compiled by the second update and evaluation: ['jit(step)'"),
        (LastBatchCut, "compiled for a last batch that is not full: ['jit(step)', "),
    ],
)
def test_programs_compiled_again_are_named(subject: type[Template], message: str) -> None:
    record = result_of("performance.compilations", subject())
    assert (record.status, message in record.message) == ("fail", True), record.message


def test_losses_that_are_kept_are_named() -> None:
    kept: list[Any] = []

    class KeepsLosses(Template):
        def step(self, batch: HostBatch) -> StepResult:
            result = super().step(batch)
            kept.append(jnp.float32(result.loss))
            return result

    record = result_of("performance.memory", KeepsLosses())
    assert "6 updates, 3 more float32[]: " in record.message


def test_without_events_of_jax_the_laws_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "STAGES", {"/jax/renamed": "compile"})
    monkeypatch.setattr(jax, "live_arrays", lambda: [])
    for law in LAWS:
        record = result_of(law, Template())
        assert (record.status, "does not report" in record.message) == ("error", True)


def test_explain_names_the_faults() -> None:
    for fault in SEEDED:
        for law in fault.seen_by:
            assert f"- {fault.id}: " in "\n".join(explain.explained(laws()[law], None))


# The costs of a trainer.
@pytest.mark.parametrize("name", [TEMPLATE, *DEFAULT_ADAPTERS])
def test_costs_are_those_of_the_program_that_runs(name: str) -> None:
    subject, batch = started(load_adapter(name), 1 if name.endswith("single") else 8)
    with compilation.compiled() as first:
        costs = subject.costs(batch)
    with compilation.compiled() as again:
        subject.program(batch)
        subject.step(batch)
        assert subject.costs(batch) == costs
    assert costs.keys() == KEYS
    assert all(value > 0 for value in costs.values())
    assert costs["aliased"] <= costs["arguments"]
    parameters = sum(leaf.size for leaf in subject.params().values())
    assert costs["aliased"] >= 3 * 4 * parameters, "parameters and both moments are donated"
    assert len([name for name in first if "step" in name or "_fun" in name]) <= 1
    assert not [name for name in again if "step" in name or "_fun" in name]


def test_costs_that_a_platform_does_not_report_are_left_out() -> None:
    class Silent:
        def cost_analysis(self) -> Any:
            raise NotImplementedError

        memory_analysis = cost_analysis

    class Older(Silent):
        def cost_analysis(self) -> Any:
            return [{"flops": 3, "utilization0{}": 1.0}]

        def memory_analysis(self) -> None:
            return None

    assert costs_of(Silent()) == {}
    assert costs_of(Older()) == {"flops": 3.0}


def test_the_template_donates_only_its_own_arrays() -> None:
    rng = np.random.default_rng(0)
    subject = Template()
    case = small(subject, rng)
    # Arrays that a CPU device takes without a copy.
    params = {name: np.asarray(jnp.asarray(leaf, jnp.float32)) for name, leaf in start_params(case, rng).items()}
    want = {name: np.array(leaf) for name, leaf in params.items()}
    subject.start(case, params, 1)
    first = subject.params()
    for _ in range(3):
        subject.step(batch_of(case, rng))
    for name, leaf in want.items():
        np.testing.assert_array_equal(params[name], leaf)
        np.testing.assert_array_equal(first[name], leaf)


# The seeded slow-downs.
def test_the_catalogue_has_the_faults_that_a_law_sees() -> None:
    assert sorted(performance.FAULTS) == sorted([*performance.TIMED, *(fault.id for fault in SEEDED)])
    assert load_adapter("sftref.conformance.faults.trainers.performance:slower_10").name == "template (slower-10)"
    with pytest.raises(AdapterError, match="slower_11 is not a seeded fault"):
        load_adapter("sftref.conformance.faults.trainers.performance:slower_11")


def test_a_lost_donation_and_an_all_gather_are_in_the_program() -> None:
    right, batch = started(Template())
    undonated, _ = started(performance.FAULTS["lost-donation"]())
    assert undonated.costs(batch)["aliased"] == 0 < right.costs(batch)["aliased"]
    gathered, _ = started(performance.FAULTS["extra-all-gather"]())
    assert "all-gather" not in collective_elements(right.program(batch))
    parameters = sum(leaf.size for leaf in right.params().values())
    assert collective_elements(gathered.program(batch))["all-gather"] >= parameters


@pytest.mark.parametrize("name", ["lost-donation", *(fault.id for fault in SEEDED)])
def test_a_costly_trainer_is_right(name: str) -> None:
    right, batch = started(Template())
    costly, _ = started(performance.FAULTS[name]())
    for _ in range(2):
        want, got = right.step(batch), costly.step(batch)
        assert got.learning_rate == want.learning_rate
        assert got.loss == pytest.approx(want.loss, rel=1e-6)
    for leaf, other in zip(costly.params().values(), right.params().values(), strict=True):
        np.testing.assert_allclose(leaf, other, atol=1e-5)


class Clock:
    """A clock that advances when code sleeps, and by 1 us when it is read."""

    now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("percent", [5, 10, 20])
def test_a_slower_trainer_is_slower_by_its_share(percent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, real = Clock(), iter([2.0, 0.02, 0.02, *[0.02] * 4, 0.5, *[0.04] * 9])

    def step(self: Any, batch: HostBatch) -> StepResult:
        self.count += 1
        clock.now += next(real)
        return StepResult(0.0, 0.0)

    monkeypatch.setattr(performance, "time", clock)
    monkeypatch.setattr(Template, "step", step)
    subject, batch = started(load_adapter(f"sftref.conformance.faults.trainers.performance:slower_{percent}"), 1)
    took = []
    for _ in range(17):
        began = clock.now
        subject.step(batch)
        took.append(clock.now - began)
    assert took[:3] == pytest.approx([2.0, 0.02, 0.02], rel=1e-3), "compiling is not step time"
    assert took[3:7] == pytest.approx([0.02 * (1 + percent / 100)] * 4, rel=1e-3)
    assert took[7] == pytest.approx(0.5 + 0.02 * percent / 100, rel=1e-3), "one outlier does not change the median"
    assert took[-1] == pytest.approx(0.04 * (1 + percent / 100), rel=1e-3)


def test_a_serial_scatter_add_is_right_and_serial() -> None:
    rng = np.random.default_rng(0)
    table, ct = np.zeros((7, 5), np.float32), rng.standard_normal((4, 6, 5)).astype(np.float32)

    def gradient(mode: str, ids: Any) -> Any:
        return jax.grad(lambda table: (table.at[ids].get(mode=mode) * ct).sum())(jnp.asarray(table))

    few, spread = rng.choice([2, 5], (4, 6)), rng.integers(0, 7, (4, 6))
    beyond = np.where(few == 2, 9, 5)
    cases = [(mode, ids) for mode in ("clip", "fill", "promise_in_bounds") for ids in (few, spread)]
    cases += [("clip", beyond), ("fill", beyond)]
    want = [np.asarray(gradient(*case)) for case in cases]
    whole = jax.jit(gradient, static_argnums=0)
    assert "stablehlo.while" not in whole.lower("clip", few).as_text()
    with seeded(Fault(id="serial-scatter-add", does="", module=PERFORMANCE)):
        assert "stablehlo.while" in whole.lower("clip", few).as_text()
        got = [np.asarray(gradient(*case)) for case in cases]
        columns = jax.grad(lambda table: (table[:, few[0] % 5] * 2).sum())(jnp.asarray(table))
    assert "stablehlo.while" not in whole.lower("clip", few).as_text()
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_allclose(columns.sum(), 2 * 7 * 6, rtol=1e-6)


def test_faults_of_performance_run_only_laws_that_can_see_them() -> None:
    for fault in SEEDED:
        assert {law.id for law in side(fault)} == {*LAWS, *fault.seen_by}
    assert set(LAWS) <= {law.id for law in side(faults()["mean-of-means"])}
