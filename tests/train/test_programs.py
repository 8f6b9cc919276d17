"""The trainers' compiled updates: the cost of a trainer beside the shared step."""

from typing import Any

import jax
import pytest
from equality_table import Case, Experiment

from sftref.trainers import make_trainer

pytestmark = [pytest.mark.jax, pytest.mark.usefixtures("optimized")]


def test_a_trainer_on_one_device_copies_nothing_more() -> None:
    """The donated state MUST be updated in place, in any shape that a trainer keeps it in."""
    experiment = Experiment("float32", 1)
    case = Case(1, packed=True, micro=2)
    batch = experiment.batch(next(experiment.updates()), case, "uneven")

    def program(name: str) -> Any:
        trainer = make_trainer(name, experiment.program, jax.devices()[:1])
        return trainer.compiled(trainer.place(experiment.state()), trainer.put(batch))

    programs = {name: program(name) for name in ("single", "pmap", "mesh")}
    copies = {name: compiled.as_text().count(" copy(") for name, compiled in programs.items()}
    assert copies["pmap"] <= copies["single"] >= copies["mesh"] > 0
    aliased = {name: compiled.memory_analysis().alias_size_in_bytes for name, compiled in programs.items()}
    assert len(set(aliased.values())) == 1
