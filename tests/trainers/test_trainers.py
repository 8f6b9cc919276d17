"""Trainers, fast: one case on three devices in detail, and what each must refuse. All cases: `test_equality.py`."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equality_table import REFERENCE, SEED, SEVERAL, Case, Course, Experiment, pair, same_bits
from helpers import GARBAGE, difference, norm, relative_error
from jax import lax
from jax.sharding import Mesh
from test_equality import GRADIENT, check_row

from sftref.config import ConfigError
from sftref.data.batches import Batch
from sftref.train.loss import LossSums
from sftref.train.step import gradient_sums
from sftref.trainers import MeshTrainer, PmapTrainer, ShardMapTrainer, SingleTrainer, Trainer, make_trainer

pytestmark = pytest.mark.jax

NAMES = ("single", *SEVERAL)
# One layer: what the trainers share is tested elsewhere, and a program costs seconds to compile.
DEVICES, LAYERS = 3, 1


class Run(NamedTuple):
    """A trainer and what it did."""

    trainer: Trainer
    case: Case
    course: Course


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment("float32", LAYERS)


@pytest.fixture(scope="module")
def runs(experiment: Experiment) -> dict[str, Run]:
    """Two updates of packed rows in two micro-batches on three devices; and of padded rows on one, the reference."""
    runs = {"single": Run(experiment.single, REFERENCE, experiment.reference)}
    for name in SEVERAL:
        case = Case(DEVICES, packed=True, micro=2)
        trainer = make_trainer(name, experiment.program, jax.devices()[: case.devices])
        runs[name] = Run(trainer, case, experiment.course(trainer, case))
    return runs


@pytest.fixture(scope="module")
def batches(experiment: Experiment) -> dict[Any, Batch]:
    """The first update in the case of each run, by (number of devices, arrangement)."""
    update, cases = next(experiment.updates()), (REFERENCE, Case(DEVICES, packed=True, micro=2))
    return {(c.devices, a): experiment.batch(update, c, a) for c in cases for a in ("empty", "uneven")}


class TestEquality:
    """Whoever computes a step, loss, gradient and parameters MUST be those of one device with padded rows."""

    @pytest.mark.parametrize("name", SEVERAL)
    def test_packed_micro_batches(self, name: str, experiment: Experiment, runs: dict[str, Run]) -> None:
        run = runs[name]
        check_row(experiment.compare(name, run.case, run.course), "float32")
        if name == "shard_map":  # the same sums on each device and the same all-reduce as under `pmap`
            assert pair(run.case, {other: runs[other].course for other in runs}, name, "pmap").gradient == 0

    def test_the_layouts_are_what_they_claim(self, batches: dict[Any, Batch]) -> None:
        def shares(arrangement: str) -> list[int]:
            weights = batches[DEVICES, arrangement].weights
            return [int(part.sum()) for part in np.split(weights, DEVICES, axis=1)]

        empty, uneven = shares("empty"), shares("uneven")
        assert empty[-1] == 0 < min(empty[:-1])
        assert len(set(uneven)) == DEVICES
        assert min(uneven) > 0
        assert sum(empty) == sum(uneven) == batches[1, "empty"].weights.sum()
        assert (batches[DEVICES, "uneven"].input_ids == GARBAGE).any()  # padding is garbage

    def test_training_moves_the_parameters(self, experiment: Experiment, runs: dict[str, Run]) -> None:
        one, two = (runs["mesh"].course.params[step] for step in (1, 2))
        moved = [norm(difference(one, experiment.params)), norm(difference(two, one))]
        assert min(moved) > 10 * 1e-3 * 0.5  # hundreds of parameters, 1e-3 each


@pytest.fixture(scope="module")
def wrong(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """By arrangement and fault: the gradient under each wrong `reduce`, all from one compiled program."""

    def mean(sums: LossSums, gradients: Any) -> Any:
        return jax.tree.map(lambda g: g / sums.weight, gradients)

    def gradients(state: Any, batch: Batch) -> dict[str, Any]:
        sums, local = gradient_sums(experiment.program, state, batch)
        psum, pmean = (functools.partial(f, axis_name="data") for f in (lax.psum, lax.pmean))
        share = mean(sums._replace(weight=jnp.maximum(sums.weight, 1)), local)
        return {
            "right": mean(*psum((sums, local))),
            "all-reduce missing": share,
            "mean of per-device means": pmean(share),
            "sum of per-device means": psum(share),
            "sum instead of mean": psum(local),
            "mean over devices, sum of weights": mean(psum(sums), pmean(local)),
            "reduced twice": mean(psum(sums), psum(psum(local))),
            "mean over rows, padding counted": psum(jax.tree.map(lambda g: g / batch.weights.size, local)),
        }

    trainer = make_trainer("pmap", experiment.program, jax.devices()[:DEVICES])
    function = jax.pmap(gradients, axis_name="data", devices=trainer.devices)
    update, gradients = next(experiment.updates()), {}
    for arrangement in ("empty", "uneven"):
        batch = experiment.batch(update, Case(DEVICES, packed=True, micro=1), arrangement)
        gradients[arrangement] = trainer.read(function(trainer.place(experiment.state()), trainer.put(batch)))
    return gradients


class TestFaults:
    """The bound on gradients MUST be one that wrong reductions miss by far, or the comparison would prove nothing."""

    def test_the_right_one_is_within_the_bound(self, wrong: Any, experiment: Experiment) -> None:
        for arrangement, gradients in wrong.items():
            assert relative_error(gradients["right"], experiment.reference.gradient[arrangement]) < GRADIENT["float32"]

    @pytest.mark.parametrize("fault", [
        "all-reduce missing", "mean of per-device means", "sum of per-device means", "sum instead of mean",
        "mean over devices, sum of weights", "reduced twice", "mean over rows, padding counted",
    ])  # fmt: skip
    def test_a_wrong_one_misses_it_10000_times(self, fault: str, wrong: Any, experiment: Experiment) -> None:
        for arrangement, gradients in wrong.items():
            error = relative_error(gradients[fault], experiment.reference.gradient[arrangement])
            assert error > 1e4 * GRADIENT["float32"], (arrangement, error)

    def test_not_finite_is_an_error_too(self, experiment: Experiment) -> None:
        want = experiment.reference.gradient["empty"]
        got = jax.tree.map(np.copy, want)
        got["classifier"]["bias"][0] = np.nan
        assert relative_error(got, want) == np.inf


@pytest.mark.parametrize("name", NAMES)
class TestPlacement:
    """State MUST be whole and the same on every device, batches divided among all, and the caller's data its own."""

    def test_replicas_are_equal_bit_for_bit(self, name: str, experiment: Experiment, runs: Any, batches: Any) -> None:
        trainer = runs[name].trainer
        n = len(trainer.devices)
        state, metrics = trainer.train_step(trainer.place(experiment.state()), trainer.put(batches[n, "uneven"]))
        replicas = trainer.replicas((state, metrics))
        assert len(replicas) == n == (1 if name == "single" else DEVICES)
        assert all(same_bits(replica, replicas[0]) for replica in replicas)
        assert same_bits(trainer.read((state, metrics)), replicas[0])
        assert int(replicas[0][0].step) == 1
        assert float(replicas[0][1].weight) == 21
        assert float(replicas[0][1].learning_rate) == np.float32(1e-3)

    def test_every_device_is_used(self, name: str, experiment: Experiment, runs: Any, batches: Any) -> None:
        trainer = runs[name].trainer
        n = len(trainer.devices)
        state, batch = trainer.place(experiment.state()), trainer.put(batches[n, "uneven"])
        rows = batches[n, "uneven"].weights.shape[1]
        for leaf in jax.tree.leaves(batch):
            assert {shard.device for shard in leaf.addressable_shards} == set(trainer.devices)
            assert leaf.sharding.device_set == set(trainer.devices)
            assert [np.prod(s.data.shape[:3]) for s in leaf.addressable_shards] == [
                np.prod(leaf.addressable_shards[0].data.shape[:3])
            ] * n
        for index, device in enumerate(trainer.devices):  # shard i of the rows is on device i
            shard = next(s for s in batch.example_ids.addressable_shards if s.device == device)
            want = np.split(batches[n, "uneven"].example_ids, n, axis=1)[index]
            assert want.shape[1] == rows // n
            np.testing.assert_array_equal(np.asarray(shard.data).reshape(want.shape), want)
        for leaf in jax.tree.leaves(state):
            assert {shard.device for shard in leaf.addressable_shards} == set(trainer.devices)
        state, _ = trainer.train_step(state, batch)
        for leaf in jax.tree.leaves(state):
            assert {shard.device for shard in leaf.addressable_shards} == set(trainer.devices)

    def test_the_state_given_to_a_step_is_donated(self, name: str, experiment: Any, runs: Any, batches: Any) -> None:
        trainer = runs[name].trainer
        placed, batch = trainer.place(experiment.state()), trainer.put(batches[len(trainer.devices), "empty"])
        after, _ = trainer.train_step(placed, batch)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(placed.params))
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, batch)))

    def test_what_the_caller_gave_stays_its_own(self, name: str, experiment: Any, runs: Any, batches: Any) -> None:
        trainer = runs[name].trainer
        batch = trainer.put(batches[len(trainer.devices), "uneven"])
        mine = jax.tree.map(np.copy, experiment.params)
        placed = trainer.place(experiment.program.state(mine, SEED))
        for leaf in jax.tree.leaves(mine):
            leaf[...] = np.nan  # neither now nor later
        assert same_bits(trainer.read(placed).params, experiment.params)
        on_device = jax.tree.map(jnp.asarray, experiment.params)
        state = experiment.program.state(on_device, SEED)
        after, _ = trainer.train_step(trainer.place(state), batch)
        assert same_bits(trainer.read(after).params, runs[name].course.params[1])
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
        assert same_bits(on_device, experiment.params)


