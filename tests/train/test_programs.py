"""The trainers' compiled updates: the cost of a trainer beside the shared step."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from equality_table import SEVERAL, Case, Experiment, same_bits
from helpers import model_config, parameters
from sftref.conformance.laws.support.compilation import compiled

from sftref.config import OptimConfig
from sftref.train.step import Program
from sftref.trainers import make_trainer
from sftref.trainers.local import sum_over

pytestmark = pytest.mark.jax

# An all-reduce in an HLO text: its operands, each with its type.
ALL_REDUCE = re.compile(r" all-reduce(?:-start)?\(([^)]*)\)")


@pytest.mark.usefixtures("optimized")
def test_a_trainer_on_one_device_copies_nothing_more() -> None:
    """The donated state MUST be updated in place, in any shape that a trainer keeps it in."""
    experiment = Experiment("float32", 1)
    case = Case(1, packed=True, micro=2)
    batch = experiment.batch(next(experiment.updates()), case, "uneven")

    def program(name: str) -> Any:
        trainer = make_trainer(name, experiment.program, jax.devices()[:1])
        return trainer.compiled(trainer.place(experiment.state()), trainer.put(batch))

    programs = {name: program(name) for name in ("single", *SEVERAL)}
    copies = {name: compiled.as_text().count(" copy(") for name, compiled in programs.items()}
    assert 0 < min(copies.values()) <= max(copies.values()) == copies["single"]
    aliased = {name: compiled.memory_analysis().alias_size_in_bytes for name, compiled in programs.items()}
    assert len(set(aliased.values())) == 1


@pytest.mark.parametrize("name", ["pmap", "mesh"])
def test_one_reduction_for_several_micro_batches(name: str) -> None:
    """The sums MUST be reduced once, after the loops over micro-batches, and never inside one."""
    experiment = Experiment("float32", 1)
    batch = experiment.batch(next(experiment.updates()), Case(2, packed=True, micro=3), "uneven")
    trainer = make_trainer(name, experiment.program, jax.devices()[:2])
    text = trainer.compiled(trainer.place(experiment.state()), trainer.put(batch)).as_text()
    assert len(ALL_REDUCE.findall(text)) == 1
    bodies = {body for line in text.splitlines() for body in re.findall(r"\bbody=%?([\w.\-]+)", line)}
    assert bodies, "the rounds of Threefry are a loop, if nothing else is"
    for computation in text.split("\n\n"):
        assert not (ALL_REDUCE.search(computation) and computation.split()[0].lstrip("%") in bodies)


def test_leaves_of_a_dtype_are_one_message() -> None:
    """Between processes on CPUs each leaf would be a message of its own (gloo)."""
    tree = {"a": jnp.ones((2, 3, 4)), "b": [jnp.arange(2.0), jnp.ones((2, 5), jnp.int32)], "c": jnp.ones((2, 1, 1))}

    def lowered(in_one: bool) -> Any:
        return jax.pmap(lambda tree: sum_over(tree, "x", in_one=in_one), axis_name="x", devices=jax.devices()[:2])

    messages = {in_one: lowered(in_one).lower(tree).as_text().count("stablehlo.all_reduce") for in_one in (False, True)}
    assert messages == {False: 4, True: 2}
    for want, got in zip(*(jax.tree.leaves(lowered(in_one)(tree)) for in_one in (False, True)), strict=True):
        assert want.dtype == got.dtype
        assert (want == got).all()


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_state_compiles_nothing(clip_norm: float | None) -> None:
    """The optimizer's first state MUST be that of optax, without a program for the zeros of each shape."""
    model, optim = model_config(), OptimConfig(clip_norm=clip_norm, warmup_steps=2)
    program = Program.of(model, optim, total_steps=9, dropout="off", precision="float32")
    params = parameters(model)
    with compiled() as programs:
        state = program.state(params, seed=3)
    assert programs == []
    assert same_bits(jax.device_get(state.opt_state), jax.device_get(program.optimizer.init(params)))
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(program.optimizer.init(params))
