"""The table of settings: a covering array at each level, and runs that have what a row says."""

import itertools

import numpy as np
import pytest
from sftref.conformance.core.law import LEVELS
from sftref.conformance.faults.trainers.numpy_trainer import NumpyTrainer
from sftref.conformance.oracle import settings
from sftref.conformance.oracle.model import value_and_gradient
from sftref.conformance.oracle.updates import OracleTrainer, norm_of

pytestmark = pytest.mark.once


@pytest.mark.parametrize(("level", "strength"), [("standard", 2), ("full", 3)])
def test_every_combination_of_values_is_in_a_row(level: str, strength: int) -> None:
    rows = [row for lowest, row in settings.table() if LEVELS.index(lowest) <= LEVELS.index(level)]
    for names in itertools.combinations(settings.VALUES, strength):
        covered = {tuple(row[name] for name in names) for row in rows}
        assert covered == set(itertools.product(*(settings.VALUES[name] for name in names))), names


def test_a_quick_run_has_rows_of_its_own() -> None:
    assert {lowest for lowest, _ in settings.table()} == set(LEVELS)


class Nothing(NumpyTrainer):
    """Claims nothing."""

    capabilities = frozenset()


def test_a_trainer_that_claims_nothing_gets_the_first_values() -> None:
    free = {"labels", "clipping", "epsilon", "tokens"}
    for _, row in settings.table():
        plain = settings.supported(row, Nothing())
        assert {name for name in plain if plain[name] != settings.VALUES[name][0]} <= free
        assert settings.supported(row, NumpyTrainer()) == row


@pytest.mark.parametrize("number", [i for i, (level, _) in enumerate(settings.table()) if level != "full"])
def test_clipping_has_the_effect_that_its_name_says(number: int) -> None:
    row = dict(settings.table()[number][1])
    case, params, batches = settings.run_of(row, NumpyTrainer(), np.random.default_rng(number))
    run, clipped = OracleTrainer.start(case, params), 0
    for step, batch in enumerate(batches):
        norm = norm_of(value_and_gradient(case, run.params, batch, step).gradients)
        clipped += case.clip_norm is not None and norm > case.clip_norm
        run.step(batch)
    some = {"no clipping": {0}, "some updates clipped": set(range(1, len(batches)))}
    assert clipped in some.get(row["clipping"], {len(batches)})


@pytest.mark.parametrize("row", [row for _, row in settings.table() if row["precision"] == "bfloat16"][:3])
def test_adam_does_not_take_the_sign_of_the_rounding_of_bfloat16(row: settings.Row) -> None:
    case, _, _ = settings.run_of(row, NumpyTrainer(), np.random.default_rng(0))
    assert case.eps >= settings.BFLOAT16_EPS


@pytest.mark.parametrize(
    ("n", "any_rows", "even_rows"), [(8, 5, 6), (6, 5, 3), (5, 3, 3), (4, 3, 3), (3, 2, 2), (2, 1, 1)]
)
def test_fewer_devices_are_no_power_of_two_if_possible(n: int, any_rows: int, even_rows: int) -> None:
    row = settings.table()[0][1] | {"devices": "fewer devices"}
    assert settings.devices_of(row, NumpyTrainer(), n) == any_rows
    assert (
        settings.devices_of(settings.supported(row, Nothing()) | {"devices": "fewer devices"}, Nothing(), n)
        == even_rows
    )


def test_a_quick_run_trains_on_a_number_of_devices_that_is_no_power_of_two() -> None:
    [row] = [row for level, row in settings.table() if level == "quick"]
    assert row["devices"] == "fewer devices"
