"""Every cell of the contract (observable x phase, observable x setting) has a law; the page shows what the laws do."""

import pytest
from coverage import OBSERVABLES, PAGE, PHASES, Laws, cells, page
from sftref.conformance.oracle import settings

pytestmark = pytest.mark.once

# Scores are computed from counts of two classes of equal weight.
NO_SCORES = {"3 labels", "regression", "unequal weights"}
VALUES = {value for values in settings.VALUES.values() for value in values} - {
    "some updates clipped", "all updates clipped", "all devices", "fewer devices", "two micro-batches", "short rows",
    "long rows", "no restart", "restart", "updates only", "gradients too",
} | {"clipping", "several devices", "micro-batches"}  # fmt: skip


def missing(asked: Laws) -> set[tuple[str, str]]:
    """The cells that no law asks for."""
    wanted = {(observable, column) for observable in OBSERVABLES for column in (*PHASES, *VALUES)}
    return wanted - {("scores", value) for value in NO_SCORES} - asked.keys()


def test_every_cell_has_a_law_at_standard() -> None:
    assert missing(cells("standard", only=("training.settings",))) == set()


def test_a_cell_without_a_law_is_seen() -> None:
    assert ("loss", "packed rows") in missing(cells("quick", only=("training.evaluation",)))


@pytest.mark.slow
def test_the_page_shows_what_the_laws_do() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(cells("quick"), cells("standard"))
