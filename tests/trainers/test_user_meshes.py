"""Meshes that the caller made, in the ways that JAX's documentation shows."""

import contextlib

import jax
import pytest
from equality_table import Case, Experiment
from helpers import relative_error
from test_equality import GRADIENT

from sftref.trainers import MeshTrainer

pytestmark = pytest.mark.jax

DEVICES, LAYERS = 3, 1


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment("float32", LAYERS)


@pytest.mark.parametrize("ambient", [False, True], ids=["make_mesh", "under set_mesh"])
def test_a_mesh_of_explicit_axes(ambient: bool, experiment: Experiment) -> None:
    """`jax.make_mesh` makes Explicit axes since JAX 0.9; before JAX 0.7 there is no `jax.set_mesh`."""
    if not hasattr(jax, "set_mesh"):
        pytest.skip("JAX before 0.7")
    explicit = (jax.sharding.AxisType.Explicit,) * 2
    mesh = jax.make_mesh((2, DEVICES), ("copies", "data"), explicit, devices=jax.devices()[:6])
    batch = experiment.batch(next(experiment.updates()), Case(DEVICES, packed=False, micro=1), "uneven")
    with jax.set_mesh(mesh) if ambient else contextlib.nullcontext():
        trainer = MeshTrainer(experiment.program, mesh=mesh)
        gradient = trainer.read(trainer.gradient_step(trainer.place(experiment.state()), trainer.put(batch)))
    assert relative_error(gradient, experiment.reference.gradient["uneven"]) < GRADIENT["float32"]
