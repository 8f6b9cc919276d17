"""Meshes that the caller made, with axes of any type and number."""

import contextlib
import re
from typing import Any

import jax
import numpy as np
import pytest
from equality_table import Case, Experiment, same_bits
from helpers import relative_error
from jax.sharding import Mesh
from test_equality import GRADIENT

from sftref.trainers import MeshTrainer

pytestmark = pytest.mark.jax

DEVICES, LAYERS = 3, 1


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment("float32", LAYERS)


@pytest.mark.parametrize("ambient", [False, True], ids=["make_mesh", "under set_mesh"])
def test_a_mesh_of_explicit_axes(ambient: bool, experiment: Experiment) -> None:
    """`jax.make_mesh` makes Explicit axes since JAX 0.9; before JAX 0.7.1 there is no `jax.set_mesh`."""
    if not hasattr(jax, "set_mesh"):
        pytest.skip("JAX before 0.7.1")
    explicit = (jax.sharding.AxisType.Explicit,) * 2
    mesh = jax.make_mesh((2, DEVICES), ("copies", "data"), explicit, devices=jax.devices()[:6])
    batch = experiment.batch(next(experiment.updates()), Case(DEVICES, packed=False, micro=1), "uneven")
    with jax.set_mesh(mesh) if ambient else contextlib.nullcontext():
        trainer = MeshTrainer(experiment.program, mesh=mesh)
        gradient = trainer.read(trainer.gradient_step(trainer.place(experiment.state()), trainer.put(batch)))
    assert relative_error(gradient, experiment.reference.gradient["uneven"]) < GRADIENT["float32"]


@pytest.fixture(scope="module")
def compiled(experiment: Experiment) -> tuple[MeshTrainer, Any, Any]:
    """On a mesh of 2 x 3: the trainer, its compiled step, a batch."""
    mesh = Mesh(np.array(jax.devices()[:6]).reshape(2, 3), ("copies", "data"))
    trainer = MeshTrainer(experiment.program, mesh=mesh)
    batch = experiment.batch(next(experiment.updates()), Case(DEVICES, packed=False, micro=1), "empty")
    placed = trainer.put(batch)
    return trainer, trainer._train.lower(trainer.place(experiment.state()), placed).compile(), placed


class TestMesh:
    """A mesh of the caller's MUST work, and the compiled step MUST have one all-reduce and no other collective."""

    def test_one_all_reduce(self, compiled: Any) -> None:
        assert collectives(compiled[1].as_text()) == ["all-reduce"]

    def test_the_step_of_a_second_axis_is_the_same(self, compiled: Any, experiment: Experiment) -> None:
        trainer, step, batch = compiled
        assert trainer.shards == DEVICES
        assert len(trainer.devices) == 6
        state, metrics = step(trainer.place(experiment.state()), batch)
        replicas = trainer.replicas(state)
        assert len(replicas) == 6
        assert all(same_bits(replica, replicas[0]) for replica in replicas)
        want = experiment.reference
        assert float(trainer.read(metrics).loss) == pytest.approx(want.loss["empty"], rel=1e-6)
        gradient = jax.tree.map(lambda m: m / (1 - experiment.b1), trainer.read(state).opt_state[0].mu)
        assert relative_error(gradient, want.gradient["empty"]) < GRADIENT["float32"]


def collectives(text: str) -> list[str]:
    """The collective operations of an optimised program, once each: `-done` belongs to `-start`."""
    names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast|ragged-all-to-all"
    return re.findall(rf"\s({names})(?:-start)?\(", text)
