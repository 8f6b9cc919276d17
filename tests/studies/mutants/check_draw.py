"""Tests of the draw and of the proofs that need cosmic-ray: `tox -e mutants` runs them by the name of this file."""

from collections import Counter
from pathlib import Path

import pytest

from mutants import proofs
from mutants.__main__ import snapshot
from mutants.draw import ADAPTERS, MESH, files, mutants

LOSS = "train/loss.py"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snapshot(tmp_path_factory.mktemp("study"))[0]


def test_the_draw_is_a_function_of_the_seed_and_of_the_lines(package: Path) -> None:
    every_line = {adapter: {name: range(1, 1000) for name in files(package)} for adapter in ADAPTERS}
    drawn = mutants(package, every_line, 100, 0)
    assert len({(mutant.file, mutant.text) for mutant in drawn}) == 100
    assert drawn == mutants(package, every_line, 100, 0)
    other = mutants(package, every_line, 100, 1)
    assert Counter(mutant.file for mutant in other) == Counter(mutant.file for mutant in drawn)
    assert len({*drawn, *other}) > 150
    for mutant in drawn:
        source = (package / mutant.file).read_text().splitlines()
        assert source[mutant.line - 1].strip() == mutant.before.splitlines()[0].strip()
        compile(mutant.text, mutant.file, "exec")
    # Fifty lines later, most of the draw is the same.
    path = package / "train" / "step.py"
    path.write_text("\n" * 50 + path.read_text())
    again = {(mutant.file, mutant.after) for mutant in mutants(package, every_line, 100, 0)}
    assert len(again & {(mutant.file, mutant.after) for mutant in drawn}) > 90
    one = {MESH: {LOSS: [50]}}
    assert {mutant.file for mutant in mutants(package, {name: one.get(name, {}) for name in every_line}, 5, 0)} == {
        LOSS
    }


def test_cosmic_ray_makes_every_mutant_that_has_a_proof(package: Path) -> None:
    assert proofs.not_made(proofs.read(), package) == []


def test_a_proof_of_a_change_that_no_operator_makes_is_an_error(package: Path) -> None:
    line = "return LossSums(jnp.sum(w * losses), jnp.sum(w))"
    made = proofs.Proof(LOSS, line, line.replace("*", "+"), "")
    assert proofs.not_made([made], package) == []
    never = proofs.Proof(LOSS, line, line.replace("*", "plus"), "")
    assert proofs.not_made([made, never], package) == [f"{LOSS}: no operator changes {line!r} to {never.after!r}"]