@pytest.mark.parametrize("name", SEVERAL)
def test_processes_send_a_message_for_each_dtype(
    name: str, experiment: Experiment, batches: dict[Any, Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each leaf of a sum would be a message of its own, there MUST be one for each dtype of loss and gradient."""

    def messages() -> int:
        trainer = make_trainer(name, experiment.program, jax.devices()[:DEVICES])
        state, batch = trainer.place(experiment.state()), trainer.put(batches[DEVICES, "uneven"])
        return trainer.step_text(state, batch).count("stablehlo.all_reduce")

    apart = messages()
    monkeypatch.setattr(f"sftref.trainers.{name}.sends_leaves", lambda _: True)
    assert messages() == 1
    assert apart > 20


def test_gradient_step_is_what_the_optimizer_sees(experiment: Experiment) -> None:
    """The gradient read from Adam's first moment, as in the tables, MUST be that of `gradient_step`."""
    case = Case(DEVICES, packed=True, micro=1)
    trainer = make_trainer("mesh", experiment.program, jax.devices()[:DEVICES])
    batch = experiment.batch(next(experiment.updates()), case, "uneven")
    gradient = trainer.gradient_step(trainer.place(experiment.state()), trainer.put(batch))
    replicas = trainer.replicas(gradient)
    assert all(same_bits(replica, replicas[0]) for replica in replicas)
    assert relative_error(replicas[0], experiment.reference.gradient["uneven"]) < GRADIENT["float32"]


class TestRefusals:
    """What cannot be computed rightly MUST be refused, with both values in the message."""

    @pytest.mark.parametrize("name", SEVERAL)
    def test_rows_that_cannot_be_divided(self, name: str, experiment: Experiment, batches: dict[Any, Batch]) -> None:
        trainer = make_trainer(name, experiment.program, jax.devices()[:DEVICES])
        short = jax.tree.map(lambda a: a[:, : DEVICES + 1], batches[DEVICES, "uneven"])
        with pytest.raises(ValueError, match=r"rows = 4, must be a multiple of the 3 devices"):
            trainer.put(short)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_batch_without_examples(self, name: str, experiment: Experiment, batches: dict[Any, Batch]) -> None:
        n = 1 if name == "single" else DEVICES
        batch = batches[n, "uneven"]
        with pytest.raises(ValueError, match="no example of positive weight"):
            make_trainer(name, experiment.program, jax.devices()[:n]).put(batch._replace(weights=0 * batch.weights))

    @pytest.mark.parametrize("name", NAMES)
    def test_no_devices(self, name: str, experiment: Experiment) -> None:
        with pytest.raises(ValueError, match=r"devices = \[\], must have at least one device"):
            make_trainer(name, experiment.program, [])

    def test_single_with_two(self, experiment: Experiment) -> None:
        with pytest.raises(ConfigError, match="--devices = 2, must be 1 with --trainer single"):
            make_trainer("single", experiment.program, jax.devices()[:2])

    def test_a_mesh_without_the_axis(self, experiment: Experiment) -> None:
        mesh = Mesh(np.array(jax.devices()[:2]), ("batch",))
        with pytest.raises(ConfigError, match=r"mesh axes = \('batch',\), must include 'data'"):
            MeshTrainer(experiment.program, mesh=mesh)

    def test_a_name_that_is_none(self, experiment: Experiment) -> None:
        with pytest.raises(ConfigError, match="--trainer = 'fsdp', must be one of single, pmap, mesh, shard_map"):
            make_trainer("fsdp", experiment.program, jax.devices()[:1])

    def test_names(self, experiment: Experiment) -> None:
        kinds = {"single": SingleTrainer, "pmap": PmapTrainer, "mesh": MeshTrainer, "shard_map": ShardMapTrainer}
        for name in NAMES:
            trainer = make_trainer(name, experiment.program, jax.devices()[:1])
            assert type(trainer) is kinds[name]
            assert trainer.name == name

    def test_a_jax_without_shard_map(self, experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(jax, "shard_map", raising=False)
        with pytest.raises(ConfigError, match=r"--trainer shard_map with JAX .*: needs JAX 0.6.1 or newer"):
            make_trainer("shard_map", experiment.program, jax.devices()[:1])
